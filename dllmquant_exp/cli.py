"""Help and subcommands: everything on the command line that is not a composition for Hydra."""

import gc
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_args

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

import dllmquant_exp
from dllmquant_exp.command_help import HELP
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.store.results import TABLES_SWEEP
from dllmquant_exp.store.schema import read, unknown_key
from dllmquant_exp.store.tracking import TrackingSettings, check_tracking

PROGRAM = "python -m dllmquant_exp"
COMMANDS = {
    "plan": "print what a sweep will take (time, memory, disk per cell) without running it",
    "train": "train an embedded model by its recipe; a killed training goes on where it stopped",
    "report": "print the table of a sweep from its result files; report table=table1 (to 6, "
    "or all): the paper's table; report claims: a verdict on each of its claims; report audit: "
    "what does not add up in its numbers. The last three write files as well",
    "figures": "measure and draw: figures figure=1 (to 9, or all) model=micro_llada prompts=64",
    "random-checkpoint": "write a small random checkpoint in an official layout, to try things on",
}
GROUPS = {
    "model": "which checkpoint",
    "method": "full precision, or how it is quantized",
    "row": "a row of the paper's tables: a method and its components at once",
    "table": "a table of the paper, or all of them: a sweep over its models, rows and tasks; "
    "controls=on adds its baselines calibrated on as many samples as TMAS has",
    "models": "what a table spans: the embedded models, all of them in every table, or the paper's",
    "tmas": "Temporal-Mask Adaptive Sampling of calibration states: +tmas=on",
    "cgq": "Certainty-Guided Quantization, weights of tokens: +cgq=on",
    "iaaq": "Interaction-Aware Activation Quantization, the scale of values: +iaaq=on",
    "launcher": "where the jobs of a sweep run",
    "calibration": "what is calibrated on where tmas is off",
    "quant": "bits, grids and granularities (fp ignores it)",
    "task": "one task, or a suite",
    "decoding": "published settings, or what replaces them",
    "tracking": "W&B: where runs are logged",
}
EXAMPLES = (
    ("-m method=fp,rtn limit=100",
     "the main job: the embedded model, in full precision and at W4A4, on its nine tasks"),
    ("-m method=awq,quarot +tmas=on",
     "two methods, calibrated on states that TMAS picks from decodes"),
    ("table=table1",
     "the cells of the paper's Table 1, on the embedded models"),
    ("-m model=llada_8b method=fp,rtn task=nine device=cuda dtype=bfloat16 sweep=llada",
     "LLaDA-8B on the paper's nine tasks, as a sweep of its own"),
    ("report table=table1",
     "that table beside the paper's rows, as Markdown, LaTeX, HTML, CSV, from its result files"),
)  # fmt: skip


def dispatch(words: Sequence[str], config_folder: Path) -> int | None:
    """Handle help and subcommands. Returns an exit status, or None where Hydra is meant."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that does not know a letter
            stream.reconfigure(errors="backslashreplace")
    if words and _is_command(words[0]):
        return _run_command(words[0], words[1:], config_folder)
    if {"-h", "--help"} & set(words):
        print_help(config_folder, Console())
        return 0
    if list(words) == ["--version"]:
        print(f"dllmquant-exp {dllmquant_exp.__version__}")
        return 0
    return None


def _is_command(word: str) -> bool:
    return "=" not in word and word[:1] not in ("-", "+", "~")


def _run_command(name: str, words: Sequence[str], config_folder: Path) -> int:
    if name in HELP and {"-h", "--help"} & set(words):
        print(HELP[name], end="")
        return 0
    try:
        if name == "train":
            from dllmquant_exp.models.embedded.train import main

            return main(list(words))
        if name == "report":
            with _without_gc():
                return report(words, config_folder)
        if name == "figures":
            from dllmquant_exp.probes.command import main as figures

            return figures(words, config_folder)
        if name == "plan":
            from dllmquant_exp.run.plan.command import plan

            return plan(words, config_folder, Console())
        if name == "random-checkpoint":
            return random_checkpoint(words)
        raise ConfigError(
            f"{name!r} is not a command (there are: {', '.join(COMMANDS)}); settings are written "
            f"setting=value, see {PROGRAM} --help"
        )
    except Refusal as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def read_settings(
    command: str, words: Sequence[str], defaults: Mapping[str, str | None]
) -> dict[str, str]:
    """`key=value` words over defaults; a default of None must be given.

    Raises:
        ConfigError: a word without `=`, an unknown key, or a missing one.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            usage = " ".join(f"{k}=..." if v is None else f"[{k}={v}]" for k, v in defaults.items())
            raise ConfigError(f"{word!r} is not setting=value; usage: {PROGRAM} {command} {usage}")
        if key not in defaults:
            raise ConfigError(unknown_key(key, defaults, command))
        if key in given:
            raise ConfigError(f"{key} is given twice")
        given[key] = value
    missing = [key for key, value in defaults.items() if value is None and key not in given]
    if missing:
        raise ConfigError(f"{command} needs {' and '.join(f'{key}=...' for key in missing)}")
    return {**{k: v for k, v in defaults.items() if v is not None}, **given}


@contextmanager
def _without_gc() -> Iterator[None]:
    """A report reads a million small objects, none of them garbage: looking for cycles in them,
    again and again, takes a tenth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def report(words: Sequence[str], config_folder: Path) -> int:
    """`report [sweep=...]`, `report table=...`, `report claims` and `report audit`."""
    if words[:1] == ["audit"]:
        from dllmquant_exp.reporting.commands import report_audit

        values = read_settings("report audit", words[1:], _FILES)
        return report_audit(_report_folder(values))
    if words[:1] == ["claims"]:
        from dllmquant_exp.reporting.commands import report_claims
        from dllmquant_exp.reporting.tables.presets import read_presets

        values = read_settings("report claims", words[1:], _PAPER_REPORT)
        return report_claims(
            Path(values["runs_dir"]),
            values["sweep"],
            _report_folder(values),
            values["format"],
            read_presets(config_folder),
            _models(values),
        )
    if words and "=" not in words[0]:
        pages = "report sweep=..., report table=table1 (to 6, or all), report claims, report audit"
        raise ConfigError(f"there is no report {words[0]!r} (there are: {pages})")
    if any(word.startswith("table=") for word in words):
        from dllmquant_exp.reporting.commands import report_tables
        from dllmquant_exp.reporting.tables.presets import read_presets

        defaults = {"table": None, **_PAPER_REPORT, "tracking": "off"}
        values = read_settings("report", words, defaults)
        return report_tables(
            values["table"],
            Path(values["runs_dir"]),
            values["sweep"],
            _report_folder(values),
            values["format"],
            read_presets(config_folder),
            _tracking(config_folder, values["tracking"]),
            _models(values),
        )
    return _report_sweep(words)


_FILES = {"runs_dir": "runs", "sweep": TABLES_SWEEP, "folder": ""}
_PAPER_REPORT = {**_FILES, "model": "", "format": "all"}


def _models(values: Mapping[str, str]) -> list[str]:
    """Those that are named, separated by commas; none means all."""
    return [name.strip() for name in values["model"].split(",") if name.strip()]


def _report_folder(values: Mapping[str, str]) -> Path:
    """Where files go; by default beside the cells, where no sweep looks for results."""
    return Path(values["folder"] or Path(values["runs_dir"], values["sweep"], "report"))


def _tracking(config_folder: Path, name: str) -> TrackingSettings:
    """An option of the group `tracking`, checked.

    Raises:
        ConfigError, TrackingError: no such option, or one that cannot be used here.
    """
    options = {path.stem: path for path in sorted((config_folder / "tracking").glob("*.yaml"))}
    if name not in options:
        raise ConfigError(f"tracking = {name!r} is not one of: {', '.join(options)}")
    settings = read(TrackingSettings, yaml.safe_load(options[name].read_text("utf-8")), "tracking")
    check_tracking(settings, os.environ)
    return settings


def _report_sweep(words: Sequence[str]) -> int:
    """`report [sweep=default] [runs_dir=runs] [model=...] [format=table|csv]`."""
    from dllmquant_exp.reporting.frame import lines_of, of_models, read_sweep
    from dllmquant_exp.reporting.speed_pages import print_speed_cells
    from dllmquant_exp.reporting.tables.sweep_table import (
        build_tables,
        missing,
        print_tables,
        to_csv,
    )
    from dllmquant_exp.store.unfinished import unfinished_cells

    values = read_settings(
        "report", words, {"sweep": "default", "runs_dir": "runs", "model": "", "format": "table"}
    )
    if values["format"] not in ("table", "csv"):
        raise ConfigError(f"format = {values['format']!r} is not one of: table, csv")
    runs_dir, sweep, models = Path(values["runs_dir"]), values["sweep"], _models(values)
    cells, problems = read_sweep(runs_dir, sweep)
    cells = of_models(cells, models)
    unfinished = unfinished_cells(runs_dir, sweep, models)
    tables = build_tables(cells)
    if values["format"] == "csv":
        print(to_csv(tables), end="")
        for gap in (gap for table in tables for gap in missing(table)):
            print(f"missing: {gap}", file=sys.stderr)
        for problem in problems:
            print(f"unreadable: {problem}", file=sys.stderr)
    else:
        print_speed_cells(lines_of(cells), Console())
        print_tables(tables, problems, Console())
    if cells.empty:
        print(f"no results in {runs_dir / sweep} yet", file=sys.stderr)
    for line in unfinished:
        print(f"unfinished: {line}", file=sys.stderr)
    whole = not cells.empty and bool((cells["status"] == "finished").all())
    return 0 if whole and not (problems or unfinished or any(t.gaps for t in tables)) else 1


def random_checkpoint(words: Sequence[str]) -> int:
    """`random-checkpoint architecture=llada|dream folder=DIR [seed=0] ...`."""
    from dllmquant_exp.models.checkpoints import random_checkpoint as write
    from dllmquant_exp.models.transformer import Architecture

    values = read_settings(
        "random-checkpoint",
        words,
        {
            "architecture": None,
            "folder": None,
            "seed": "0",
            "d_model": "64",
            "n_layers": "2",
            "max_length": "2048",
            "tokenizer_from": "",
        },
    )
    if values["architecture"] not in get_args(Architecture):
        known = ", ".join(get_args(Architecture))
        raise ConfigError(f"architecture = {values['architecture']!r} is not one of: {known}")
    folder = write(
        cast(Architecture, values["architecture"]),
        values["folder"],
        seed=_whole_number(values, "seed"),
        tokenizer_from=values["tokenizer_from"] or None,
        d_model=_whole_number(values, "d_model"),
        n_layers=_whole_number(values, "n_layers"),
        max_length=_whole_number(values, "max_length"),
    )
    print(f"wrote {folder}")
    return 0


def _whole_number(values: Mapping[str, str], name: str) -> int:
    if not values[name].isdecimal():
        raise ConfigError(f"{name} = {values[name]!r} is not a whole number")
    return int(values[name])


def print_help(config_folder: Path, console: Console) -> None:
    """What can be composed: groups with their options, common settings, commands, examples."""

    def say(text: str = "", style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    say(f"{PROGRAM} [-m] [group=option ...] [setting=value ...]", "bold")
    say(f"{PROGRAM} command [setting=value ...] (each has its own --help)\n", "bold")
    say(
        "Runs a diffusion language model, quantized or not, on a suite of tasks, writes one\n"
        "result file per task and prints the table. -m runs every combination of values that\n"
        "are separated by commas.\n"
    )
    groups = {group: f"{text}\n{_options(config_folder, group)}" for group, text in GROUPS.items()}
    for title, rows in (
        ("groups", groups),
        ("settings", common_settings(config_folder)),
        ("commands", COMMANDS),
    ):
        say(title, "bold")
        console.print(_rows(rows))
    say("examples", "bold")
    for number, (line, text) in enumerate(EXAMPLES, 1):
        say(f"  {number}. {text}")
        say(f"     {PROGRAM} {line}", "cyan")
    say(
        "\nAny setting inside a group can be given too, as in quant.weight_bits=3. --cfg job\n"
        "prints the composed configuration without running it; --hydra-help is Hydra's own help."
    )


def common_settings(config_folder: Path) -> dict[str, str]:
    """`name=default` and the comment of every top-level setting of config.yaml."""
    text = (config_folder / "config.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"^(\w+): (\S+) +# (.+)$", text, flags=re.MULTILINE)
    return {f"{name}={default}": comment for name, default, comment in lines}


def _options(config_folder: Path, group: str) -> str:
    return ", ".join(sorted(path.stem for path in (config_folder / group).glob("*.yaml")))


def _rows(rows: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for left, right in rows.items():
        table.add_row(Text(left), Text(right))
    return table
