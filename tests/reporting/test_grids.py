"""Parts of a table as text, and what a terminal makes of them."""

import io

import pytest
from rich.console import Console

from dllmquant_exp.reporting.grids import Grid, points, show
from dllmquant_exp.reporting.statistics import Estimate

GRID = Grid(
    "scores",
    ("Hum.", "GSM8K", "Avg."),
    (("AWQ", ("1.0 ±2", "3.0 ±4", "-")), ("Qua|Rot", ("5.0", "failed", "7.0"))),
    (("items", ("10", "20", "30")),),
    frozenset({(0, 1), (1, 2)}),
)


@pytest.mark.parametrize(
    ("estimate", "sign", "text"),
    [
        (Estimate(0.887, 0.878, 0.896), False, "88.7 ±0.9"),
        (Estimate(-0.013, -0.02, -0.004), True, "-1.3* ±0.8"),
        (Estimate(0.013, -0.02, 0.04), True, "+1.3 ±3.0"),
        (Estimate(-0.0004, -0.02, 0.02), True, "0.0 ±2.0"),
        (Estimate(0.0004, -0.02, 0.02), True, "0.0 ±2.0"),
        (None, True, "-"),
        (Estimate(0.98, 0.95, 0.995), False, "98.0 -3.0 +1.5"),  # ± would pass 100
        (Estimate(0.5, 0.4, 0.56), False, "50.0 -10.0 +6.0"),  # and be two points off
        (Estimate(0.5, 0.4, 0.585), False, "50.0 ±9.2"),  # three quarters of a point
        (Estimate(-0.95, -1.0, -0.6), True, "-95.0* -5.0 +35.0"),
    ],
)
def test_points(estimate: Estimate | None, sign: bool, text: str) -> None:
    assert points(estimate, sign=sign) == text


def test_columns_are_picked_with_their_marks() -> None:
    picked = GRID.only(["Avg.", "GSM8K"])
    assert picked.columns == ("Avg.", "GSM8K")
    assert picked.lines == (("AWQ", ("-", "3.0 ±4")), ("Qua|Rot", ("7.0", "failed")))
    assert picked.footer == (("items", ("30", "20")),)
    assert picked.best == {(0, 1), (1, 0)}


def printed(grid: Grid, width: int = 80, **settings: int) -> list[str]:
    out = io.StringIO()
    show([grid], ["a note"], Console(file=out, width=width), **settings)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_intervals_stand_under_their_values() -> None:
    lines = printed(GRID)
    assert lines[0] == "scores" and lines[-1] == "a note"
    row = next(i for i, line in enumerate(lines) if "AWQ" in line)
    assert lines[row].split() == ["AWQ", "1.0", "3.0", "-"]
    assert lines[row + 1].split() == ["±2", "±4"]


def test_two_distances_stand_under_their_value_starred_or_not() -> None:
    for value in ("98.0", "-95.0*"):
        lines = printed(Grid("t", ("PIQA",), (("AWQ", (f"{value} -5.0 +35.0",)),)))
        row = next(i for i, line in enumerate(lines) if "AWQ" in line)
        assert [line.split() for line in lines[row : row + 3]] == [
            ["AWQ", value], ["-5.0"], ["+35.0"]
        ]  # fmt: skip


def test_long_names_go_on_below_and_sentences_too() -> None:
    sentence = "rows that were calibrated on as many samples as this one"
    grid = Grid("t", ("needs",), (("AWQ + TMAS + CGQ + IA-AQ", (sentence,)),))
    lines = printed(grid, name_width=14)
    assert max(map(len, lines)) < 60
    assert any(line.split()[:3] == ["AWQ", "+", "TMAS"] for line in lines)
    assert " ".join(" ".join(lines).split()).count("this one") == 1


def test_brackets_are_text_and_not_markup() -> None:
    grid = Grid("t", ("x",), (("proportions=[0.3, 0.2] [red]", ("[bold]",)),))
    text = "\n".join(printed(grid, name_width=60))
    assert "proportions=[0.3, 0.2] [red]" in text and "[bold]" in text
