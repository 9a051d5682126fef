"""The files: word for word for a small table, and what the formats must not do to a text."""

import io
from pathlib import Path

import pandas as pd
import pytest

from dllmquant_exp.reporting.grids import Grid
from dllmquant_exp.reporting.writers import (
    FORMATS,
    Document,
    Section,
    check_formats,
    to_html,
    to_latex,
    to_markdown,
    write_cells,
    write_document,
)
from dllmquant_exp.store.results import ResultError

GRID = Grid(
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
    (Section("micro_llada, W4A4", (GRID,), ("50% of <b>.",)),),
    pd.DataFrame({"Hum.": ["94.6"]}, index=pd.Index(["FP"], name="row")),
)
MARKDOWN = r"""# Table 3

Parts & wholes.

## micro_llada, W4A4

score in %:

|            |           Hum. |     GSM8K |
|:-----------|---------------:|----------:|
| FP         |      94.6 ±2.0 | 86.0 ±3.0 |
| a_b\|c <i> | **-1.3* ±0.4** |         - |
| items      |            500 |       500 |

- 50% of <b>.
"""
LATEX = r"""% Table 3: needs \usepackage{booktabs,adjustbox,longtable}
\begin{table*}
\centering
\caption{micro\_llada, W4A4. Parts \& wholes. 50\% of $<$b$>$.}
\label{tab:table3-1}
\scriptsize
\setlength{\tabcolsep}{3pt}
\par\medskip\emph{score in \%}\par\smallskip
\begin{adjustbox}{max width=\textwidth}
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
    text = to_latex(document)
    assert r"\begin{longtable}{p{0.3\linewidth}p{0.3\linewidth}}" in text, "goes on over pages"
    assert r"\caption{m: t.} \label{tab:c-1} \\" in text and "table*" not in text
    twice = Document("c", "C", "", (Section("m", (grid, grid)),), pd.DataFrame())
    assert r"\label{tab:c-1-2}" in to_latex(twice) and r"\label{tab:c-1-2}" not in text
    named = Grid("t", ("Hum.",), (("RTN + Random calib\ncalibration.samples=512", ("1.0",)),))
    control = Document("c", "C", "", (Section("m", (named,)),), pd.DataFrame())
    assert "table*" in to_latex(control), "a setting in a line of its own is no sentence"
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
