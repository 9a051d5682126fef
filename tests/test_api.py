"""The package from Python: examples, the same cells as the command line's, and refusals."""

import doctest
import importlib
from pathlib import Path

import pandas as pd
import pytest

import dllmquant_exp
from dllmquant_exp import Model, evaluate, load, results, table
from dllmquant_exp.__main__ import main
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.words import to_words
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.nearest import Nearest
from dllmquant_exp.quantization.rotation import Rotation

MODULES = ("dllmquant_exp", *(f"dllmquant_exp.{name}" for name in (
    "run.model", "run.load", "reporting.frames",
)))  # fmt: skip
SMALL = {"threads": 1, "limit": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which `runs` is made."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(checkpoint: Path) -> Model:
    """A random checkpoint, evaluated as micro_llada."""
    return load(checkpoint, like="micro_llada", threads=1)


@pytest.mark.parametrize("name", MODULES)
def test_examples_show_what_happens(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed


def test_every_public_function_has_an_example() -> None:
    for name in dllmquant_exp.__all__:
        value = getattr(dllmquant_exp, name)
        methods = [value] if name != "Model" else [value.calibrate, value.quantize, value.prepare]
        assert all(">>>" in (one.__doc__ or "") for one in methods), name


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def test_a_notebook_and_a_sweep_share_cells(model: Model, checkpoint: Path, here: Path) -> None:
    rows = [model, model.quantize("rtn"), model.calibrate("random", samples=4).quantize("gptq")]
    scores = evaluate(rows, "micro_piqa", **SMALL)
    made = files(here)
    words = f"model.checkpoint={checkpoint} task=micro_piqa limit=3 batch_size=4 threads=1"
    assert main([*f"-m method=fp,rtn tracking=off {words}".split()]) == 0
    assert main([*f"method=gptq calibration.samples=4 tracking=off {words}".split()]) == 0
    assert {path: made[path] for path in made} == {path: files(here)[path] for path in made}
    assert len(results()) == 3
    pd.testing.assert_frame_equal(table(), scores)
    again = evaluate(rows, "micro_piqa", **SMALL)
    pd.testing.assert_frame_equal(again, scores)


def test_scores_are_numbers_with_intervals_and_paired_changes(model: Model) -> None:
    scores = evaluate([model, model.quantize("rtn")], ["micro_piqa", "micro_arc"], **SMALL)
    assert list(scores["task"]) == 2 * ["micro_arc", "micro_piqa", "average"]
    assert all(pd.api.types.is_float_dtype(scores[name]) for name in ("score", "low", "change"))
    fp, rtn = scores[:3], scores[3:].reset_index(drop=True)
    assert fp["change"].isna().all()
    assert (rtn["change"] - (rtn["score"] - fp["score"])).abs().max() < 1e-9
    assert any("limit=3" in note for note in scores.attrs["notes"])
    cells = results()
    assert list(cells["n"]) == [3] * 4 and cells["low"].le(cells["score"]).all()


def test_seeds_are_cells_of_their_own(model: Model) -> None:
    scores = evaluate(model, "micro_piqa", seeds=[0, 1], **SMALL)
    assert list(scores["seeds"]) == ["0 1"] and list(results()["seed"]) == [0, 1]


def test_own_steps_are_a_method(model: Model, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "coarse_step.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from dllmquant_exp.quantization.nearest import Nearest\n\n\n"
        "@dataclass(frozen=True)\nclass Coarse(Nearest):\n    bits: int = 2\n\n"
        "    def round(self, weights, quantizer, inputs):\n"
        "        return super().round(weights, replace(quantizer, bits=self.bits), inputs)\n"
    )
    monkeypatch.syspath_prepend(str(here))
    steps = importlib.import_module("coarse_step")
    made = [model.quantize([steps.Coarse(bits)], name="coarse") for bits in (2, 4)]
    described = [one.experiment().describe("method") for one in made]
    assert [of["steps"][0]["bits"] for of in described if of] == [2, 4]
    assert all(of and of["steps"][0]["source"].startswith("sha256:") for of in described)
    errors = [one.prepare().report["mean_relative_weight_error"] for one in made]
    plain = model.quantize("rtn").prepare().report["mean_relative_weight_error"]
    assert errors[0] > errors[1] == plain


def test_a_methods_own_steps_are_that_method(model: Model) -> None:
    own = model.quantize([Rotation(), Gptq()], name="quarot").experiment()
    assert own.describe("method") == model.quantize("quarot").experiment().describe("method")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: load("micro_lada"), "did you mean 'micro_llada'"),
        (lambda m: load("someone/model"), "like='"),
        (lambda m: load("micro_llada", limt=3).label, "did you mean 'limit'"),
        (lambda m: m.quantize("quarott"), "did you mean 'quarot'"),
        (lambda m: m.calibrate("tmass"), "calibration has no option"),
        (lambda m: m.quantize("rtn", quant={"bits": 3}).label, "quant.bits is not a setting"),
        (lambda m: m.states(), "calibrated on nothing"),
        (lambda m: m.calibrate("tmas").quantize("rtn").label, "method=rtn measures none"),
        (lambda m: m.save("kept"), "quantizes nothing"),
        (lambda m: evaluate(m, "micro_pica"), "micro_piqa"),
        (lambda m: evaluate([m, m.quantize("rtn", tmas="on")], "micro_piqa"), "measures none"),
        (lambda m: evaluate(m, "speed", execution="packed"), "speed has no scores"),
        (lambda m: m.quantize([type("Own", (), {"__module__": "__main__"})()]), "notebook"),
        (lambda m: m.quantize([Nearest()], name="quarot"), "method of this name"),
        (lambda m: m.quantize([], name="a/b"), "part of folders' names"),
        (lambda m: m.quantize([], method="awq"), "no effect beside own steps"),
    ],
)
def test_refusals_say_what_would_work(model: Model, here: Path, call, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(model)
    assert not (here / "runs").exists() and not (here / "kept").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limit": 3, "threads": None}, ["limit=3", "threads=null"]),
        ({"save": Path("a b")}, ["save='a b'"]),
        ({"quant": {"weight_bits": 3}, "tmas": "on"}, ["quant.weight_bits=3", "+tmas=on"]),
        ({"task": ["a", "b"], "seed": 1}, ["task=[a,b]", "seed=1"]),
        ({"data_root": "x=${y}, 'z'"}, [r"data_root='x=${y}, \'z\''"]),
        ({"sweep": "1", "entity": "null"}, ["sweep='1'", "entity='null'"]),
    ],
)  # fmt: skip
def test_settings_are_words(settings: dict, words: list[str]) -> None:
    assert list(to_words(settings)) == words
    Overrides.read(words)
