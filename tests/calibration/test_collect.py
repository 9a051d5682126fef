"""Sets at equal cost, and samplers and weightings that a user brings."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from dllmquant_exp.calibration.cgq import Cgq
from dllmquant_exp.calibration.collect import collect, equal_tokens
from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    batches,
    unscored_state,
)
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.calibration.weighting import TokenWeighting, batch_weights
from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.schema import build, describe

CONF = Path(__file__).parents[2] / "conf"
MODULE = """
from dataclasses import dataclass
from typing import Annotated

import torch

from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.states import CalibrationSet, sizes, unscored_state
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.calibration.weighting import TokenWeighting
from dllmquant_exp.store.schema import AtLeast

CALLS = []

@dataclass(frozen=True, kw_only=True)
class Prompts(Sampler):
    repeats: Annotated[int, AtLeast(1)] = 1

    def sample(self, inputs):
        CALLS.append(inputs.seed)
        rows = [prompt[:9] for prompt in inputs.prompts(("micro_arc",), self.samples)]
        states = tuple(unscored_state(row * self.repeats, [False] * len(row) * self.repeats, 0)
                       for row in rows)
        return CalibrationSet(self.name, states, sizes(states))

@dataclass(frozen=True, kw_only=True)
class Confident(TokenWeighting):
    power: float
    needs_scores = True

    def weights(self, state):
        return state.confidence ** self.power

@dataclass(frozen=True, kw_only=True)
class Forgetful(Confident):
    needs_scores = False
"""
SAMPLER = {"_target_": "users_sampling.Prompts", "name": "first_words", "samples": 3}
WEIGHTING = {"_target_": "users_sampling.Confident", "name": "confident", "power": 2.0}


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's module on the path."""
    path = tmp_path / "users_sampling.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_sampling", raising=False)
    return path


def test_a_users_sampler_and_weighting(
    outside: Path, tiny_model: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    sampler = build(SAMPLER, Sampler, "calibration")
    weighting = build(WEIGHTING, TokenWeighting, "cgq")

    def collected(sampler: Sampler, *, scores: bool = False, seed: int = 0) -> CalibrationSet:
        return collect(
            sampler, tiny_model(), tokenizer, model_key="", embedded=True, data_root=None,
            seed=seed, batch_size=2, needs_scores=scores, folder=tmp_path / "cache",
        )  # fmt: skip

    calls = sys.modules["users_sampling"].CALLS
    plain, again = collected(sampler), collected(sampler)
    assert plain.digest == again.digest and calls == [0], "the second one is read from the cache"
    assert (plain.name, plain.tokens, plain.is_scored) == ("first_words", 27, False)
    twice = build({**SAMPLER, "repeats": 2, "tokens": 40}, Sampler, "calibration")
    assert collected(twice).tokens == 36 and calls == [0, 0]
    scored = collected(sampler, scores=weighting.needs_scores)
    assert scored.is_scored and calls == [0, 0], "confidences are added to the stored set"
    (batch,) = batches(scored, 3, pad_id=38)
    confidence = batch.states[0].confidence
    assert batch_weights(batch, weighting)[0].tolist() == (confidence**2).tolist()
    report = weighting.report(scored)
    assert report["unmasked"]["tokens"] == 27 and not report["constant"]
    collected(sampler, seed=1)
    assert calls == [0, 0, 1]
    names = {path.name.split("-")[0] for path in (tmp_path / "cache").glob("*.safetensors")}
    assert names == {"first_words"}

    # The same name and settings in another source: another identity, another set.
    before = describe(sampler)
    outside.write_text(MODULE.replace("[:9]", "[:5]"))
    del sys.modules["users_sampling"]
    changed = build(SAMPLER, Sampler, "calibration")
    after = describe(changed)
    assert before["_target_"] == after["_target_"] and before["source"] != after["source"]
    assert collected(changed).tokens == 15


def test_a_users_options_are_chosen_and_set_like_ours(outside: Path) -> None:
    """A user's folder of options, beside the module: `calibration=mine`, `+tmas=mine`, ..."""
    for group, section in (("calibration", SAMPLER), ("tmas", SAMPLER), ("cgq", WEIGHTING)):
        (outside.parent / group).mkdir()
        text = yaml.safe_dump({**section, "name": "mine"})
        (outside.parent / group / "mine.yaml").write_text(text)

    def made(*words: str) -> Experiment:
        words = (f"hydra.searchpath=[file://{outside.parent}]", "method=gptq", *words)
        return resolve(to_mapping(compose("config", list(words))), words)

    with initialize_config_dir(str(CONF), version_base="1.3"):
        ours = made()
        group = made("calibration=mine", "calibration.samples=8")
        tmas = made("+tmas=mine", "tmas.samples=8", "+cgq=mine", "cgq.power=0.5")
        off = made("+tmas=off", "+cgq=off")
    for job in (group, tmas):
        assert job.calibration == build({**SAMPLER, "name": "mine", "samples": 8}, Sampler, "")
        section = job.cell_config(job.tasks[0])["calibration"]
        assert section["name"] == "mine" and section["source"].startswith("sha256:")
    assert tmas.cgq == build({**WEIGHTING, "name": "mine", "power": 0.5}, TokenWeighting, "")
    assert (group.label, tmas.label) == ("gptq", "gptq+tmas-mine+cgq-mine")
    assert group.cgq is None and off.cell_config(off.tasks[0]) == ours.cell_config(ours.tasks[0])


def test_a_weighting_that_reads_scores_without_saying_so_is_refused(
    outside: Path, state: Callable[..., Any]
) -> None:
    forgetful = build({**WEIGHTING, "_target_": "users_sampling.Forgetful"}, TokenWeighting, "cgq")
    bare = CalibrationSet("bare", (unscored_state([1, 2], [False, False], 2),), {})
    with pytest.raises(CalibrationError, match="must say so by `needs_scores`"):
        batch_weights(batches(bare, 1, pad_id=0)[0], forgetful)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "calibration.samples = 0 must be at least 1"),
        ({"repeats": 0}, "calibration.repeats = 0 must be at least 1"),
        ({"repaets": 1}, "did you mean 'repeats'"),
        ({"_target_": "users_sampling.Confident"}, "not a dataclass derived from .*Sampler"),
    ],
)
def test_a_users_settings_are_checked_like_ours(
    change: dict[str, Any], message: str, outside: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build({**SAMPLER, **change}, Sampler, "calibration")


def test_options_are_the_defaults_of_their_classes() -> None:
    """The paper's values stand in the option, with its comments, and in the class alike."""

    def option(name: str) -> dict[str, Any]:
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        return {key: value for key, value in yaml.safe_load(text).items() if "${" not in str(value)}

    data: dict[str, Any] = {"texts": ("micro_arc",), "gen_length": 32, "steps": 32}
    tmas = build(option("tmas/on") | data, Sampler, "tmas")
    assert tmas == Tmas(name="tmas", **data)
    assert build(option("cgq/on"), TokenWeighting, "cgq") == Cgq(name="cgq")


def test_equal_tokens_is_a_random_part_that_fits() -> None:
    lengths = [5, 9, 3, 7, 4, 6, 8, 2]
    whole = CalibrationSet(
        "some", tuple(unscored_state([n] * n, [False] * n, n) for n in lengths), {"seed": 0}
    )
    parts = [equal_tokens(whole, 20, seed=seed) for seed in range(20)]
    for part in parts:
        kept = [len(state.tokens) for state in part.states]
        assert 20 - 9 < part.tokens == sum(kept) <= 20  # nothing longer than 9 was left out
        assert kept == [n for n in lengths if n in kept]  # in their order
        assert part.report["tokens"] == part.tokens and part.report["seed"] == 0
    assert len({part.digest for part in parts}) > 5
    assert equal_tokens(whole, 20, seed=1).digest == parts[1].digest
    assert equal_tokens(whole, whole.tokens, seed=0).digest == whole.digest
    with pytest.raises(CalibrationError, match="44 tokens, fewer than 45"):
        equal_tokens(whole, 45, seed=0)
    with pytest.raises(CalibrationError, match="as short as 1"):
        equal_tokens(whole, 1, seed=0)
