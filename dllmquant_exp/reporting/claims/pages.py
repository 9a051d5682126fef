"""Verdicts on the paper's claims as text and as a data frame."""

from collections.abc import Mapping, Sequence

import pandas as pd

from dllmquant_exp.reporting.claims.verdicts import COLUMNS, Verdict
from dllmquant_exp.reporting.render import Document, Grid, Section, signed

CAPTION = (
    "Effects in points (or in the unit that is named) with 95% intervals, from the same items in "
    "both rows; figures' effects are over prompts (and seeds), speed's over rounds. A claim holds, "
    "or does not, where p stays below 0.05 after Holm's correction over the claims of one model "
    "and kind: scores, scores with as many calibration states, figures, speed (and, in the count "
    "of tasks, over its comparisons). Detectable: how far from the claim's threshold an effect "
    "must lie to be found in 80 of 100 repetitions with so many items and seeds, by its 95% "
    "interval alone; in brackets, as the first of its kind that Holm tests. For the count of tasks "
    "it is a difference on one task, in points; for speed a factor on the threshold; for a sum the "
    "largest of its parts', each tested by itself."
)


def claims_document(
    found: Mapping[str, Sequence[Verdict]], notes: Mapping[str, Sequence[str]]
) -> Document:
    """The content of the files of `report claims`: a section per model, with that model's notes.
    Its frame has a line per model and claim; effects, thresholds and detectable effects in points.

    found: verdicts by the model's title.
    """
    sections = [
        Section(model, tuple(_grids(verdicts)), tuple(notes.get(model, ())))
        for model, verdicts in found.items()
    ]
    lines = [{"model": model, **line} for model, verdicts in found.items() for line in verdicts]
    frame = pd.DataFrame(lines, columns=["model", *COLUMNS]).set_index("model")
    return Document("claims", "The paper's claims", CAPTION, tuple(sections), frame)


def _grids(verdicts: Sequence[Verdict]) -> list[Grid]:
    """Claims with their numbers, then those that were not measured with what they need."""
    columns = ("verdict", "effect", "p (Holm)", "n", "seeds", "detectable")
    measured = [(line["sentence"], _texts(line)) for line in verdicts if not line["needs"]]
    others = [
        (line["sentence"], (line["verdict"], line["needs"])) for line in verdicts if line["needs"]
    ]
    grids = [
        Grid("claims that these results decide", columns, tuple(measured)),
        Grid("not measured, at chance or without an event", ("verdict", "needs"), tuple(others)),
    ]
    return [grid for grid in grids if grid.lines]


def _texts(line: Verdict) -> tuple[str, ...]:
    unit, numbers = line["unit"], (line["effect"], line["low"], line["high"])
    if unit == "tasks":
        text = "{:.0f} tasks ({:.0f} to {:.0f})".format(*numbers)
    elif unit == "points":
        text = "{} ({} to {})".format(*map(signed, numbers))
    elif unit == "times":
        text = "{:.2f} times ({:.2f} to {:.2f})".format(*numbers)
    else:
        text = "{} {:.2f} ({:.2f} to {:.2f})".format(unit, *numbers)
    p, digits = line["p_holm"], 1 if unit in ("points", "tasks") else 2
    p_text = "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
    detectable = "-"
    if line["detectable"] is not None:
        sign = "x" if unit == "times" else ""
        alone, first = (
            f"{sign}{line[key]:.{digits}f}" for key in ("detectable", "detectable_holm")
        )
        detectable = f"{alone} ({first})"
    return (line["verdict"], text, p_text, str(line["n"]), str(line["seeds"]), detectable)
