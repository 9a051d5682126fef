"""Figures 7 and 8 from made-up results whose averages are known."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_figures import overlaps, small_texts
from made_results import TASKS

from dllmquant_exp.reporting.comparable import ModelResults, model_results
from dllmquant_exp.reporting.figures.catalog import draw_results
from dllmquant_exp.reporting.figures.scores import (
    averages,
    draw_ablation,
    draw_drops,
    drops,
    gains,
    paper_drops,
)
from dllmquant_exp.reporting.figures.style import COLUMN, styled
from dllmquant_exp.reporting.frame import Cell, to_frame
from dllmquant_exp.reporting.paper import paper_rows
from dllmquant_exp.reporting.statistics import average_over_seeds

Made = Callable[..., Cell]


def results(made: Made, embedded: bool = True, model: str = "micro") -> ModelResults:
    """fp, rtn, awq, awq_tmas (on eight tasks only) and quarot, ten items a task."""
    right = {"fp": 9, "rtn": 4, "awq": 5, "awq_tmas": 6, "quarot": 7}
    cells = [
        made(row, task, [1] * count + [0] * (10 - count), embedded=embedded, model=model)
        for row, count in right.items()
        for task in TASKS
        if (row, task) != ("awq_tmas", "arc")
    ]
    (found,) = model_results(to_frame(cells))
    return found


def test_rows_without_all_nine_tasks_are_left_out(made: Made) -> None:
    found = results(made)
    ablation, changes = averages(found, paper_rows(2)), drops(found)
    assert list(ablation.index) == ["awq", "quarot"]
    assert list(changes.index) == ["rtn", "awq", "quarot"]
    scores = np.array([[1] * 5 + [0] * 5])
    plain = np.array([[1] * 9 + [0]])
    expected = average_over_seeds([scores] * 9).estimate
    assert ablation.loc["awq", "value"] == pytest.approx(100 * expected.value)
    assert ablation.loc["awq", "low"] == pytest.approx(100 * expected.low)
    change = average_over_seeds([scores] * 9, [plain] * 9).estimate
    assert changes.loc["awq", "high"] == pytest.approx(100 * change.high)
    assert averages(found, ["fp"]).loc["fp", "value"] == pytest.approx(90)


def test_ablation_and_drops_are_drawn(made: Made) -> None:
    found = results(made)
    with styled():
        ablation, changes = draw_ablation(found), draw_drops(found)
        assert ablation is not None and changes is not None
        for figure in (ablation, changes):
            figure.draw_without_rendering()
            assert figure.get_figwidth() == COLUMN and not small_texts(figure)
    assert not overlaps(ablation) and not overlaps(changes)
    (axes,) = ablation.axes  # AWQ + TMAS lacks a task: nothing is added to AWQ or QuaRot
    assert [t.get_text() for t in axes.get_yticklabels()] == ["AWQ", "QuaRot"]
    assert [float(c.lines[0].get_xdata()[0]) for c in axes.containers] == pytest.approx([50, 70])  # type: ignore[attr-defined]
    left, right = changes.axes
    assert len(right.containers) == 3 and len(left.lines) == 3 + 1  # three models and the zero
    assert "stand-in" in right.get_title("left") and "paper" in left.get_title("left")


def test_gains_are_over_the_row_that_components_are_added_to(made: Made) -> None:
    right = {"awq": 5, "awq_tmas": 6, "quarot": 7, "quarot_tmas": 4, "quarot_tmas_cgq": 9}
    cells = [
        made(row, task, [1] * count + [0] * (10 - count))
        for row, count in right.items()
        for task in TASKS
    ]
    (found,) = model_results(to_frame(cells))
    assert gains(found)["value"].round().to_dict() == {
        "awq_tmas": 10, "quarot_tmas": -30, "quarot_tmas_cgq": 20,
    }  # fmt: skip
    one, other = np.array([[1] * 6 + [0] * 4]), np.array([[1] * 5 + [0] * 5])
    expected = average_over_seeds([one] * 9, [other] * 9).estimate
    assert gains(found).loc["awq_tmas", "low"] == pytest.approx(100 * expected.low)
    with styled():
        figure = draw_ablation(found)
        assert figure is not None
        figure.draw_without_rendering()
    assert not small_texts(figure) and not overlaps(figure)
    upper, lower = figure.axes
    assert (len(upper.containers), len(lower.containers)) == (5, 3)
    colours = [container.lines[0].get_color() for container in upper.containers]  # type: ignore[attr-defined]
    assert len(set(colours[:2])) == len(set(colours[2:])) == 1 and colours[0] != colours[2]


def test_a_model_of_the_paper_is_compared_with_its_own_numbers(made: Made) -> None:
    found = results(made, embedded=False, model="dream_7b")
    with styled():
        figure = draw_drops(found)
    assert figure is not None
    left, right = figure.axes
    assert len(left.lines) == 1 + 1 and "stand-in" not in right.get_title("left")


def test_printed_drops_are_averages_of_the_printed_scores() -> None:
    # Table 1, LLADA: nine scores of FP and of RTN
    fp = (47.49, 44.03, 54.06, 74.9, 74.65, 65.85, 69.54, 32.92, 67.48)
    rtn = (40.45, 41.83, 45.40, 64.72, 67.95, 49.26, 57.95, 14.02, 16.56)
    printed = paper_drops("llada_8b")
    assert printed["rtn"] == pytest.approx(sum(rtn) / 9 - sum(fp) / 9)
    assert set(printed) == {"rtn", "awq", "dllmquant_plus", "quarot", "dllmquant_plusplus"}


def test_results_that_are_not_there_are_named(made: Made, tmp_path: Path) -> None:
    assert "run table=table2 first" in draw_results("figure7", tmp_path, "tables", "micro")[1]
    made("fp", "piqa", [1, 0])
    paths, missing = draw_results("figure8", tmp_path / "runs", "tables", "micro")
    assert not paths and "run table=table1 first" in missing
    results(made)
    paths, missing = draw_results("figure8", tmp_path / "runs", "tables", "micro")
    assert not missing and [path.suffix for path in paths] == [".png", ".pdf"]
    assert all(path.is_file() for path in paths)
    assert json.dumps([path.name for path in paths]) == '["figure8.png", "figure8.pdf"]'
