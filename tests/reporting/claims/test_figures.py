"""Claims about a decode: tests and intervals of made-up recorded numbers whose answer is known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from dllmquant_exp.probes import measurement
from dllmquant_exp.reporting.claims import Measured, Unmeasured
from dllmquant_exp.reporting.claims.figures import LEAST_PROMPTS, figure_claims
from dllmquant_exp.reporting.claims.verdicts import verdicts
from dllmquant_exp.reporting.comparable import ModelResults
from dllmquant_exp.reporting.figures.recordings import FigureData, all_deciding, of_model
from dllmquant_exp.reporting.statistics import ALPHA

CLAIMS = {claim.name: claim for claim in figure_claims()}
SPREAD = np.exp(np.random.default_rng(0).normal(0, 0.05, 1000))


def ratio(value: float, n: int = 16) -> dict[str, Any]:
    """A recorded ratio near a value; single prompts' are within some 5% of it."""
    return measurement.ratio(value * SPREAD[:n], np.ones(n))


def noise(unmasked: dict[str, Any], low_score: dict[str, Any]) -> dict[str, Any]:
    """Figure 4's numbers; behind the last block nothing is passed on."""
    found = {"unmasked over high score": unmasked, "low score over high score": low_score}
    nothing = {name: measurement.ratio(np.zeros(16), np.zeros(16)) for name in found}
    return {
        f"{measure}, block {layer}": found if layer == 2 else nothing
        for measure in ("logit_change", "final_changed")
        for layer in (0, 2, 5)
    }


def errors(own: float, same: float, removed: float = 0.1, n: int = 16) -> dict[str, Any]:
    def panel(growth: float) -> dict[str, Any]:
        variants = {
            f"{bits} {row}": {"last_over_first": ratio(growth, n)}
            for bits in ("INT8", "INT4")
            for row in ("rtn", "quarot")
        }
        star = measurement.share_removed((1 - removed) * SPREAD[:n], np.ones(n))
        stars = {f"{bits} quarot*": {"removed_of_quarot": star} for bits in ("INT8", "INT4")}
        return {**variants, **stars}

    return {"own_states": panel(own), "same_states": panel(same)}


def figure(
    name: str,
    found: dict[str, Any],
    prompts: int = 16,
    model: str = "m",
    digest: str | None = "sha256:1",
    started: str = "2026-01-01",
    seed: int = 0,
    **changed: object,
) -> FigureData:
    settings = {"blocks": 4, "seed": seed}
    info = {
        "figure": name,
        "model": {"name": model},
        "config": {"prompts": prompts, "checkpoint_digest": digest, "settings": settings},
        "seed": seed,
        "changed": changed,
        "timing": {"started_at": started},
        "numbers": found,
    }
    folder = Path(f"{name}-{prompts}-{started}" + (f"-s{seed}" if seed else ""))
    return FigureData(folder, {"layers": np.array([0, 2, 5])}, info)


def found(name: str, *figures: FigureData) -> Measured:
    measured = CLAIMS[name].measure(figures)
    assert isinstance(measured, Measured)
    return measured


def needs(name: str, *figures: FigureData) -> str:
    measured = CLAIMS[name].measure(figures)
    assert isinstance(measured, Unmeasured)
    return measured.needs


def verdict(name: str, *figures: FigureData) -> str:
    """The verdict of this test alone, without correction."""
    claim, measured = CLAIMS[name], found(name, *figures)
    assert measured.p is not None
    estimate = measured.found.estimate
    inside = estimate.low - 1e-9 <= claim.threshold <= estimate.high + 1e-9
    assert (measured.p >= ALPHA) == inside  # interval and p never contradict
    if measured.p >= ALPHA:
        return "undecided"
    beyond = (estimate.value > claim.threshold) != (claim.below is not None)
    return "holds" if beyond else "does not hold"


def test_without_figures_each_claim_names_its_own() -> None:
    for claim in figure_claims():
        assert needs(claim.name) == f"the command figures figure={claim.figure[-1]}"


def test_errors_grow_on_own_states_or_on_equal_ones() -> None:
    """Two claims, as the answers can be opposite ones."""
    data = figure("figure2", errors(own=2.0, same=0.5))
    for name in ("int8_rtn", "int4_rtn", "int8_quarot", "int4_quarot"):
        assert verdict(f"error_grows_{name}_own_states", data) == "holds"
        assert verdict(f"error_grows_{name}_same_states", data) == "does not hold"
    unclear = figure("figure2", errors(own=1.001, same=1.001))
    assert verdict("error_grows_int4_rtn_own_states", unclear) == "undecided"
    own, same = (CLAIMS[f"error_grows_int4_rtn_{panel}_states"] for panel in ("own", "same"))
    assert "each model on its own states" in own.sentence
    assert "both models on the full-precision model's states" in same.sentence


@pytest.mark.parametrize(
    ("removed", "expected"), [(0.5, "holds"), (1 / 3, "undecided"), (0.1, "does not hold")]
)
def test_a_third_of_the_error_is_a_main_source(removed: float, expected: str) -> None:
    data = figure("figure2", errors(1.0, 1.0, removed))
    for which in ("int8_own_states", "int8_same_states", "int4_own_states", "int4_same_states"):
        name = f"post_softmax_product_is_a_main_source_{which}"
        assert verdict(name, data) == expected
        measured = found(name, data)
        assert (measured.n, measured.what) == (16, "figure2-16-2026-01-01")
        assert measured.found.estimate.value == pytest.approx(removed, abs=0.03)


@pytest.mark.parametrize(
    ("share", "do_not", "less"),
    [
        (0.02, "holds", "holds"),
        (0.5, "does not hold", "holds"),
        (1.5, "does not hold", "does not hold"),
    ],
)
def test_propagation_is_that_behind_the_middle_block(share: float, do_not: str, less: str) -> None:
    data = figure("figure4", noise(ratio(share), ratio(1.001)))
    assert verdict("unmasked_errors_do_not_propagate", data) == do_not
    assert verdict("unmasked_errors_matter_less", data) == less
    assert verdict("low_score_errors_matter_less", data) == "undecided"


def test_hardly_anything_changed_is_no_certainty() -> None:
    """Eight recorded prompts: with noise at high scores 6 of them end otherwise, at low ones 1."""
    high = np.array([2, 1, 0, 1, 3, 1, 0, 2]) / 32
    low = np.array([0, 0, 1, 0, 0, 0, 0, 0]) / 32
    data = figure(
        "figure4", noise(measurement.ratio(0 * high, high), measurement.ratio(low, high)), 8
    )
    unmasked = found("unmasked_errors_matter_less", data)
    assert unmasked.p == pytest.approx(2 / 2**6)  # the two ways that all six point one way
    assert unmasked.found.estimate.value == 0
    low_score = found("low_score_errors_matter_less", data)
    assert low_score.p is not None and low_score.p > 0.03
    assert low_score.found.estimate.high > 0.2


def _only(number: dict[str, Any]) -> dict[str, Any]:
    return {"own_states": {"INT4 rtn": {"last_over_first": number}}}


def test_limits_that_are_not_there_are_infinite() -> None:
    below = np.array([1.0, 0, 0, 0, 0, 0])
    name = "error_grows_int4_rtn_own_states"
    measured = found(name, figure("figure2", _only(measurement.ratio(np.ones(6), below)), 6))
    assert measured.found.estimate.high == math.inf
    assert (
        verdict(name, figure("figure2", _only(measurement.ratio(np.ones(6), below)))) == "undecided"
    )


def test_states_that_differ() -> None:
    data = (
        figure("figure6", {"first_to_last_over_chance": ratio(8.0, 12)}),
        figure("figure1", {"first_to_last_over_neighbours": ratio(0.8)}),
    )
    assert verdict("early_and_late_states_differ", *data) == "holds"
    assert found("early_and_late_states_differ", *data).n == 12
    assert verdict("adjacent_states_are_alike", *data) == "does not hold"


def test_the_models_own_settings_then_most_prompts_then_the_newest_decide() -> None:
    name = "error_grows_int4_rtn_own_states"
    few, many = (figure("figure2", errors(1, 1, n=n), prompts=n) for n in (8, 64))
    newer = figure("figure2", errors(1, 1, n=64), prompts=64, started="2026-02-01")
    loud = figure("figure2", errors(1, 1, n=99), prompts=99, steps=16, task="other")
    assert found(name, many, few).what == many.folder.name
    assert found(name, newer, loud, many, few).what == newer.folder.name
    others = "other settings: steps=16, task=other"
    assert needs(name, loud) == f"the command figures figure=2 ({others})"


def of_seeds(*growths: float, n: int = 16) -> list[FigureData]:
    """Figure 2 of several seeds, whose errors grow by so much."""
    return [figure("figure2", errors(g, g, n=n), n, seed=k) for k, g in enumerate(growths)]


def test_several_seeds_decide_together() -> None:
    """Prompts' values are averaged; what seeds differ by goes into the interval, by Student's t."""
    name = "error_grows_int4_quarot_own_states"
    one, same = found(name, *of_seeds(1.2)), found(name, *of_seeds(1.2, 1.2, 1.2))
    assert same.limits[0] == pytest.approx(one.limits[0])
    assert same.limits[1] == one.limits[1] and same.limits[2] == one.limits[2]
    assert same.p is not None and one.p is not None
    assert (same.found.seeds, same.n) == (3, 16) and same.p == pytest.approx(one.p)
    assert same.what == "figure2-16-2026-01-01, figure2-16-2026-01-01-s1, figure2-16-2026-01-01-s2"
    assert "other seeds (3 were run)" in same.found.covers and "seed" not in one.found.covers

    growths = np.array([1.0, 1.2, 1.4])
    apart = found(name, *of_seeds(*growths))
    middle = growths.mean() * SPREAD[:16].mean()
    margin = t.ppf(0.975, 2) * growths.std(ddof=1) * SPREAD[:16].mean() / math.sqrt(3)
    assert apart.limits[0] == pytest.approx(middle)
    low, high = (abs(limit - middle) for limit in (apart.limits[1], apart.limits[2]))
    items = found(name, *of_seeds(float(growths.mean()))).found.estimate
    assert low == pytest.approx(math.hypot(margin, middle - items.low))
    assert high == pytest.approx(math.hypot(margin, items.high - middle))
    assert verdict(name, *of_seeds(1.2)) == "holds"
    assert verdict(name, *of_seeds(*growths)) == "undecided"

    star = "post_softmax_product_is_a_main_source_int4_own_states"
    shares = [0.2, 0.5, 0.8]
    made = [
        figure("figure2", errors(1.0, 1.0, share), seed=seed) for seed, share in enumerate(shares)
    ]
    of_share = found(star, *made)
    middle, error = SPREAD[:16].mean(), np.std(shares, ddof=1) / math.sqrt(3)
    assert of_share.limits[0] == pytest.approx(1 - middle / 2)
    items = found(star, figure("figure2", errors(1.0, 1.0, 0.5))).found.estimate
    high = math.hypot(items.high - items.value, t.ppf(0.975, 2) * error * middle)
    assert of_share.limits[2] == pytest.approx(of_share.limits[0] + min(high, middle / 2))
    assert verdict(star, *made) == "undecided" and verdict(star, made[2]) == "holds"


@pytest.mark.parametrize(("shares", "expected"), [((0.04, 0.05, 0.06), "holds"),
                                                  ((0.01, 0.05, 0.3), "undecided")])  # fmt: skip
def test_several_seeds_of_a_claim_that_something_is_small(
    shares: tuple[float, ...], expected: str
) -> None:
    figures = [
        figure("figure4", noise(ratio(share), ratio(1.0)), seed=seed)
        for seed, share in enumerate(shares)
    ]
    name = "unmasked_errors_do_not_propagate"
    assert verdict(name, *figures) == expected
    assert found(name, *figures).limits[1] >= 0


def test_a_claim_that_something_is_small_holds_below_its_threshold() -> None:
    """As the report decides it, corrected for all claims about figures."""
    data = figure("figure4", noise(ratio(0.02), ratio(1.0)))
    evidence = {"scores": ModelResults("m", embedded=True), "figures": [data]}
    decided = {of["claim"]: of["verdict"] for of in verdicts(evidence)}
    assert decided["unmasked_errors_do_not_propagate"] == "holds"
    assert decided["low_score_errors_do_not_propagate"] == "does not hold"


def test_a_seed_in_which_nothing_happened_counts() -> None:
    """As 0 of what happened on average; its own ratio would be 0/0."""
    nothing = measurement.ratio(np.zeros(16), np.zeros(16))
    figures = [
        figure("figure4", noise(share, ratio(1.0)), seed=seed)
        for seed, share in enumerate((ratio(0.05), nothing))
    ]
    measured = found("unmasked_errors_do_not_propagate", *figures)
    assert measured.limits[0] == pytest.approx(0.05 * SPREAD[:16].mean())


def test_older_recordings_name_their_seed_as_changed() -> None:
    name = "error_grows_int4_quarot_own_states"
    older = figure("figure2", errors(1.0, 1.0), seed=1)
    older.info["changed"]["seed"] = 1  # type: ignore[index]
    assert found(name, *of_seeds(1.0), older).found.seeds == 2


def test_recordings_all_deciding_one_group_per_figure() -> None:
    first, second = of_seeds(1.0, 1.2)
    other = figure("figure2", errors(1.0, 1.0), steps=16)
    ranges = figure("figure1", {})
    assert all_deciding([second, other, first, ranges]) == [ranges, first, second]


def test_seeds_come_together_where_nothing_else_differs() -> None:
    """Per seed the newest counts; then most prompts; then more seeds before newer ones."""
    name = "error_grows_int4_quarot_own_states"
    older, other, third = of_seeds(1.0, 2.0, 3.0)
    newer = figure("figure2", errors(1.5, 1.5), started="2026-02-01")
    assert found(name, older, newer, other, third).what.split(", ")[0] == newer.folder.name
    many = figure("figure2", errors(1.0, 1.0, n=64), prompts=64)
    assert found(name, older, other, many).what == many.folder.name
    settings = {"blocks": 2, "seed": 0}
    info = {**newer.info, "config": {**newer.info["config"], "settings": settings}}
    coarser = FigureData(Path("coarser"), newer.arrays, info)
    assert found(name, coarser, older, other).found.seeds == 2


def test_seeds_that_vary_are_no_certainty() -> None:
    """At the threshold on average, and seeds that differ by more than their prompts' averages do:
    about 5% wrong at 5%."""
    generator, wrong = np.random.default_rng(0), 0
    star = "post_softmax_product_is_a_main_source_int4_own_states"
    for _ in range(400):
        left = np.exp(generator.normal(0, 0.1, (3, 1)) + generator.normal(0, 0.1, 10))
        figures = []
        for k, prompts in enumerate(left * (1 - CLAIMS[star].threshold)):
            number = {"n": 10, "value": 1, "above": prompts.tolist(), "below": [1.0] * 10}
            of = {"own_states": {"INT4 quarot*": {"removed_of_quarot": number}}}
            figures.append(figure("figure2", of, 10, seed=k))
        measured = found(star, *figures)
        assert measured.p is not None
        wrong += measured.p < ALPHA
    assert 4 <= wrong <= 32


def test_what_too_few_prompts_or_no_event_need() -> None:
    name = "error_grows_int4_rtn_own_states"
    one = figure("figure2", errors(2, 2, n=LEAST_PROMPTS - 1))
    assert needs(name, one) == "the command figures figure=2 with at least 6 prompts"
    enough = found(name, figure("figure2", errors(2, 2, n=LEAST_PROMPTS)))
    assert enough.p is not None and enough.p < ALPHA  # the least number that can decide
    nothing = figure("figure2", _only(measurement.ratio(np.zeros(8), np.zeros(8))))
    evidence = {"scores": ModelResults("m", embedded=True), "figures": [nothing]}
    decided = {v["claim"]: v for v in verdicts(evidence)}
    assert decided[name]["verdict"] == "no event"
    assert "more than 8 prompts" in decided[name]["needs"]


@pytest.mark.parametrize(
    "lacking",
    [{}, {"own_states": {}}, {"own_states": None}, _only({"value": 1.0}), _only({"n": 8})],
    ids=str,
)
def test_a_recording_without_the_number_is_named(lacking: dict[str, Any]) -> None:
    text = needs("error_grows_int4_rtn_own_states", figure("figure2", lacking))
    assert text.startswith("the command figures figure=2 again (what is recorded lacks")
    assert "delete figure2-" in text


def test_figures_of_other_models_and_checkpoints_do_not_count() -> None:
    made = [figure("figure1", {}, model=model) for model in ("m", "other")]
    assert of_model(made, "m") == [made[0]]
    assert of_model(made, "m", {"sha256:1"}) == [made[0]]
    (other,) = of_model(made, "m", {"sha256:2"})
    text = needs("adjacent_states_are_alike", other)
    assert "other settings: checkpoint=another than the results'" in text
    unknown = figure("figure1", {}, digest=None)
    assert of_model([unknown], "m", {"sha256:2"}) == [unknown]
