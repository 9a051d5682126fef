"""One job end to end on a random checkpoint: result files, resuming, failures, determinism."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_experiments import option, small_config

from dllmquant_exp.config.experiment import Experiment, resolve
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.local_data import DataError
from dllmquant_exp.models.checkpoints import CheckpointError, random_checkpoint
from dllmquant_exp.reporting.frame import read_result
from dllmquant_exp.reporting.statistics.intervals import wilson
from dllmquant_exp.run import cell as cells
from dllmquant_exp.run import job as module
from dllmquant_exp.run import prepare as preparation
from dllmquant_exp.run.job import Outcome, run
from dllmquant_exp.store.results import config_hash

TASKS = ("micro_piqa", "micro_winogrande")


@pytest.fixture
def make(tmp_path: Path, checkpoint: Path) -> Any:
    """make(key=value, ...): an experiment with two tasks of three items."""

    def build(method: str = "rtn", model: str = "micro_llada", **changes: Any) -> Experiment:
        config = small_config(checkpoint, tmp_path / "runs", TASKS)
        config["model"] = {**option("model", model), "checkpoint": str(checkpoint)}
        config["method"] = option("method", method)
        return resolve({**config, **changes})

    return build


def result(outcome: Outcome) -> dict[str, Any]:
    value = json.loads((outcome.folder / "result.json").read_text())
    assert isinstance(value, dict)
    return value


def forbid(monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(where, name, refuse)


def test_a_job_writes_a_result_per_task_that_says_how_it_was_made(
    make: Any, checkpoint: Path
) -> None:
    experiment = make()
    outcomes = run(experiment, keep_going=False)
    assert [o.status for o in outcomes] == ["finished", "finished"]
    assert [o.folder.name for o in outcomes] == [
        experiment.cell_name(task) for task in experiment.tasks
    ]
    for outcome, task in zip(outcomes, experiment.tasks, strict=True):
        value = result(outcome)
        assert value["config"] == experiment.cell_config(task)
        assert value["config_hash"] == config_hash(value["config"])
        assert outcome.folder.name.endswith(value["config_hash"][:8])
        scores = [item["score"] for item in value["items"]]
        assert value["n"] == len(scores) == 3
        assert value["score"] == pytest.approx(sum(scores) / 3)
        interval = wilson(int(sum(scores)), 3)
        assert value["interval95"] == [interval.low, interval.high]
        assert value["chance"] == 0.5
        assert value["token_forwards"] > value["forwards"] > 0
        assert value["quantization"]["block_linears"] == 2 * 7
        assert value["checkpoint_digest"].startswith("sha256:")
        assert value["versions"]["torch"] == torch.__version__
        assert value["hardware"]["threads"] == 1
        assert set(value["timing"]["wall_seconds"]) == {"load", "calibrate", "quantize", "evaluate"}
        assert value["timing"]["peak_memory_bytes"] > 50_000_000
        assert value["error"] is None and value["calibration_digest"] is None
        assert value["cell"]["evaluation"] == "published"
        assert (value["diagnostics"], value["other_scores"]) == ({"cut_prompts": 0.0}, {})
        assert read_result(outcome.folder / "result.json").score == value["score"]


def test_outputs_that_went_wrong_are_warned_of_at_the_end_of_the_run(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "diagnostic_warnings", lambda shares: [f"{len(shares)} share"])
    outcomes = run(make(), keep_going=False)
    assert [outcome.warnings for outcome in outcomes] == [("1 share",)] * 2
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == [f"micro_llada, {task}: 1 share" for task in TASKS]
    assert caplog.records[-1].getMessage() == told[-1]


def test_what_wandb_recorded_offline_is_what_the_result_file_says(
    make: Any, recorded: Callable[[Path], dict[str, Any]]
) -> None:
    task = {"name": "one", "tasks": {TASKS[0]: option("task", TASKS[0])["tasks"][TASKS[0]]}}
    (outcome,) = run(make(task=task, tracking=option("tracking", "offline")), keep_going=False)
    value, found = result(outcome), recorded(outcome.folder)
    (history,) = found["history"]
    assert history["score"] == value["score"]
    assert [history["score_low95"], history["score_high95"]] == value["interval95"]
    assert history["items"] == value["n"]
    assert history["token_forwards"] == value["token_forwards"]
    assert history["seconds/evaluate"] == value["timing"]["wall_seconds"]["evaluate"]
    assert {key: found["config"][key] for key in value["config"]} == value["config"]
    assert (found["name"], found["group"], found["exit"]) == (outcome.folder.name, "s", 0)


def test_the_same_seed_gives_the_same_file_apart_from_times(make: Any, tmp_path: Path) -> None:
    first = run(make("fp"), keep_going=False)  # which touches no layer
    second = run(make("fp", runs_dir=str(tmp_path / "again")), keep_going=False)
    for one, other in zip(first, second, strict=True):
        left, right = result(one), result(other)
        assert left.pop("timing") != right.pop("timing")
        assert left == right
        assert left["quantization"]["layers"] == []
        assert left["config"]["quant"] is None and left["cell"]["quant"] is None


def test_a_second_call_runs_what_is_left_and_loads_the_model_once(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], preparation.load_model
    monkeypatch.setattr(
        preparation, "load_model", lambda *a, **k: (loads.append(a), load(*a, **k))[1]
    )
    outcomes = run(make(), keep_going=False)
    before = [(o.folder / "result.json").stat().st_mtime_ns for o in outcomes]
    again = run(make(), keep_going=False)
    assert [o.status for o in again] == ["skipped", "skipped"] and len(loads) == 1
    assert [(o.folder / "result.json").stat().st_mtime_ns for o in again] == before
    (outcomes[1].folder / "result.json").unlink()
    again = run(make(), keep_going=False)
    assert [o.status for o in again] == ["skipped", "finished"] and len(loads) == 2


def test_a_changed_checkpoint_runs_again(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def job(seed: int) -> list[Outcome]:
        random_checkpoint("llada", tmp_path / str(seed), d_model=32, seed=seed)
        folder.unlink(missing_ok=True)
        folder.symlink_to(tmp_path / str(seed))
        base = make()
        model = replace(base.model, checkpoint=str(folder))
        return run(replace(base, model=model), keep_going=False)

    first = result(job(1)[0])
    outcomes = job(2)
    assert [o.status for o in outcomes] == ["finished", "finished"]
    assert result(outcomes[0])["checkpoint_digest"] != first["checkpoint_digest"]


def test_a_failed_cell_is_recorded_and_the_next_one_runs(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = module.evaluate_task

    def break_first(model: Any, tokenizer: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        if name == TASKS[0]:
            raise RuntimeError("out of luck")
        return evaluate(model, tokenizer, name, *args, **kwargs)

    monkeypatch.setattr(module, "evaluate_task", break_first)
    outcomes = run(make(), keep_going=False)
    assert [o.status for o in outcomes] == ["failed", "finished"]
    value = result(outcomes[0])
    assert (value["status"], value["score"], value["items"]) == ("failed", None, [])
    assert value["error"]["type"] == "RuntimeError"
    assert value["error"]["message"] == "out of luck"
    assert "break_first" in value["error"]["traceback"]
    assert read_result(outcomes[0].folder / "result.json").status == "failed"

    monkeypatch.setattr(module, "evaluate_task", evaluate)
    again = run(make(), keep_going=False)
    assert [o.status for o in again] == ["finished", "skipped"]


@pytest.mark.parametrize("tracking", ["off", "offline"])
def test_bad_input_in_a_single_run_is_raised_and_leaves_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracking: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DataError("no such rows")

    monkeypatch.setattr(module, "evaluate_task", refuse)
    experiment = make(tracking=option("tracking", tracking))
    with pytest.raises(DataError, match="no such rows"):
        run(experiment, keep_going=False)
    assert not list(tmp_path.glob("runs/s/*"))

    if tracking == "off":
        outcomes = run(experiment, keep_going=True)
        assert [o.status for o in outcomes] == ["failed", "failed"]
        assert result(outcomes[0])["error"]["type"] == "DataError"


def test_a_wrong_checkpoint_costs_one_load_and_fails_every_cell_of_a_sweep(
    make: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        (broken / file.name).write_bytes(
            content[:-100] if file.suffix == ".safetensors" else content
        )
    base = make()
    experiment = replace(base, model=replace(base.model, checkpoint=str(broken)))
    with pytest.raises(CheckpointError):
        run(experiment, keep_going=False)
    assert not (tmp_path / "runs").exists()
    calls = []
    prepare = preparation.prepare
    monkeypatch.setattr(preparation, "prepare", lambda e: (calls.append(e), prepare(e))[1])
    assert [o.status for o in run(experiment, keep_going=True)] == ["failed", "failed"]
    assert len(calls) == 1


def test_a_checkpoint_of_another_architecture_is_refused(make: Any) -> None:
    base = make()
    dream = replace(base, model=replace(base.model, architecture="dream", name="my_dream"))
    with pytest.raises(CheckpointError, match="is a llada checkpoint, but model=my_dream"):
        run(dream, keep_going=False)


def test_missing_data_files_are_named_before_anything_is_computed(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {t: option("task", t)["tasks"][t] for t in ("piqa", "gsm8k")}
    (tmp_path / "data").mkdir()
    experiment = make(task={"name": "two", "tasks": tasks}, data_root=str(tmp_path / "data"))
    forbid(monkeypatch, preparation, "load_model")
    with pytest.raises(ConfigError, match=r"(?s)piqa_val\.jsonl.*gsm8k_test\.jsonl"):
        run(experiment, keep_going=False)
    assert not (tmp_path / "runs").exists()


def test_threads_are_set_for_the_job_and_put_back(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen, evaluate = torch.get_num_threads(), [], module.evaluate_task

    def watch(*args: Any, **kwargs: Any) -> Any:
        seen.append(torch.get_num_threads())
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(module, "evaluate_task", watch)
    run(make(threads=before + 1), keep_going=False)
    assert seen == [before + 1] * 2
    assert torch.get_num_threads() == before


COMPONENTS: dict[str, Any] = {
    "tmas": {
        **option("tmas", "on"), "samples": 8, "blocks": 2, "proportions": [0.5, 0.5],
        "thresholds": [0.5], "texts": ["micro_arc", "micro_gsm8k"], "gen_length": 8, "steps": 8,
    },
    "cgq": option("cgq", "on"),
    "iaaq": {"_target_": "dllmquant_exp.quantization.iaaq.Iaaq"},
}  # fmt: skip


def quick(method: str) -> dict[str, Any]:
    """A method without AWQ's searches over weight clips, which the random model does not need."""
    return {"method": method, "quant": {**option("quant", "w4a4"), "weight_clip_search": None}}


def test_calibrated_cells_say_on_what_and_share_sets_and_rounded_weights(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make(**quick("quarot"), **COMPONENTS)
    whole, *_ = values = [result(outcome) for outcome in run(experiment, keep_going=False)]
    for value in values:
        calibration = value["calibration"]
        assert value["cell"]["method"] == "quarot+tmas+cgq+iaaq"
        assert value["calibration_digest"] == calibration["digest"]
        assert calibration["report"]["filled"] == [[2, 2], [2, 2]]
        assert calibration["cgq"]["masked"]["tokens"] > 0
        layers = value["quantization"]["layers"]
        assert len(layers) == 14 and all(layer["rounding"] is not None for layer in layers)
        assert value["quantization"]["steps"]["rotation"][0]["seed"] == 0
    cache = Path(experiment.common.runs_dir) / ".cache"
    (stored,) = (cache / "calibration").glob("*.safetensors")
    assert stored.name.startswith("tmas-")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("dllmquant_exp.calibration.tmas.Tmas.sample", forbidden)
    without = {k: v for k, v in COMPONENTS.items() if k == "tmas"}
    outcomes = run(make(**quick("gptq"), **without), keep_going=False)
    assert {o.status for o in outcomes} == {"finished"}
    assert len(list((cache / "weights").iterdir())) == 2
    # IA-AQ does not change weights, and neither does what is quantized in attention
    monkeypatch.setattr("dllmquant_exp.quantization.pipeline._round_block", forbidden)
    monkeypatch.setattr("dllmquant_exp.quantization.pipeline.first_block_batches", forbidden)
    weights_only = {k: v for k, v in COMPONENTS.items() if k != "iaaq"}
    twin = result(run(make(**quick("quarot"), **weights_only), keep_going=False)[0])
    assert twin["quantization"]["layers"] == whole["quantization"]["layers"]
    # and CGQ does
    outcomes = run(make(**quick("quarot"), **without), keep_going=False)
    assert all(result(o)["error"]["message"] == "made again" for o in outcomes)


@pytest.mark.parametrize("method", ["rtn", "quarot"])
def test_packed_execution_gives_the_same_answers(make: Any, method: str) -> None:
    components = COMPONENTS if method == "quarot" else {}
    fake, packed = (
        [
            result(outcome)
            for outcome in run(
                make(**quick(method), **components, execution=execution), keep_going=False
            )
        ]
        for execution in ("fake", "packed")
    )
    for one, other in zip(fake, packed, strict=True):
        assert one["config_hash"] != other["config_hash"]
        answers = [[(i["doc_id"], i["answer"]) for i in r["items"]] for r in (one, other)]
        assert answers[0] == answers[1]
        assert one["quantization"] == other["quantization"]


def test_a_killed_quantization_goes_on_behind_its_last_block(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dllmquant_exp.quantization import pipeline

    whole = result(
        run(make(**quick("gptq"), runs_dir=str(tmp_path / "whole")), keep_going=False)[0]
    )
    rounded, calls = pipeline._round_block, []

    def die(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rounded(*args)

    monkeypatch.setattr(pipeline, "_round_block", die)
    with pytest.raises(KeyboardInterrupt):
        run(make(**quick("gptq")), keep_going=False)
    outcomes = run(make(**quick("gptq")), keep_going=False)
    assert len(calls) == 3, "only the second block was rounded again"
    again = result(outcomes[0])
    assert again["items"] == whole["items"]
    assert again["quantization"] == whole["quantization"]


@pytest.mark.parametrize("name", ["llm_qat", "uniform_time"])
def test_other_calibration_sets(make: Any, name: str) -> None:
    decode = {"gen_length": 8, "steps": 8, "blocks": 2}
    other = {"texts": ["micro_piqa"], "steps_per_prompt": 2} if name == "uniform_time" else {}
    calibration = {**option("calibration", name), "samples": 6, **decode, **other}
    outcomes = run(make(**quick("gptq"), calibration=calibration), keep_going=False)
    found = result(outcomes[0])["calibration"]
    assert found["report"]["states"] == 6 and found["cgq"] is None


def test_a_speed_cell_is_measured_once_and_holds_no_score(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = option("task", "speed")
    task["tasks"]["speed"]["measure"]["micro"] |= {"responses": 2, "rounds": 2}
    lengths = {"name": "short", "gen_length": 4, "steps": 4, "block_length": 2}
    words = {"task": task, "decoding": lengths, "execution": "packed", "limit": None}
    (outcome,) = run(make("quarot", **words), keep_going=False)
    assert outcome.status == "finished"
    value = result(outcome)
    assert (value["score"], value["items"], value["metric"]) == (None, [], "tokens/s")
    assert [v["name"] for v in value["speed"]["variants"]] == ["full precision", "W4A4", "W4A8"]
    assert value["speed"]["weights"] == "of the checkpoint"
    assert value["config"]["task"]["speed"]["rounds"] == 2
    assert value["hardware"]["threads"] == 1 and value["hardware"]["cpu"]
    read = read_result(outcome.folder / "result.json")
    assert read.score is None and read.speed == value["speed"]
    forbid(monkeypatch, module, "measure_speed_cell")
    (again,) = run(make("quarot", **words), keep_going=False)
    assert again.status == "skipped"
    # What was measured with another processor or other kernels is measured again.
    (cell,), here = cells.cells_of(make("quarot", **words)), cells.abilities()
    for name in here:
        with monkeypatch.context() as patch:
            patch.setattr(cells, "abilities", lambda own=name: {**here, own: "another"})
            assert not cell.is_finished(None), name
    with monkeypatch.context() as patch:
        other = {**value["hardware"], "cpu": "another"}
        patch.setattr(cells.provenance, "hardware", lambda device: other)
        assert not cell.is_finished(None)
    assert cells.changed_conditions(value, 3) == [("threads", 1, 3)]
