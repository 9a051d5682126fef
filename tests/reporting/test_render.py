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
    grid,
    points,
    show,
    to_latex,
    to_markdown,
    write_document,
)
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.store.results import ResultError

GRID = grid(
    "scores",
    ("Hum.", "GSM8K", "Avg."),
    (
        ("AWQ", ("1.0 ±2", "3.0 ±4", "-")),
        ("Qua|Rot", ("5.0", "failed", "7.0")),
        ("items", ("10", "20", "30")),
    ),
    footer=1,
    best=frozenset({(0, 1), (1, 2)}),
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


def document(grid: Grid, title: str = "s", notes: tuple[str, ...] = ()) -> Document:
    return Document("d", "T", "C", (Section(title, {"g": grid}, notes),))


def printed(grid: Grid, width: int = 80, **settings: int) -> list[str]:
    out = io.StringIO()
    show(document(grid, notes=("a note",)), Console(file=out, width=width), **settings)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[:3] == ["T. C", "", "s"] and lines[-1] == ""
    return lines[3:-1]


def test_intervals_stand_under_their_values() -> None:
    lines = printed(GRID)
    assert lines[0] == "scores" and lines[-1] == "a note"
    row = next(i for i, line in enumerate(lines) if "AWQ" in line)
    assert lines[row].split() == ["AWQ", "1.0", "3.0", "-"]
    assert lines[row + 1].split() == ["±2", "±4"]


@pytest.mark.parametrize(("value", "star"), [("98.0", ""), ("-95.0", "*")])
def test_two_distances_stand_under_their_value_and_the_star_behind_the_last(
    value: str, star: str
) -> None:
    lines = printed(grid("t", ("PIQA",), [("AWQ", (f"{value}{star} -5.0 +35.0",))]))
    row = next(i for i, line in enumerate(lines) if "AWQ" in line)
    assert [line.split() for line in lines[row : row + 3]] == [
        ["AWQ", value], ["-5.0"], [f"+35.0{star}"]
    ]  # fmt: skip


def test_ten_columns_of_changes_fit_80_letters() -> None:
    columns = [*PAPER_COLUMNS, "Avg."]
    changes = ["-17.7* ±4.0", "-95.3* -2.9 +5.4", *["-32.0* ±8.0"] * 8]
    part = grid("t", columns, [("AWQ\ncalibration.samples=512", changes)])
    lines = printed(part, name_width=14)
    assert max(map(len, lines)) <= 80
    assert "samples=512" in "\n".join(lines) and "-95.3" in "\n".join(lines)


def test_what_is_too_wide_takes_more_lines() -> None:
    cells = ("(0.639 to 0.676)",) * 6
    lines = printed(grid("t", ("Speed Up",) * 6, [("DLLMQuant++ of many words " * 2, cells)]))
    assert max(map(len, lines)) <= 80
    assert sum("to 0.676)" in line for line in lines) == 1


def test_long_names_go_on_below_and_sentences_too() -> None:
    sentence = "rows that were calibrated on as many samples as this one"
    part = grid("t", ("needs",), [("AWQ + TMAS + CGQ + IA-AQ", (sentence,))])
    lines = printed(part, name_width=14)
    assert max(map(len, lines)) < 60
    assert any(line.split()[:3] == ["AWQ", "+", "TMAS"] for line in lines)
    assert " ".join(" ".join(lines).split()).count("this one") == 1


def test_brackets_are_text_and_not_markup() -> None:
    part = grid("t", ("x",), [("proportions=[0.3, 0.2] [red]", ("[bold]",))])
    text = "\n".join(printed(part, name_width=60))
    assert "proportions=[0.3, 0.2] [red]" in text and "[bold]" in text


WRITTEN = grid(
    "score in %",
    ("Hum.", "GSM8K"),
    (
        ("FP", ("94.6 ±2.0", "86.0 ±3.0")),
        ("a_b|c <i>", ("-1.3* ±0.4", "-")),
        ("items", ("500", "500")),
    ),
    footer=1,
    best=frozenset({(1, 0)}),
)
SECTION = Section("micro_llada, W4A4", {"score": WRITTEN}, ("50% of <b>.",))
DOCUMENT = Document("table3", "Table 3", "Parts & wholes.", (SECTION,))
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
    text = to_latex(document(grid("g", "abcd", [("r", texts)])))
    row = r"r & $-$0.3 ($-$1.6 to +1.1) & 0.0 $-$0.5 +2.5 & Tables 1-6, IA-AQ & --"
    assert row in " ".join(text.split())


def test_sentences_are_paragraphs_in_latex_and_stand_left_in_markdown() -> None:
    sentence = "calibrated on as many samples or tokens"
    prose = document(grid("t", ("needs",), [(sentence, (sentence,))]))
    assert r"\begin{tabular}{p{0.3\linewidth}p{0.3\linewidth}}" in to_latex(prose)
    named = grid("t", ("Hum.",), [("RTN + Random calib\ncalibration.samples=512", ("1.0",))])
    assert "{lr}" in to_latex(document(named)), "a setting in a line of its own is no sentence"
    (rule,) = (line for line in to_markdown(prose).splitlines() if line.startswith("|:"))
    assert rule.count("|:-") == 2


def test_pages_hold_the_texts_and_long_forms_the_numbers() -> None:
    page = DOCUMENT.frame
    assert page.loc[("micro_llada, W4A4", "score", "FP")].tolist() == ["94.6 ±2.0", "86.0 ±3.0"]
    numbers = [pd.DataFrame({"model": [name], "score": [88.75]}) for name in ("a", "ü")]
    sections = tuple(Section("s", {}, (), lines) for lines in numbers)
    long = Document("claims", "", "", sections, long=True)
    assert long.frame["score"].to_dict() == {"a": 88.75, "ü": 88.75}
    empty = Document("table1", "", "", (), columns=["row", "score"])
    assert list(empty.page.index.names) == ["model", "part", "row"]
    assert list(empty.lines.columns) == ["row", "score"]


def test_files_by_format(tmp_path: Path) -> None:
    written = write_document(DOCUMENT, tmp_path / "new", ["csv", "markdown"])
    assert [path.name for path in written] == ["table3.csv", "table3.md"]
    lines = written[0].read_text().splitlines()
    assert lines[:2] == [
        "model,part,row,Hum.,GSM8K", '"micro_llada, W4A4",score,FP,94.6 ±2.0,86.0 ±3.0',
    ]  # fmt: skip
    assert written[1].read_text() == MARKDOWN
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["table3.csv", "table3.md"]


def test_formats() -> None:
    assert check_formats("all") == (*FORMATS, "html")
    assert check_formats("csv,latex") == ("csv", "latex")
    with pytest.raises(ResultError, match="'tex' is not one of: markdown, latex"):
        check_formats("csv,tex")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"table3.md cannot be written.*folder="):
        write_document(DOCUMENT, tmp_path / "file" / "report", ["markdown"])
