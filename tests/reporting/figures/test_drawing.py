"""Pictures: data on the axes, nothing that overlaps; from recordings alone."""

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from made_figures import STEPS, overlaps, recorded, small_texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dllmquant_exp.reporting.figures.catalog import catalog, draw
from dllmquant_exp.reporting.figures.maps import KEPT, MASKED, NEW, decode_image
from dllmquant_exp.reporting.figures.recordings import ARRAYS_FILE, INFO_FILE, FigureData
from dllmquant_exp.reporting.figures.style import COLOURS, COLUMN, styled
from dllmquant_exp.reporting.statistics import mean_interval


def made_figure(data: FigureData) -> Figure:
    figure = catalog()[data.figure].picture(data)
    assert figure is not None
    with styled():
        figure.draw_without_rendering()
    return figure


def panels(figure: Figure) -> list[Axes]:
    """The axes without colour bars."""
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_every_figure_is_explained_and_its_functions_exist() -> None:
    assert list(catalog()) == [f"figure{n}" for n in range(1, len(catalog()) + 1)]
    for kind in catalog().values():
        assert kind.caption and bool(kind.measure) != bool(kind.table)
        for name in filter(None, (kind.draw, kind.tabulate, kind.measure, kind.models)):
            assert callable(resolve_name(name))
    compared = catalog()["figure2"].rows
    assert {row["colour"] for row in compared.values()} <= set(COLOURS)
    assert {row["removed_of"] for row in compared.values() if "removed_of" in row} <= set(compared)


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
        ("figure10", 10, 6, 0),
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


def test_a_table_stands_beside_the_picture_of_outliers(tmp_path: Path) -> None:
    data = recorded(tmp_path, "figure10")
    *pictures, table = draw(data)
    assert [path.name for path in pictures] == ["figure10.png", "figure10.pdf"]
    header, _, *rows = [line for line in table.read_text().splitlines() if line[:1] == "|"]
    assert header.split("|")[3].strip() == "channel, masked" and len(rows) == 6 * 6
    cells = [cell.strip() for cell in rows[7].split("|")[1:-1]]
    assert cells[:2] == ["input of gate, up", "2"]
    found = data.arrays["statistics"][:, 1, 1].flatten()
    assert [float(cell) for cell in cells[2:]] == pytest.approx(found, rel=1e-2)
    assert table.read_text().endswith(f"{data.footnote}\n")


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


def test_drawing_needs_no_torch() -> None:
    code = (
        "import sys, pkgutil; from dllmquant_exp.reporting.figures.catalog import catalog; "
        "[pkgutil.resolve_name(kind.draw) for kind in catalog().values()]; "
        "assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
