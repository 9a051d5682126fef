"""save= and model=saved: the same answers from a folder, and refusals with a way out."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_experiments import option, small_config

from dllmquant_exp.config.experiment import Experiment, resolve
from dllmquant_exp.config.identity import saved_parts
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.quantization import kernels
from dllmquant_exp.reporting.frame import read_cells
from dllmquant_exp.reporting.tables.sweep_table import sweep_sections
from dllmquant_exp.run import prepare as preparation
from dllmquant_exp.run.job import run
from dllmquant_exp.store import provenance

TASK = "micro_piqa"


@pytest.fixture
def make(tmp_path: Path, checkpoint: Path) -> Any:
    """make(key=value, ...): an experiment with three items of one task."""

    def build(method: str = "rtn", words: tuple[str, ...] = (), **changes: Any) -> Experiment:
        config = small_config(checkpoint, tmp_path / "runs", (TASK,))
        return resolve({**config, "method": option("method", method), **changes}, words)

    return build


def saved(folder: Path) -> dict[str, Any]:
    return {**option("model", "saved"), "checkpoint": str(folder)}


def result(experiment: Experiment) -> dict[str, Any]:
    (outcome,) = run(experiment, keep_going=False)
    value = json.loads((outcome.folder / "result.json").read_text())
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("execution", ["fake", "packed"])
def test_a_saved_model_gives_the_answers_of_the_cell_that_saved_it(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execution: str
) -> None:
    folder = tmp_path / "kept" / "model"
    cgq = {**option("cgq", "on")}
    first = make("quarot", execution=execution, save=str(folder), cgq=cgq)
    before = result(first)
    assert before["hardware"]["kernels"] == kernels.execution()  # rotations run on them

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was quantized again")

    for name in ("quantize", "collect"):
        monkeypatch.setattr(preparation, name, refuse)
    second = make(execution=execution, model=saved(folder))
    after = result(second)
    assert after["items"] == before["items"] and after["score"] == before["score"]
    for key in ("quantization", "calibration", "calibration_digest", "token_forwards"):
        assert after[key] == before[key], key
    assert after["cell"] | {"name": ""} == before["cell"] | {"name": ""}
    digest = after["config"].pop("saved")
    assert after["config"] == before["config"] and "saved" not in before["config"]
    assert after["checkpoint_digest"].startswith(f"sha256:{digest}")
    assert after["cell"]["name"].startswith(f"micro_llada-quarot+cgq-{TASK}-s0-")
    assert after["cell"]["name"] != before["cell"]["name"]
    folders = [e.sweep_folder / e.cell_name(e.tasks[0]) for e in (first, second)]
    (table,) = sweep_sections(read_cells(folders)[0])
    assert sorted(set(table.lines["row"])) == [
        "quarot+cgq w4a4", f"quarot+cgq w4a4 saved={digest}",
    ]  # fmt: skip
    # Another seed of the evaluation is another cell of the same weights.
    assert make(model=saved(folder), seed=1).cell_name(second.tasks[0]) != after["cell"]["name"]
    # A finished cell is not run again, and its model is not made again to be saved again.
    assert [o.status for o in run(first, keep_going=False)] == ["skipped"]
    again = run(make(execution=execution, model=saved(folder)), keep_going=False)
    assert [o.status for o in again] == ["skipped"]


def test_a_folder_keeps_what_it_holds(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    assert result(make(save=str(folder)))["hardware"]["kernels"] is None  # nothing ran on them
    config = (folder / "config.json").read_bytes()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(preparation, "quantize", refuse)
    run(make(save=str(folder)), keep_going=False)  # holds it already
    for change, named in (
        ({"seed": 1}, "seed"),
        ({"method": "quarot_rtn"}, "method"),
        ({"method": "gptq"}, "method, calibration"),
    ):
        with pytest.raises(CheckpointError, match=f"already holds .* made with another {named};"):
            run(make(save=str(folder), **change), keep_going=False)
    monkeypatch.setattr(provenance, "code_digest", lambda: "of another version")
    with pytest.raises(CheckpointError, match="made with another code;"):
        run(make(save=str(folder)), keep_going=False)
    assert (folder / "config.json").read_bytes() == config


def test_a_published_models_calibration_depends_on_the_data(make: Any, tmp_path: Path) -> None:
    model = make("gptq", save="m", data_root="a")
    published = replace(model.model, embedded=False, outliers=None)
    found = [
        saved_parts(
            replace(model, model=published, common=replace(model.common, data_root=root)), "d"
        )
        for root in ("a", "b", "a")
    ]
    assert found[0] == found[2]
    assert [name for name in found[0] if found[0][name] != found[1][name]] == ["data_root"]
    assert saved_parts(model, "d") == saved_parts(make("gptq", save="m", data_root="b"), "d")


@pytest.mark.parametrize("export", [None, "compressed-tensors"])
@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("model.safetensors", b"garbage", r"model\.safetensors: .*(damaged|another sha256)"),
        ("tokenizer.json", None, r"tokenizer\.json: this file is missing"),
        ("config.json", b'"vocab_size": 7', "was changed since it was written"),
    ],
)
def test_what_is_left_of_a_model_is_not_taken_for_it(
    make: Any, tmp_path: Path, export: str | None, file: str, content: bytes | None, named: str
) -> None:
    if export is not None:
        pytest.importorskip("compressed_tensors")
    folder = tmp_path / "m"
    quant = {**option("quant", "w4a4"), "attention": None}
    experiment = make(quant=quant, save=str(folder), export=export)
    run(experiment, keep_going=False)
    before = (folder / file).read_bytes()
    if content is None:
        (folder / file).unlink()
    else:
        changed = re.sub(rb'"vocab_size": \d+', content, before) if b"vocab" in content else content
        assert changed != before
        (folder / file).write_bytes(changed)
    with pytest.raises(CheckpointError, match=rf"(?s){named}.*delete .* makes it again"):
        run(experiment, keep_going=False)
    (folder / file).write_bytes(before)
    run(experiment, keep_going=False)


def test_a_saved_model_can_be_saved_and_exported(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    quant = {**option("quant", "w4a4"), "attention": None}
    run(make(quant=quant, save=str(tmp_path / "a")), keep_going=False)
    again = {"model": saved(tmp_path / "a")}
    run(make(save=str(tmp_path / "b"), **again), keep_going=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    export = {"save": str(tmp_path / "c"), "export": "compressed-tensors"}
    run(make(**again, **export), keep_going=False)
    direct = {"save": str(tmp_path / "d"), "export": "compressed-tensors"}
    run(make(quant=quant, **direct), keep_going=False)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "cd"]
    assert weights[0] == weights[1]
    run(make(quant=quant, **direct), keep_going=False)  # holds it already
    with pytest.raises(ConfigError, match="quant_method: 'compressed-tensors'"):
        make(model=saved(tmp_path / "c"))


def test_a_damaged_model_stops_before_anything_is_written(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    run(make(save=str(folder), sweep="first"), keep_going=False)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-9] ^= 4
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="was changed or damaged"):
        run(make(model=saved(folder), sweep="second"), keep_going=False)
    assert not list((tmp_path / "runs" / "second").glob("*/*"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(ConfigError, match=r"model=saved: .* was changed since it was written"):
        make(model=saved(folder))


def test_what_a_saved_model_brings_along_is_not_chosen_again(make: Any, tmp_path: Path) -> None:
    run(make(save=str(tmp_path / "m")), keep_going=False)
    model = saved(tmp_path / "m")
    for word in (
        "method=rtn", "quant.weight_bits=3", "+tmas=on", "row=fp", "calibration=random", "~cgq",
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="would change nothing: a saved model is quantized"):
            make(model=model, words=(word,))
    make(model=model, words=("seed=1", "task=micro_piqa", "decoding=smoke"))
    with pytest.raises(ConfigError, match=r"was saved in float32; set dtype=float32"):
        make(model=model, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"model\.outliers is the saved model's own"):
        make(model={**model, "outliers": None})
    with pytest.raises(ConfigError, match=r"needs model\.checkpoint=FOLDER"):
        make(model=option("model", "saved"))
    with pytest.raises(ConfigError, match=r"model=saved: .*config\.json: this file is missing"):
        make(model=saved(tmp_path / "nowhere"))


def test_what_cannot_be_saved_is_refused_at_once(make: Any) -> None:
    with pytest.raises(ConfigError, match="method=fp quantizes nothing"):
        make("fp", save="m")
    with pytest.raises(ConfigError, match=r"export=compressed-tensors needs save=FOLDER"):
        make(export="compressed-tensors")
    with pytest.raises(ConfigError, match=r"(?s)cannot hold.*changes inputs.*attention=null"):
        make("quarot", save="m", export="compressed-tensors")
    with pytest.raises(ConfigError, match="export = 'gguf' is not one of: compressed-tensors"):
        make(save="m", export="gguf")
