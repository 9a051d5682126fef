"""The command line: help, subcommands, sweeps, and bad input with its message and exit status."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from hydra import compose, initialize_config_dir

from dllmquant_exp import cli
from dllmquant_exp.__main__ import main
from dllmquant_exp.config import help
from dllmquant_exp.config.command import CONSOLE
from dllmquant_exp.config.experiment import GROUPS, resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.reporting.render import FORMATS
from dllmquant_exp.run.sweep import composition

REPOSITORY = Path(__file__).resolve().parents[1]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """call(words...): exit status, output and error stream of one command line, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(words)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def small(checkpoint: Path, *words: str) -> list[str]:
    return [f"model.checkpoint={checkpoint}", "limit=2", "tracking=off", "threads=1", *words]


def test_help_teaches_every_group_option_setting_and_command(call: Call) -> None:
    status, out, _ = call("--help")
    assert status == 0
    words = out.replace(",", " ").split()
    for group in GROUPS:
        assert group in words
        for path in (config_folder() / group).glob("*.yaml"):
            assert path.stem in words, path
    for setting in ("runs_dir=runs", "data_root=null", "limit=null", "seed=0", "device=cpu"):
        assert setting in words
    for command in cli.COMMANDS:
        assert command in words
    assert out.count("python -m dllmquant_exp ") >= 5


PAGES = [*cli.COMMANDS, *(f"report {page}" for page in cli.REPORTS)]


@pytest.mark.parametrize("command", PAGES)
def test_every_command_has_help_with_its_settings(call: Call, command: str) -> None:
    status, out, err = call(*command.split(), "--help")
    assert (status, err) == (0, "")
    name, _, page = command.partition(" ")
    assert out.startswith(f"usage: python -m dllmquant_exp {name} ")
    settings = (cli.REPORTS[page] if page else cli.COMMANDS[name]).settings
    for key, setting in settings.items():
        assert f"  {key}=" in out and setting.help in out


def test_figures_and_formats_are_those_of_their_rooms() -> None:
    assert all(kind in cli.REPORTS["table"].settings["format"].help for kind in FORMATS)
    assert cli.COMMANDS["random-checkpoint"].settings["architecture"].choices == get_args(
        Architecture
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("figures figur=1", "did you mean 'figure'"),
        ("figures figure", "'figure' is not setting=value"),
        ("figures prompts=1 prompts=2", "prompts is given twice"),
        ("figures prompts=few", "prompts = 'few' is not a whole number"),
        ("figures modle=micro_llada", "did you mean 'model'"),
        ("plan limt=3", "did you mean 'limit'"),
        ("plan utilization=1", "did you mean 'utilisation'"),
        ("train model=nope", "there are: micro_llada, micro_dream"),
        ("train step=3", "did you mean 'steps'"),
        ("report tabel=table1", "did you mean 'table'"),
        ("report format=pdf", "format = 'pdf' is not one of: table, csv"),
        ("random-checkpoint seed=x", "seed = 'x' is not a whole number"),
        ("random-checkpoint d_model=-1", "d_model = -1 must be at least 1"),
        ("plann", "did you mean 'plan'"),
        ("plan --config-dir nowhere", "nowhere is not a folder of options"),
        ("plan --method awq", "settings are written without dashes: method=..."),
        ("report --sweep seeds", "settings are written without dashes: sweep=..."),
        ("--method awq", "settings are written without dashes: method=..."),
        ("hydra.swep.dir=x", "hydra.swep is not a setting (did you mean 'sweep'?)"),
        ("method=aqw", "method has no option 'aqw' (did you mean 'awq'?)"),
        ("-m task=micro_piqa,micro_ark", "did you mean 'micro_arc'"),
        ("ls methods", "there is no group 'methods'"),
    ],
)
def test_commands_refuse_what_they_do_not_know(call: Call, line: str, message: str) -> None:
    status, _, err = call(*line.split())
    assert status == 2 and message in err


def test_refusals_and_help_import_nothing_heavy() -> None:
    """Their time is that of their imports."""
    code = (
        "import sys; from dllmquant_exp.__main__ import main; status = main({line!r}.split()); "
        "sys.exit(bool({{'torch', 'pandas', 'transformers'}} & set(sys.modules)) or status not in "
        "(0, 2))"
    )
    for line in (
        "--help",
        "limt=3",
        "-m metod=fp,rtn",
        "plan limt=3",
        "figures promts=1",
        "train x=1",
        "report swep=x",
        "report tabel=1",
        "random-checkpoint x=1",
        "hydra.swep.dir=x",
        "method=aqw",
        "ls",
        "cite",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(line=line)], capture_output=True, cwd=REPOSITORY
        )
        assert done.returncode == 0, (line, done.stderr)


def test_the_console_command_is_the_same_program(call: Call) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {CONSOLE: "dllmquant_exp.__main__:main"}
    status, out, _ = call("cite")
    assert status == 0 and out.startswith("@article{")
    assert "micro_llada" in call("ls")[1] and "quant.weight_bits=4" in call("ls", "quant")[1]


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_missing_calibration_texts_are_known_before_a_job_starts(
    call: Call, checkpoint: Path, tmp_path: Path, sweep: list[str]
) -> None:
    (tmp_path / "data").mkdir()
    for file in ("winogrande_xl_train", "winogrande_xl_val", "piqa_val"):
        (tmp_path / "data" / f"{file}.jsonl").write_text("{}\n")
    words = ["model=llada_8b", "data_root=data", "task=piqa", "method=gptq"]
    words = small(checkpoint, *words, "calibration.texts=[piqa]")
    status, _, err = call(*sweep, *words)
    assert status == 2 and "lacks piqa_train.jsonl.gz" in err
    assert "model.calibration.texts=[winogrande]" in err
    assert not list(tmp_path.rglob("result.json"))


def test_hydras_own_settings_are_known() -> None:
    words = ["hydra.sweep.dir=x", "hydra.run.dir=x", "hydra.mode=MULTIRUN", "hydra.job.num=1"]
    words += ["hydra/launcher=on_slurm", "hydra.launcher.n_jobs=2", "hydra.sweeper.params.seed=1"]
    Overrides.read(words).check_names()


def test_options_of_a_users_folder_are_offered_and_planned(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for group in ("row", "tracking", "models"):
        (tmp_path / "mine" / group).mkdir(parents=True)
    (tmp_path / "mine" / "row" / "mild.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: rtn\n  - override /quant: w8a8\n"
        "row: {name: mild, label: RTN at 8}\n"
    )
    (tmp_path / "mine" / "tracking" / "none.yaml").write_text(
        "mode: 'off'\nproject: p\nentity: null\n"
    )
    status, out, _ = call("--help", "--config-dir", "mine")
    assert status == 0 and "yours: mild" in out and "yours: none" in out
    assert "yours" not in call("--help")[1]
    words = ("row=mild", "task=micro_arc", "limit=1", "throughput=1e12")
    for given in (["--config-dir", "mine"], ["hydra.searchpath=[mine]"]):
        status, out, err = call("plan", *words, *given)
        assert status == 0, err
        assert "rtn w8a8" in out
    report = ("report", "table=table1", "tracking=none", "--config-dir", "mine")
    assert "no sweep 'tables' in runs" in call(*report)[2]


def test_a_users_row_runs_and_is_recorded(call: Call, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "row").mkdir(parents=True)
    (tmp_path / "mine" / "row" / "mild.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: rtn\n  - override /quant: w8a8\n"
        "row: {name: mild, label: RTN at 8}\n"
    )
    words = small(checkpoint, "task=micro_piqa", "--config-dir", "mine")
    for line in (["row=mild"], ["-m", "row=rtn,mild", "method.gptq.damp=1"]):
        call(*line, *words)
    status, _, err = call("-m", "row=rtn,mild", *words)
    assert status == 0, err
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("result.json")]
    assert sorted(r["row"]["label"] for r in results) == ["RTN", "RTN at 8"]


def test_a_single_run_is_resolved_once(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, whole = [], composition.experiment_of
    monkeypatch.setattr(
        composition, "experiment_of", lambda *given: resolved.append(given) or whole(*given)
    )
    monkeypatch.setattr("dllmquant_exp.run.job.run", lambda experiment, keep_going: [])
    for number in (1, 2):
        status, _, err = call("task=micro_arc", "tracking=off")
        assert (status, len(resolved)) == (0, number), err


def test_every_setting_of_config_yaml_is_in_the_help() -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = to_mapping(compose("config"))
    named = {line.partition("=")[0] for line in help.common_settings()}
    assert named == set(config) - {*GROUPS, "models"}


def test_the_five_worked_commands_compose() -> None:
    assert len(help.EXAMPLES) == 5
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for line, _ in help.EXAMPLES:
            words = [word for word in line.split() if word != "-m"]
            if words[0] in cli.COMMANDS:
                continue
            first = [word.partition(",")[0] for word in words]
            assert resolve(to_mapping(compose("config", first)), first).tasks


def test_version(call: Call) -> None:
    assert call("--version")[1] == "dllmquant-exp 0.1.0\n"


def test_flags_may_stand_anywhere(call: Call) -> None:
    status, _, err = call("device=gpu", "-m", "seed=0,1")
    assert (status, err) == (2, "error: device = 'gpu' is not one of: cpu, cuda, cuda:N\n")


def test_a_sweep_prints_its_table_and_a_second_call_redoes_nothing(
    call: Call, checkpoint: Path, tmp_path: Path
) -> None:
    words = ["-m", "method=fp,rtn", "task=micro_piqa", *small(checkpoint)]
    status, out, err = call(*words)
    assert status == 0, err
    assert "PIQA" in out and "change from fp" in out and "±" in out
    cells = sorted(p.name for p in (tmp_path / "runs" / "default").iterdir())
    assert [name[:-8] for name in cells] == [
        "micro_llada-fp-micro_piqa-s0-", "micro_llada-rtn-micro_piqa-s0-",
    ]  # fmt: skip
    files = sorted((tmp_path / "runs").rglob("*"))
    times = [f.stat().st_mtime_ns for f in files if f.is_file()]

    again = call(*words)
    assert again[:2] == (0, out)
    assert "cells that are finished already: 2; 0 jobs to do" in again[2]
    assert sorted((tmp_path / "runs").rglob("*")) == files
    assert [f.stat().st_mtime_ns for f in files if f.is_file()] == times

    assert call("report")[:2] == (0, out)
    csv = call("report", "format=csv")[1]
    assert csv.splitlines()[0].startswith("table,row,task") and "rtn w4a4,micro_piqa" in csv


def test_a_failing_job_of_a_sweep_is_shown_and_the_others_finish(
    call: Call, checkpoint: Path, tmp_path: Path
) -> None:
    paths = f"model.checkpoint={tmp_path / 'nowhere'},{checkpoint}"
    words = ["-m", "task=micro_piqa", *small(checkpoint)[1:], paths]
    status, out, err = call(*words)
    assert status == 1
    assert "failed" in out and "neither a folder that exists" in " ".join(out.split())
    assert "Traceback" not in err
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("result.json")]
    assert sorted(r["status"] for r in results) == ["failed", "finished"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=foo"], "Available options in 'method':"),
        (["limt=3"], "did you mean 'limit'"),
        (["+limt=3"], "did you mean 'limit'"),
        (["task=micro_gsm8k", "decoding.block_length=7"], "block_length = 7 does not divide"),
        (["model.checkpoint=nowhere"], "neither a folder that exists nor a hub id"),
        (["tracking=online"], "needs a W&B key"),
        (["runs_dir=a_file/runs"], "the runs folder a_file/runs/default cannot be written"),
        (["data_root=nowhere"], "data_root = nowhere is not a folder"),
        (["task=piqa", "data_root=empty"], "piqa_val.jsonl"),
        (["launcher=joblib"], "launcher=joblib places the jobs of a sweep"),
        (["-m", "method=fp,foo"], "Available options in 'method':"),
        (["-m", "method=fp,rtn", "runs_dir=a_file/runs"], "cannot be written"),
        (["-m", "seed=0,1", "task=micro_gsm8k", "decoding.block_length=7"], "does not divide"),
        (["frobnicate"], "'frobnicate' is not a command (there are: ls, cite, plan, train, report"),
        (["report", "sweep=nope"], "no sweep 'nope'"),
        (["report", "swep=nope"], "did you mean 'sweep'"),
        (["report", "nope"], "there is no report 'nope'"),
        (["report", "table=table1"], "no sweep 'tables' in runs"),
        (["report", "table=table7"], "'table7' is not one of: table1, table2, table3, table4"),
        (["report", "table=table1", "format=pdf"], "'pdf' is not one of: markdown, latex"),
        (["report", "table=table1", "tracking=on"], "'on' is not one of: off, offline, online"),
        (["report", "table=table1", "tracking=online"], "needs a W&B key"),
        (["report", "claims", "table=table1"], "report claims.table is not a setting"),
        (["report", "claims"], "no sweep 'tables' in runs"),
        (["report", "audit", "folder=a_file/x"], "audit.md cannot be written"),
        (["random-checkpoint", "folder=x"], "needs architecture=..."),
        (["random-checkpoint", "architecture=gpt", "folder=x"], "not one of: llada, dream"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named_and_nothing_is_written(
    call: Call, checkpoint: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "a_file").write_text("")
    (tmp_path / "empty").mkdir()
    if words[0] == "-m" or "=" in words[0]:  # the words under test come last and win
        words = [*small(checkpoint), *words]
    status, out, err = call(*words)
    assert status in (1, 2)
    assert message in err
    assert "Traceback" not in err + out
    assert not list(tmp_path.rglob("result.json"))
    assert not [p for p in tmp_path.glob("runs/*/*") if p.name != ".hydra"]


def test_a_gpu_that_is_not_there(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in (["device=cuda"], ["-m", "device=cuda", "seed=0,1"]):
        status, _, err = call(*words)
        assert status == 2
        assert "device = cuda, but torch" in err and "use device=cpu" in err
        assert not (tmp_path / "runs").exists()


def test_random_checkpoints_are_written_and_run(call: Call, tmp_path: Path) -> None:
    words = ("architecture=llada", "folder=new", "d_model=32", "seed=5")
    status, out, _ = call("random-checkpoint", *words)
    assert (status, out) == (0, "wrote new\n")
    status, _, err = call("task=micro_piqa", *small(tmp_path / "new", "method=fp"))
    assert status == 0, err


def test_a_crash_of_the_report_is_not_a_success(
    call: Call, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra turns exceptions of callbacks into warnings; ours must not pass as success."""

    def crash(*_: object) -> None:
        raise RuntimeError("the table broke")

    monkeypatch.setattr("dllmquant_exp.reporting.reports.sweep_sections", crash)
    status, _, err = call("task=micro_piqa", *small(checkpoint))
    assert status == 1
    assert "the table broke" in err


def test_an_interruption_says_how_to_go_on(
    call: Call, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dllmquant_exp.run.job.evaluate_task", interrupt)
    status, _, err = call("task=micro_piqa", *small(checkpoint))
    assert status == 130
    assert "the same command goes on" in err and "Traceback" not in err


@pytest.mark.parametrize("module", ["dllmquant_exp.cli", "hydra", "torch"])
def test_an_interruption_while_modules_are_imported_prints_no_traceback(
    tmp_path: Path, module: str
) -> None:
    start = f"""
import builtins, runpy
found = builtins.__import__
def interrupted(name, globals=None, locals=None, fromlist=(), level=0):
    if {module!r} in (name, *(f"{{name}}.{{one}}" for one in fromlist or ())):
        raise KeyboardInterrupt
    return found(name, globals, locals, fromlist, level)
builtins.__import__ = interrupted
runpy.run_module("dllmquant_exp", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", start, "limit=2", "tracking=off"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr and "goes on from here" in done.stderr


def test_a_reader_that_has_enough_gets_no_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dllmquant_exp", "ls"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141 and process.stderr.read() == ""


@pytest.mark.parametrize("word", ["runs_dir=~/kept", "runs_dir='~/kept'"])
def test_the_home_folder_is_put_in_place_of_its_sign(
    call: Call, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    status, _, err = call("task=micro_piqa", *small(checkpoint), word)
    assert status == 0, err
    assert (tmp_path / "home" / "kept" / "default").is_dir()
    assert not list(tmp_path.glob("**/~"))


def test_the_module_runs_from_any_folder(tmp_path: Path) -> None:
    """The one test that pays for a process: exit status and message as a shell sees them."""
    done = subprocess.run(
        [sys.executable, "-m", "dllmquant_exp", "decoding.gen_length=0", "task=micro_gsm8k"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: task.tasks.micro_gsm8k")
    assert list(tmp_path.iterdir()) == []


def test_all_tables_are_one_sweep_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    statuses: Iterator[int] | None = iter([0, 1, 0, 0, 0, 0])

    def compose_one(line: Overrides) -> int:
        lines.append(line.texts)
        if statuses is None:
            raise KeyboardInterrupt
        return next(statuses)

    monkeypatch.setattr("dllmquant_exp.__main__._compose", compose_one)
    assert main(["table=all", "limit=5", "seed=0,1"]) == 1
    own = [[] if n == 4 else ["limit=5", "seed=0,1"] for n in range(1, 7)]  # speed has no items
    assert lines == [[f"table=table{n}", *own[n - 1]] for n in range(1, 7)]
    statuses = None
    assert main(["table=all"]) == 130 and len(lines) == 7, "an interruption ends them all"


def test_letters_that_the_output_does_not_know_stop_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "dllmquant_exp", "report", "audit", f"folder={tmp_path / 'out'}"],
        capture_output=True, check=True, env=environment, timeout=120,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert done.stdout.isascii() and (tmp_path / "out" / "audit.md").exists()
