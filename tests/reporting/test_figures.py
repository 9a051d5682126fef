"""Figures: files, data on the axes, nothing that overlaps; from recorded data and results alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_figures import STEPS, arrays_and_labels, recorded
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.figure_data import (
    ARRAYS_FILE,
    FIGURE_VERSION,
    INFO_FILE,
    NAMES,
    FigureData,
    load_figure,
    model_note,
    recorded_figures,
    save_arrays,
)
from dllmquant_exp.reporting.figure_maps import KEPT, MASKED, NEW, decode_image
from dllmquant_exp.reporting.figure_rows import (
    ablation_points,
    draw_ablation,
    draw_drops,
    drop_points,
    full_precision,
    gain_points,
    paper_drops,
)
from dllmquant_exp.reporting.figure_style import COLUMN, styled
from dllmquant_exp.reporting.figures import CAPTIONS, FIGURES, MEASURED, draw, draw_results
from dllmquant_exp.reporting.frame import to_frame
from dllmquant_exp.reporting.selection import ModelResults, model_results
from dllmquant_exp.reporting.statistics import average_over_seeds, mean_interval
from dllmquant_exp.store.results import ResultError

Made = Callable[..., CellResult]
TASKS = ("truthfulqa", "arc", "hellaswag", "winogrande", "piqa", "mmlu", "ceval", "humaneval",
         "gsm8k")  # fmt: skip


def made_figure(data: FigureData) -> Figure:
    with styled():
        figure = MEASURED[data.figure](data)
        figure.draw_without_rendering()
    return figure


def panels(figure: Figure) -> list[Axes]:
    """The axes without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def small_texts(figure: Figure) -> list[str]:
    """Texts of fewer than 5 points, which cannot be read in print."""
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and bool(artist.get_text()))
    return [t.get_text() for t in texts if t.get_fontsize() < 5]  # type: ignore[attr-defined]


def overlaps(figure: Figure) -> list[str]:
    """Texts outside of the axes (labels, panel letters, legends, the note) that lie over one, over
    each other or beyond the page. In pixels, with one to spare."""
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in [
            *figure.texts,
            *(t for axes in figure.axes for t in (axes.xaxis.label, axes.yaxis.label)),
            *(axes._left_title for axes in figure.axes),  # type: ignore[attr-defined]
            *(
                text
                for part in (figure, *figure.subfigs)
                for legend in part.legends
                for text in legend.get_texts()
            ),
        ]
        if text.get_text()
    ]
    width, height = figure.get_size_inches() * figure.dpi
    faults = [
        name
        for name, box in boxes
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]
    areas = [("axes", axes.get_window_extent().padded(-1)) for axes in figure.axes]
    for i, (name, box) in enumerate(boxes):
        others = [*areas, *boxes[i + 1 :]]
        faults += [f"{name} over {other}" for other, area in others if box.overlaps(area)]
    return faults


def test_every_figure_has_a_caption() -> None:
    assert list(FIGURES) == [f"figure{n}" for n in range(1, 10)] == sorted(CAPTIONS)


# (panels, lines of the first panel, images of the first panel)
@pytest.mark.parametrize(
    ("figure", "count", "lines", "images"),
    [
        ("figure1", 1, 3 + 1, 0),
        ("figure2", 4, 8 + 1, 0),
        ("figure3", 2, 2, 1),
        ("figure4", 3, 1, 1),
        ("figure5", 2, 2, 1),
        ("figure6", 3, 1, 0),
        ("figure9", 1, 0, 1),
    ],
)
def test_figures_have_their_panels_and_no_text_in_the_way(
    tmp_path: Path, figure: str, count: int, lines: int, images: int
) -> None:
    found = made_figure(recorded(tmp_path, figure))
    axes = panels(found)
    assert (len(axes), len(axes[0].lines), len(axes[0].images)) == (count, lines, images)
    assert found.get_figwidth() == COLUMN and not small_texts(found)
    assert not overlaps(found)
    assert any("stand-in" in text.get_text() for text in found.texts)
    assert axes[-1].get_xlabel() and any(a.get_ylabel() for a in axes)


def test_overlaps_are_noticed() -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots()
    figure.text(0.5, 0.5, "in the way")
    figure.text(0.9, 0.01, "beyond the page")
    figure.draw_without_rendering()
    assert overlaps(figure) == ["beyond the page", "in the way over axes"]


def test_ranges_are_medians_over_prompts(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure1")
    lines = {line.get_label(): line for line in made_figure(data).axes[0].lines}
    for name, place in (("maximum", 6), ("minimum", 0), ("median", 3)):
        expected = np.median(data.arrays["quantiles"][:, :, place], axis=0)
        assert np.asarray(lines[name].get_ydata()) == pytest.approx(expected)
    assert list(np.asarray(lines["maximum"].get_xdata())) == list(range(1, STEPS + 1))


def test_errors_are_summed_above_and_single_below(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure2")
    axes = made_figure(data).axes
    for column, name in enumerate(("same_states", "own_states")):
        mean = data.arrays[name].mean(1)  # [variants, steps]
        for variant in range(8):
            above, below = axes[column].lines[variant], axes[2 + column].lines[variant]
            assert np.asarray(below.get_ydata()) == pytest.approx(mean[variant])
            assert np.asarray(above.get_ydata()) == pytest.approx(np.cumsum(mean[variant]))
    styles = {(str(line.get_color()), line.get_linestyle()) for line in axes[0].lines[:8]}
    assert len(styles) == 8


def test_a_figure_without_any_error_can_be_drawn(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure2")
    flat = {name: np.zeros_like(value) for name, value in data.arrays.items()}
    found = made_figure(FigureData(data.folder, flat, data.info))
    assert found.axes[0].get_yscale() == "linear"


def test_the_grid_shows_status_by_hue_and_score_by_lightness(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure4")
    image, status = decode_image(data), data.arrays["status"]
    assert (image[..., 3] == 1).all()
    red, blue = image[..., 0], image[..., 2]
    assert (blue[status == MASKED] >= red[status == MASKED]).all()
    assert (red[status == KEPT] >= blue[status == KEPT]).all()
    green = image[..., 1]
    assert (green[status == NEW] >= np.maximum(red, blue)[status == NEW]).all()
    for value in (MASKED, NEW, KEPT):
        where = status == value
        order = np.argsort(data.arrays["scores"][where])
        assert (np.diff(image[where][:, :3].sum(1)[order]) <= 1e-9).all()
    axes = made_figure(data).axes
    assert [t.get_text() for t in axes[0].get_xticklabels()] == data.labels["tokens"]


def test_reach_shows_means_and_intervals(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure4")
    (logits,) = (a for a in panels(made_figure(data)) if "logits" in a.get_ylabel())
    assert len(logits.containers) == 3
    for group, container in enumerate(logits.containers):
        line, _, (bars,) = container.lines  # type: ignore[attr-defined]
        for layer, (y, segment) in enumerate(
            zip(line.get_ydata(), bars.get_segments(), strict=True)
        ):
            expected = mean_interval(
                data.arrays["logit_change"][layer, group].tolist(), (0, np.inf)
            )
            assert (y, *segment[:, 1]) == pytest.approx(
                (expected.value, expected.low, expected.high)
            )


def test_sensitivity_is_the_mean_over_prompts(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure9")
    axes = made_figure(data).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown == pytest.approx(data.arrays["divergence"].mean(2))
    assert [t.get_text() for t in axes.get_xticklabels()][-1] == "down"


def test_pictures_are_written_and_the_same_each_time(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure1")
    png, pdf = draw(data)
    assert (png.name, pdf.name) == ("figure1.png", "figure1.pdf")
    before = png.read_bytes(), pdf.read_bytes()
    assert before[0].startswith(b"\x89PNG") and before[1].startswith(b"%PDF")
    draw(data)
    assert before == (png.read_bytes(), pdf.read_bytes())
    assert {path.name for path in data.folder.iterdir()} == {
        ARRAYS_FILE, INFO_FILE, png.name, pdf.name,
    }  # fmt: skip


# Recorded data


def test_recorded_data_come_back_and_stay(tmp_path: Path) -> None:
    data = recorded(tmp_path / "figures", "figure4")
    arrays, labels = arrays_and_labels("figure4")
    assert data.labels == labels and set(data.arrays) == set(arrays)
    assert all(np.array_equal(data.arrays[name], value) for name, value in arrays.items())
    other = {"schema_version": 1, "figure_version": FIGURE_VERSION}
    save_arrays(data.folder, {"other": np.zeros(1)}, other)
    assert load_figure(data.folder).info == data.info
    assert [path.name for path in data.folder.parent.iterdir()] == [data.folder.name]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_arrays(tmp_path / "figures" / "x", {"a": np.zeros(1)}, {"number": float("nan")})
    assert not list((tmp_path / "figures").iterdir())


def test_damaged_figures_are_named_and_the_others_read(tmp_path: Path) -> None:
    good = recorded(tmp_path / "figures", "figure1")
    for figure, name in (("figure3", ARRAYS_FILE), ("figure5", INFO_FILE)):
        path = recorded(tmp_path / "figures", figure).folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, problems = recorded_figures(tmp_path)
    assert [data.folder for data in found] == [good.folder]
    assert len(problems) == 2 and all("figure" in problem for problem in problems)
    with pytest.raises(ResultError, match="delete"):
        load_figure(tmp_path / "figures" / "figure3-x")
    for name in ("labels", "model", "seed"):
        save_arrays(tmp_path / name, {}, {k: v for k, v in good.info.items() if k != name})
        with pytest.raises(ResultError, match=f"{name} is missing"):
            load_figure(tmp_path / name)
    for section, name in NAMES:
        folder, inner = tmp_path / f"{section}-{name}", good.info[section]
        without = {key: value for key, value in inner.items() if key != name}
        save_arrays(folder, {}, {**good.info, section: without})
        with pytest.raises(ResultError, match=f"{section}.{name} is missing"):
            load_figure(folder)
    older = tmp_path / "older"
    save_arrays(older, {"a": np.zeros(1)}, {"schema_version": 1})
    with pytest.raises(ResultError, match=r"figure_version is None.*record the figure again"):
        load_figure(older)


@pytest.mark.parametrize(
    ("name", "before", "after"), [(INFO_FILE, b'"seed": 0', b'"seed": 1'), (ARRAYS_FILE, b"", b"")]
)
def test_a_changed_number_is_noticed(
    tmp_path: Path, name: str, before: bytes, after: bytes
) -> None:
    path = recorded(tmp_path, "figure1").folder / name
    content = path.read_bytes()
    assert not before or content.count(before) == 1
    last = bytes([content[-1] ^ 1])
    path.write_bytes(content.replace(before, after) if before else content[:-1] + last)
    with pytest.raises(ResultError, match=f"is damaged.*delete {path.parent}"):
        load_figure(path.parent)


def test_stand_ins_are_labelled() -> None:
    assert model_note("llada_8b", embedded=False, outliers=False) == "llada_8b"
    note = model_note("micro", embedded=True, outliers=True)
    assert "stand-in" in note and "outlier" in note and "not a model of the paper" in note


def test_drawing_needs_no_torch() -> None:
    code = (
        "import sys, dllmquant_exp.reporting.figures; "
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Figures 7 and 8


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
    ablation, drops = ablation_points(found), drop_points(found)
    assert [point.row for point in ablation] == ["awq", "quarot"]
    assert [point.row for point in drops] == ["rtn", "awq", "quarot"]
    scores = np.array([[1] * 5 + [0] * 5])
    plain = np.array([[1] * 9 + [0]])
    expected = average_over_seeds([scores] * 9).estimate
    assert ablation[0].estimate.value == pytest.approx(100 * expected.value)
    assert ablation[0].estimate.low == pytest.approx(100 * expected.low)
    change = average_over_seeds([scores] * 9, [plain] * 9).estimate
    assert drops[1].estimate.high == pytest.approx(100 * change.high)
    reference = full_precision(found)
    assert reference is not None and reference.value == pytest.approx(90)


def test_ablation_and_drops_are_drawn(made: Made) -> None:
    found = results(made)
    with styled():
        ablation, drops = draw_ablation(found), draw_drops(found)
        assert ablation is not None and drops is not None
        for figure in (ablation, drops):
            figure.draw_without_rendering()
            assert figure.get_figwidth() == COLUMN and not small_texts(figure)
    assert not overlaps(ablation) and not overlaps(drops)
    (axes,) = ablation.axes  # AWQ + TMAS lacks a task: nothing is added to AWQ or QuaRot
    assert [t.get_text() for t in axes.get_yticklabels()] == ["AWQ", "QuaRot"]
    assert [float(c.lines[0].get_xdata()[0]) for c in axes.containers] == pytest.approx([50, 70])  # type: ignore[attr-defined]
    left, right = drops.axes
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
    assert {p.row: round(p.estimate.value) for p in gain_points(found)} == {
        "awq_tmas": 10, "quarot_tmas": -30, "quarot_tmas_cgq": 20,
    }  # fmt: skip
    one, other = np.array([[1] * 6 + [0] * 4]), np.array([[1] * 5 + [0] * 5])
    expected = average_over_seeds([one] * 9, [other] * 9).estimate
    assert gain_points(found)[0].estimate.low == pytest.approx(100 * expected.low)
    with styled():
        figure = draw_ablation(found)
        assert figure is not None
        figure.draw_without_rendering()
    assert not small_texts(figure) and not overlaps(figure)
    upper, lower = figure.axes
    assert (len(upper.containers), len(lower.containers)) == (5, 3)


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
    drops = dict(paper_drops("llada_8b"))
    assert drops["rtn"] == pytest.approx(sum(rtn) / 9 - sum(fp) / 9)
    assert set(drops) == {"rtn", "awq", "dllmquant_plus", "quarot", "dllmquant_plusplus"}


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
