"""Claims about a decode: verdicts from made-up recorded numbers whose answer is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dllmquant_exp.reporting.claims import Verdict, verdicts
from dllmquant_exp.reporting.figure_claims import FIGURE_CLAIMS, of_model
from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.selection import ModelResults

NOTHING = ModelResults("micro", embedded=True)


def number(value: float | None, spread: float = 1.05, n: int = 16) -> dict[str, Any]:
    """A recorded number whose interval reaches from value / spread to value * spread."""
    limits = (None, None) if value is None else (value / spread, value * spread)
    return {"value": value, "low": limits[0], "high": limits[1], "n": n}


def noise(unmasked: dict[str, Any], low_score: dict[str, Any]) -> dict[str, Any]:
    """Figure 4's numbers; behind the last block nothing is passed on."""
    found = {"unmasked over high score": unmasked, "low score over high score": low_score}
    nothing = {name: number(None) for name in found}
    return {
        f"{measure}, block {layer}": found if layer == 2 else nothing
        for measure in ("logit_change", "final_changed")
        for layer in (0, 2, 5)
    }


def errors(growth: float, removed: float) -> dict[str, Any]:
    variants = {
        f"{bits} {row}": {"last_over_first": number(growth)}
        for bits in ("INT8", "INT4")
        for row in ("rtn", "quarot")
    }
    return {"own_states": {**variants, "INT4 quarot*": {"removed_of_quarot": number(removed)}}}


def figure(name: str, numbers: dict[str, Any], prompts: int = 16, model: str = "m") -> FigureData:
    info = {
        "figure": name,
        "model": {"name": model},
        "config": {"prompts": prompts},
        "timing": {"started_at": "2026-01-01"},
        "numbers": numbers,
    }
    return FigureData(Path(f"{name}-{prompts}"), {"layers": np.array([0, 2, 5])}, info)


def decide(*figures: FigureData) -> dict[str, Verdict]:
    return {verdict.name: verdict for verdict in verdicts(NOTHING, figures)}


def test_without_figures_each_claim_names_its_own() -> None:
    found = decide()
    for claim in FIGURE_CLAIMS:
        verdict = found[claim.name]
        assert verdict.verdict == "not measured"
        assert verdict.needs == f"the command figures figure={claim.figure[-1]}"


@pytest.mark.parametrize(
    ("growth", "verdict"), [(2.0, "holds"), (0.5, "does not hold"), (1.01, "undecided")]
)
def test_errors_grow_where_the_last_step_is_worse(growth: float, verdict: str) -> None:
    found = decide(figure("figure2", errors(growth, 0.1)))
    for name in ("int8_rtn", "int4_rtn", "int8_quarot", "int4_quarot"):
        assert found[f"error_grows_{name}"].verdict == verdict
    assert found["error_grows_int4_rtn"].unit == "ratio"
    assert found["post_softmax_product_is_a_main_source"].verdict == "does not hold"


def test_half_of_the_error_is_a_main_source() -> None:
    found = decide(figure("figure2", errors(1.0, 0.5)))["post_softmax_product_is_a_main_source"]
    assert (found.verdict, found.unit, found.n) == ("holds", "share", 16)
    assert found.effect is not None and found.effect.value == 0.5
    assert found.comparison == "figure2-16"


@pytest.mark.parametrize(
    ("share", "do_not", "less"),
    [
        (0.02, "holds", "holds"),
        (0.5, "does not hold", "holds"),
        (1.5, "does not hold", "does not hold"),
    ],
)
def test_propagation_is_that_behind_the_middle_block(share: float, do_not: str, less: str) -> None:
    found = decide(figure("figure4", noise(number(share), number(1.0, 1.5))))
    assert found["unmasked_errors_do_not_propagate"].verdict == do_not
    assert found["unmasked_errors_matter_less"].verdict == less
    assert found["low_score_errors_matter_less"].verdict == "undecided"


def test_states_that_differ() -> None:
    found = decide(
        figure("figure6", {"first_to_last_over_chance": number(8.0, n=192)}),
        figure("figure1", {"first_to_last_over_neighbours": number(0.9)}),
    )
    assert found["early_and_late_states_differ"].verdict == "holds"
    assert found["early_and_late_states_differ"].n == 192
    assert found["adjacent_states_are_alike"].verdict == "does not hold"


def test_the_figure_with_most_prompts_counts_and_one_prompt_does_not() -> None:
    few, many = (figure("figure2", errors(g, 0.1), prompts=p) for g, p in ((0.5, 8), (2.0, 64)))
    assert decide(many, few)["error_grows_int4_rtn"].comparison == "figure2-64"
    single = errors(2.0, 0.1)
    single["own_states"]["INT4 rtn"]["last_over_first"]["low"] = None
    assert "more prompts" in decide(figure("figure2", single))["error_grows_int4_rtn"].needs


def test_figures_of_other_models_do_not_count() -> None:
    made = [figure("figure1", {}, model=model) for model in ("m", "other")]
    assert of_model(made, "m") == [made[0]]
