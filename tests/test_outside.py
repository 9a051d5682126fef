"""A method, a sampler, a task, a model, a row and a table from a user's own folder, in one sweep.

Each is one class and one YAML, or one YAML; nothing of the package is touched.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dllmquant_exp.models.checkpoints import random_checkpoint

REPOSITORY = Path(__file__).resolve().parents[1]
MODULE = '''
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.states import CalibrationSet, sizes, unscored_state
from dllmquant_exp.quantization.method import Rounded, Rounding
from dllmquant_exp.quantization.quantizers import quantize_weight
from dllmquant_exp.store.schema import Above, AtMost, Settings


def clipped(quantizer, ratio):
    return replace(quantizer, clip_ratio=ratio, clip_search=None)


@dataclass(frozen=True)
class Clipped(Rounding):
    """Round to nearest with the clip ratio that hurts the calibration outputs least."""

    least: Annotated[float, Above(0), AtMost(1)] = 0.5
    passes: ClassVar[float | None] = 1

    def round(self, weights, quantizer, inputs):
        batches = list(inputs)
        found = []
        for weight in weights:
            tried = []
            for ratio in (1.0, self.least):
                rounded = quantize_weight(weight, clipped(quantizer, ratio))
                error = rounded.values(weight.dtype) - weight
                tried.append((sum(float((x @ error.T).square().sum()) for x, _ in batches), ratio))
            ratio = min(tried)[1]
            rounded = quantize_weight(weight, clipped(quantizer, ratio))
            found.append(Rounded(rounded, {"ratio": ratio, "tokens": len(batches[0][0])}))
        return found


@dataclass(frozen=True, kw_only=True)
class Sentences(Sampler):
    """The same sentence, once per sample."""

    sentence: str = "The sky is blue."

    def sample(self, inputs):
        tokens = inputs.tokenizer(self.sentence, add_special_tokens=False)["input_ids"]
        states = tuple(
            unscored_state(tokens, [False] * len(tokens), len(tokens)) for _ in range(self.samples)
        )
        return CalibrationSet(self.name, states, sizes(states))
'''
FILES = {
    "method/clipped.yaml": "name: clipped\nclip: {_target_: users_steps.Clipped, least: 0.8}\n",
    "calibration/sentences.yaml": (
        "_target_: users_steps.Sentences\nname: sentences\nsamples: 4\ntokens: null\n"
    ),
    "row/clipped_sentences.yaml": """# @package _global_
defaults:
  - override /method: clipped
  - override /calibration: sentences
row: {name: clipped_sentences, label: Clipped + sentences}
""",
    "task/colours.yaml": """name: colours
tasks:
  colours:
    label: Colours
    kind: own
    settings:
      micro:
        harness_task: {folder}/lm_eval/colours.yaml
        variant: likelihood
        metric: acc
        mc_num: 2
        mc_batch_size: 2
        estimator: llada
        source: "a test"
""",
    "lm_eval/colours.yaml": """task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "The {{thing}} is"
doc_to_choice: "{{colours}}"
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "model/own.yaml": """name: own
architecture: llada
checkpoint: {folder}/checkpoint
revision: null
settings: micro
embedded: false
outliers: null
calibration: {texts: [winogrande], length: 16, gen_length: 8, steps: 8, control_samples: 4}
""",
    "table/table2_own.yaml": """# @package _global_
sweep: tables
hydra:
  mode: MULTIRUN
  sweeper:
    params: {model: own, row: "rtn,clipped_sentences", task: colours, seed: 0}
report:
  title: Table 2 of our own
  caption: Round to nearest, and clipped by the outputs on one sentence.
  columns: [Colours]
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("users")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.replace("{folder}", str(folder)))
    (folder / "users_steps.py").write_text(MODULE)
    rows = [
        {"thing": thing, "colours": ["blue", "green"], "right": right}
        for thing, right in (("sky", 0), ("grass", 1), ("sea", 0), ("leaf", 1))
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "lm_eval" / "rows.jsonl").write_text(text)
    random_checkpoint("llada", folder / "checkpoint", d_model=32)
    return folder


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    return subprocess.Popen(
        [sys.executable, "-m", "dllmquant_exp", *words, "--config-dir", str(folder)],
        cwd=folder, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def call(folder: Path, *words: str, status: int = 0) -> str:
    process = start(folder, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    return out


SWEEP = (
    "table=table2_own", "launcher=joblib", "launcher.processes=2", "threads=1", "tracking=off",
    "execution=fake,packed",
)  # fmt: skip


def test_everything_from_outside_in_one_sweep(folder: Path) -> None:
    offered = call(folder, "--help")
    for option in ("clipped", "sentences", "clipped_sentences", "colours", "own", "table2_own"):
        assert re.search(rf"yours: .*\b{option}\b", offered), option
    planned = call(folder, "plan", *SWEEP[:1], "execution=fake,packed", "throughput=1e11")
    assert "clipped" in planned and "4 cells" in planned

    process = start(folder, *SWEEP)  # killed as soon as anything is written
    cells = folder / "runs" / "tables"
    deadline = time.monotonic() + 200
    while not list(cells.glob("*/*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    printed = call(folder, *SWEEP)
    assert "Clipped +" in printed and "sentences" in printed
    results = [json.loads(path.read_text()) for path in cells.glob("*/result.json")]
    assert len(results) == 4 and {result["status"] for result in results} == {"finished"}
    own = [result for result in results if result["row"]["name"] == "clipped_sentences"]
    assert {result["row"]["label"] for result in own} == {"Clipped + sentences"}
    (step,) = own[0]["config"]["method"]["steps"]
    assert step["_target_"] == "users_steps.Clipped" and step["least"] == 0.8
    for section in (step, own[0]["config"]["calibration"], own[0]["config"]["task"]):
        assert section["source"].startswith("sha256:")
    assert own[0]["quantization"]["layers"][0]["rounding"]["ratio"] in (0.8, 1.0)
    answers = [[item["log_likelihoods"] for item in result["items"]] for result in own]
    assert answers[0] == answers[1], "packed and fake"

    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/result.json")}
    call(folder, *SWEEP)
    assert before == {path: path.stat().st_mtime_ns for path in cells.glob("*/result.json")}

    call(folder, "report", "table=table2_own", "format=markdown")
    table = (cells / "report" / "table2_own.md").read_text()
    assert "Table 2 of our own" in table and "Clipped + sentences" in table and "Colours" in table

    with (folder / "users_steps.py").open("a") as module:  # other code is another cell
        module.write("\n# changed\n")
    planned = call(folder, "plan", SWEEP[0], "threads=1", "execution=fake", "throughput=1e11")
    assert "1 finished, 1 to do" in planned
