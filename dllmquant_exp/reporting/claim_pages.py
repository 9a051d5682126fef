"""Verdicts on the paper's claims as text and as a data frame."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.claims import Verdict
from dllmquant_exp.reporting.grids import Grid, signed
from dllmquant_exp.reporting.writers import Document, Section

COLUMNS = (
    "model", "claim", "sentence", "verdict", "comparison", "unit", "effect", "low", "high",
    "threshold", "p", "p_holm", "n", "seeds", "detectable", "detectable_holm", "covers", "needs",
)  # fmt: skip
CAPTION = (
    "Effects in points (or in the unit that is named) with 95% intervals, from the same items in "
    "both rows; those of figures are over prompts (and seeds), speed's over rounds. A claim holds, "
    "or does not, where p stays below 0.05 after Holm's correction over the claims of one model "
    "and kind: scores, scores with as many calibration states, figures, speed (and, in the count "
    "of tasks, over its comparisons). Detectable: how far from the claim's threshold an effect "
    "must lie to be found in 80 of 100 repetitions with so many items and seeds, by its 95% "
    "interval alone; in brackets, as the first of its kind that Holm tests. That of the count of "
    "tasks is a difference on one task, in points; that of speed a factor on the threshold; that "
    "of a sum the largest of its parts', each tested by itself."
)
Found = Mapping[str, Sequence[Verdict]]  # by the model's title


def claims_frame(found: Found) -> pd.DataFrame:
    """One line per model and claim. Effects, thresholds and detectable effects in points."""
    lines = [_line(model, verdict) for model, verdicts in found.items() for verdict in verdicts]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(model: str, verdict: Verdict) -> dict[str, Any]:
    scale = 100 if verdict.unit == "points" else 1
    of_detectable = 100 if verdict.unit in ("points", "tasks") else 1
    effect = verdict.effect
    measured = effect is not None
    return {
        "model": model,
        "claim": verdict.name,
        "sentence": verdict.sentence,
        "verdict": verdict.verdict,
        "comparison": verdict.comparison,
        "unit": verdict.unit if measured else "",
        "effect": scale * effect.value if effect else None,
        "low": scale * effect.low if effect else None,
        "high": scale * effect.high if effect else None,
        "threshold": scale * verdict.threshold if measured else None,
        "p": verdict.p,
        "p_holm": verdict.adjusted,
        "n": verdict.n,
        "seeds": verdict.seeds,
        "detectable": None if verdict.detectable is None else of_detectable * verdict.detectable,
        "detectable_holm": (
            None if verdict.detectable_first is None else of_detectable * verdict.detectable_first
        ),
        "covers": verdict.covers,
        "needs": verdict.needs,
    }


def claims_document(found: Found, notes: Mapping[str, Sequence[str]]) -> Document:
    """What the files of `report claims` say; a section per model, with that model's notes."""
    sections = [
        Section(model, tuple(claims_grids(verdicts)), tuple(notes.get(model, ())))
        for model, verdicts in found.items()
    ]
    frame = claims_frame(found).set_index("model")
    return Document("claims", "The paper's claims", CAPTION, tuple(sections), frame)


def claims_grids(verdicts: Sequence[Verdict]) -> list[Grid]:
    """Claims with their numbers, then those that were not measured with what they need."""
    columns = ("verdict", "effect", "p (Holm)", "n", "seeds", "detectable")
    measured = [(v.sentence, _texts(v)) for v in verdicts if not v.needs]
    others = [(v.sentence, (v.verdict, v.needs)) for v in verdicts if v.needs]
    grids = [
        Grid("claims that these results decide", columns, tuple(measured)),
        Grid("not measured, at chance or without an event", ("verdict", "needs"), tuple(others)),
    ]
    return [grid for grid in grids if grid.lines]


def _texts(verdict: Verdict) -> tuple[str, ...]:
    effect = verdict.effect
    assert effect is not None  # nothing is needed, so it was measured
    if verdict.unit == "tasks":
        text = f"{effect.value:.0f} tasks ({effect.low:.0f} to {effect.high:.0f})"
    elif verdict.unit == "points":
        value, low, high = (signed(100 * x) for x in (effect.value, effect.low, effect.high))
        text = f"{value} ({low} to {high})"
    elif verdict.unit == "times":
        text = f"{effect.value:.2f} times ({effect.low:.2f} to {effect.high:.2f})"
    else:
        text = f"{verdict.unit} {effect.value:.2f} ({effect.low:.2f} to {effect.high:.2f})"
    p = verdict.adjusted
    p_text = "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
    detectable = "-"
    if verdict.detectable is not None and verdict.detectable_first is not None:
        scale, digits = (100, 1) if verdict.unit in ("points", "tasks") else (1, 2)
        alone, first = scale * verdict.detectable, scale * verdict.detectable_first
        sign = "x" if verdict.unit == "times" else ""
        detectable = f"{sign}{alone:.{digits}f} ({sign}{first:.{digits}f})"
    return (verdict.verdict, text, p_text, str(verdict.n), str(verdict.seeds), detectable)
