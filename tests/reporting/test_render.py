"""Tables as text: on a terminal, and word for word in files."""

import io
import math
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from dllmquant_exp.reporting.render import (
    FORMATS,
    Document,
    Grid,
    Section,
    check_formats,
    points,
    show,
    to_html,
    to_latex,
    to_markdown,
    write_cells,
    write_document,
)
from dllmquant_exp.store.results import ResultError

GRID = Grid(
    "scores",
    ("Hum.", "GSM8K", "Avg."),
    (("AWQ", ("1.0 ±2", "3.0 ±4", "-")), ("Qua|Rot", ("5.0", "failed", "7.0"))),
    (("items", ("10", "20", "30")),),
    frozenset({(0, 1), (1, 2)}),
)


@pytest.mark.parametrize(
    ("limits", "sign", "text"),
    [
        ((88.7, 87.8, 89.6), False, "88.7 ±0.9"),
        ((-1.3, -2, -0.4), True, "-1.3* ±0.8"),
        ((1.3, -2, 4), True, "+1.3 ±3.0"),
        ((-0.04, -2, 2), True, "0.0 ±2.0"),
        ((0.04, -2, 2), True, "0.0 ±2.0"),
        ((math.nan, math.nan, math.nan), True, "-"),
        ((98, 95, 99.5), False, "98.0 -3.0 +1.5"),  # ± would pass 100
        ((50, 40, 56), False, "50.0 -10.0 +6.0"),  # and be two points off
        ((50, 40, 58.5), False, "50.0 ±9.2"),  # three quarters of a point
        ((-95, -100, -60), True, "-95.0* -5.0 +35.0"),
    ],
)
def test_points(limits: tuple[float, float, float], sign: bool, text: str) -> None:
    assert points(*limits, sign=sign) == text


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


WRITTEN = Grid(
    "score in %",
    ("Hum.", "GSM8K"),
    (("FP", ("94.6 ±2.0", "86.0 ±3.0")), ("a_b|c <i>", ("-1.3* ±0.4", "-"))),
    (("items", ("500", "500")),),
    frozenset({(1, 0)}),
)
DOCUMENT = Document(
    "table3",
    "Table 3",
    "Parts & wholes.",
    (Section("micro_llada, W4A4", (WRITTEN,), ("50% of <b>.",)),),
    pd.DataFrame({"Hum.": ["94.6"]}, index=pd.Index(["FP"], name="row")),
)
MARKDOWN = r"""# Table 3

Parts & wholes.

## micro_llada, W4A4

score in %:

|            |           Hum. |     GSM8K |
|:-----------|---------------:|----------:|
| FP         |      94.6 ±2.0 | 86.0 ±3.0 |
| a_b\|c &lt;i> | **-1.3* ±0.4** |         - |
| items      |            500 |       500 |

- 50% of &lt;b>.
"""
LATEX = r"""% Table 3: needs \usepackage{booktabs,adjustbox}
\begin{table*}
\centering
\caption{micro\_llada, W4A4. Parts \& wholes. 50\% of $<$b$>$.}
\label{tab:table3-1}
\scriptsize
\setlength{\tabcolsep}{3pt}
\par\medskip\emph{score in \%}\par\smallskip
\begin{adjustbox}{max width=\textwidth, max totalheight=.9\textheight}
\begin{tabular}{lrr}
\toprule
 & Hum. & GSM8K \\
\midrule
FP & 94.6 $\pm$2.0 & 86.0 $\pm$3.0 \\
a\_b|c $<$i$>$ & \textbf{$-$1.3* $\pm$0.4} & -- \\
items & 500 & 500 \\
\bottomrule
\end{tabular}
\end{adjustbox}
\end{table*}
"""


def test_markdown_word_for_word() -> None:
    assert to_markdown(DOCUMENT) == MARKDOWN


def test_latex_word_for_word() -> None:
    assert to_latex(DOCUMENT) == LATEX


def test_minus_signs_and_hyphens_in_latex() -> None:
    texts = ("-0.3 (-1.6 to +1.1)", "0.0 -0.5 +2.5", "Tables 1-6, IA-AQ", "-")
    section = Section("s", (Grid("g", tuple("abcd"), (("r", texts),)),))
    text = to_latex(Document("d", "T", "C", (section,), pd.DataFrame()))
    row = r"r & $-$0.3 ($-$1.6 to +1.1) & 0.0 $-$0.5 +2.5 & Tables 1-6, IA-AQ & --"
    assert row in " ".join(text.split())


def test_html_shows_the_same_numbers_and_no_markup_of_ours() -> None:
    text = to_html(DOCUMENT)
    (frame,) = pd.read_html(io.StringIO(text), index_col=0)
    assert frame.loc["FP", "Hum."] == "94.6 ±2.0"
    assert frame.loc["a_b|c <i>", "Hum."] == "-1.3* ±0.4"
    assert "<b>-1.3* ±0.4</b>" in text and "<li>50% of &lt;b&gt;.</li>" in text
    assert "<i>" not in text and text.startswith("<!doctype html>")


def test_sentences_are_paragraphs_in_latex_and_stand_left_in_markdown() -> None:
    sentence = "calibrated on as many samples or tokens"
    grid = Grid("t", ("needs",), ((sentence, (sentence,)),))
    document = Document("c", "C", "", (Section("m", (grid,)),), pd.DataFrame())
    assert r"\begin{tabular}{p{0.3\linewidth}p{0.3\linewidth}}" in to_latex(document)
    named = Grid("t", ("Hum.",), (("RTN + Random calib\ncalibration.samples=512", ("1.0",)),))
    control = Document("c", "C", "", (Section("m", (named,)),), pd.DataFrame())
    assert "{lr}" in to_latex(control), "a setting in a line of its own is no sentence"
    (rule,) = (line for line in to_markdown(document).splitlines() if line.startswith("|:"))
    assert rule.count("|:-") == 2


def test_files_by_format(tmp_path: Path) -> None:
    written = write_document(DOCUMENT, tmp_path / "new", ["csv", "markdown"])
    assert [path.name for path in written] == ["table3.csv", "table3.md"]
    assert written[0].read_text() == "row,Hum.\nFP,94.6\n"
    assert written[1].read_text() == MARKDOWN
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table3.csv", "table3.md"]


def test_cells_come_back_from_csv_and_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"score": [88.75, None], "best": [True, False], "row": ["fp", "ü"]})
    csv, parquet = write_cells(frame, tmp_path, "cells")
    pd.testing.assert_frame_equal(pd.read_csv(csv), frame, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame)


def test_formats() -> None:
    assert check_formats("all") == tuple(FORMATS)
    assert check_formats("csv,latex") == ("csv", "latex")
    with pytest.raises(ResultError, match="'tex' is not one of: markdown, latex"):
        check_formats("csv,tex")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"table3.md cannot be written.*folder="):
        write_document(DOCUMENT, tmp_path / "file" / "report", ["markdown"])
