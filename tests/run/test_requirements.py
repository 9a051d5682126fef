"""What jobs need of their checkpoints and data is checked before any of them starts."""

import json
from pathlib import Path

import pytest
import torch

from dllmquant_exp.__main__ import main
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import random_checkpoint
from dllmquant_exp.models.published_shapes import SHAPES
from dllmquant_exp.run.requirements import check_jobs, check_left
from dllmquant_exp.run.sweep.composition import compose_jobs

ROWS = {
    "piqa": {"goal": "g", "sol1": "a", "sol2": "b", "label": 0},
    "gsm8k": {"question": "q", "answer": "1 #### 1"},
}
GROUPS = "quant.weight_granularity=per_group quant.group_size="
LOCAL = "model=llada_8b model.checkpoint=small data_root=data "


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small checkpoint, one with a width that no Hadamard matrix has, and data with few rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    random_checkpoint("llada", "small", d_model=32)
    random_checkpoint("llada", "odd", d_model=32)
    config = json.loads(Path("odd/config.json").read_text())
    Path("odd/config.json").write_text(json.dumps(config | {"mlp_hidden_size": 116}))
    Path("data").mkdir()
    for name, count in (("piqa_val", 2), ("piqa_train", 3), ("gsm8k_train", 4), ("gsm8k_test", 2)):
        row = ROWS[name.partition("_")[0]]
        rows = [row | {"goal": f"{name} {i}", "question": f"{name} {i}"} for i in range(count)]
        Path(f"data/{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


CASES = [
    (f"method=rtn {GROUPS}100", "micro_llada: group_size = 100 does not divide the 192 inputs"),
    (f"method=gptq {GROUPS}96", "group_size = 96 does not divide the 512 inputs of down_proj"),
    (f"method=fp {GROUPS}100", None),
    (f"method=rtn {GROUPS}64", None),
    (
        "method=rtn quant.activation_granularity=per_group quant.group_size=7",
        "group_size = 7 does not divide",
    ),
    ("method=rtn quant.attention.k_bits=4 quant.attention.k_group=20", "k_group = 20 does not"),
    ("method=rtn quant.attention.k_bits=4 quant.attention.k_group=64", None),
    ("method=quarot model.checkpoint=odd model.outliers=null", "d_ffn = 116 has no Hadamard"),
    ("method=gptq model.checkpoint=odd model.outliers=null", None),
    (f"model=dream_7b task=piqa method=rtn {GROUPS}100", "divide the 3584 inputs of q_proj"),
    ("method=gptq calibration.texts=[nope]", "no training data nope for calibration"),
    (
        "task=micro_gsm8k method=fp decoding.gen_length=2048 decoding.steps=2048",
        "gen_length = 2048 leaves no room for a prompt",
    ),
    (f"{LOCAL} task=piqa method=fp", None),
    (f"{LOCAL} task=gsm8k method=fp", r"gsm8k_train\.jsonl: 4 rows to take examples from"),
    (f"{LOCAL} task=winogrande method=fp", r"lacks winogrande_xl_val\.jsonl\.gz"),
    (
        f"{LOCAL} task=piqa method=fp task.tasks.piqa.settings.llada_base.shots=2",
        r"piqa_val\.jsonl: 1 rows to take examples from, and piqa shows 2",
    ),
    (f"{LOCAL} task=piqa method=gptq calibration.texts=[piqa]", "has 3 training rows, fewer than"),
    (f"{LOCAL} task=piqa method=gptq calibration.texts=[piqa] calibration.samples=3", None),
    (
        f"{LOCAL} task=piqa method=fp model.same_as=GSAI-ML/LLaDA-8B-Base",
        "LLaDA-8B-Base has d_model = 4096, and this checkpoint 32",
    ),
]


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_conditions_of_a_job(line: str, message: str | None) -> None:
    words = line.split()
    words += [] if any(word.startswith("task=") for word in words) else ["task=micro_piqa"]
    jobs = compose_jobs(Overrides.read(words))
    if message is None:
        check_jobs(jobs)
        return
    with pytest.raises(ConfigError, match=message):
        check_jobs(jobs)


def test_broken_rows_are_named_with_their_line_and_all_problems_at_once() -> None:
    for name in ("piqa_val", "piqa_train"):
        with Path(f"data/{name}.jsonl").open("a") as file:
            file.write("\n{}")
    line = f"-m {LOCAL} task=piqa method=fp,gptq calibration.texts=[piqa] {GROUPS}5"
    with pytest.raises(ConfigError) as refusal:
        check_jobs(compose_jobs(Overrides.read(line.split())))
    text = str(refusal.value)
    assert "piqa_val.jsonl, line 3: no field goal" in text and "group_size = 5" in text
    assert "piqa_train.jsonl, line 4: no field goal" in text
    assert text.count("piqa_val.jsonl, line 3") <= 2  # evaluated, and kept out of calibration


@pytest.mark.parametrize("command", [["plan", "-m"], ["-m"], []], ids=" ".join)
def test_a_late_job_stops_the_sweep_before_it_starts(
    folder: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    methods = "fp,gptq,rtn" if command else "gptq"
    words = [*command, f"method={methods}", *f"{GROUPS}100".split(), "task=micro_piqa", "limit=2"]
    words += [] if "plan" in command else ["tracking=off", "runs_dir=late"]
    assert main(words) == 2
    assert "group_size = 100 does not divide the 192 inputs" in capfd.readouterr().err
    assert not list(folder.rglob("result.json"))


def test_what_is_finished_needs_nothing_any_more(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what the user says of the weights is put into its result."""
    words = [*LOCAL.split(), "task=piqa", "method=fp", "limit=2", "decoding.mc_num=1"]
    words += ["tracking=off", "threads=1"]
    assert main(words) == 0
    Path("data/piqa_val.jsonl").unlink()
    check_left(compose_jobs(Overrides.read(words)))
    (path,) = folder.rglob("result.json")
    before = json.loads(path.read_text())
    monkeypatch.setitem(SHAPES, "GSAI-ML/LLaDA-8B-Base", None)  # whatever its shape
    assert main(["-m", *words, "model.same_as=GSAI-ML/LLaDA-8B-Base"]) == 0
    assert "which the user states is GSAI-ML/LLaDA-8B-Base" in " ".join(
        capfd.readouterr().out.split()
    )
    after = json.loads(path.read_text())
    assert after["cell"].pop("same_as") == "GSAI-ML/LLaDA-8B-Base"
    assert after["items"] == before["items"] and after["cell"] == before["cell"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("launcher=submitit_local device=cuda", "gpus_per_node = 0 is all that a job gets"),
        ("launcher=slurm device=cuda:1 launcher.gpus_per_node=1", "set launcher.gpus_per_node=2"),
        ("launcher=slurm device=cuda +launcher.extra.gres=gpu:1", None),
        ("launcher=slurm device=cuda launcher.gpus_per_node=1", None),
        ("launcher=joblib device=cuda", None),
        ("launcher=submitit_local runs_dir=out%j", "out%j holds a %"),
        ("launcher=slurm runs_dir=a/%x/b", "a/%x/b holds a %"),
        ("launcher=joblib runs_dir=out%j", None),
    ],
)
def test_launchers_give_jobs_what_they_ask_for(words: str, message: str | None) -> None:
    line = Overrides.read(["-m", "method=fp", "task=micro_piqa", *words.split()])
    if message is None:
        compose_jobs(line)
        return
    with pytest.raises(ConfigError, match=message):
        compose_jobs(line)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model=llada_8b model.checkpoint=small model.same_as=GSAI-ML/LLaDA", "is not one of:"),
        ("model=llada_8b model.same_as=GSAI-ML/LLaDA-8B-Base", "says it itself; leave it out"),
        ("model=micro_llada +model.same_as=GSAI-ML/LLaDA-1.5", "says it itself; leave it out"),
    ],
)
def test_statements_about_weights_that_say_nothing_are_refused(words: str, message: str) -> None:
    task = "micro_piqa" if "micro" in words else "piqa"
    with pytest.raises(ConfigError, match=message):
        compose_jobs(Overrides.read([*words.split(), f"task={task}", "method=fp"]))
