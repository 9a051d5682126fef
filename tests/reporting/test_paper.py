"""The transcription against the paper's own text, and against sums taken from that text by hand."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.paper import (
    paper_caption,
    paper_cell,
    paper_cells,
    paper_checkpoint,
    paper_model,
    paper_quotes,
    paper_rows,
)
from dllmquant_exp.reporting.paper.audit import audit
from dllmquant_exp.reporting.render import AVERAGE
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

TEXT = Path(__file__).resolve().parents[2] / ".." / "shared" / "paper" / "dllmquant.txt"
NUMBER = re.compile(r"\d+\.\d+")
MODELS = {"llada_8b": "LLADA", "llada_1_5": "LLADA-1.5", "dream_7b": "DREAM"}
# Where each table's numbers begin and end in the text.
BLOCKS = {
    1: ("Model Method Truth. Arc. Hella.", "Table 1:"),
    2: ("Method Avg.\n", "Table 2:"),
    3: ("Method GSM8K Hum.\n", "Table 3:"),
    4: ("MODEL\nSpeed (Tokens/s)", "Table 4:"),
    5: ("Model Method Truth. Arc. Hel. ", "Table 5:"),
    6: ("Method GSM8K HumanEval\n", "Table 6:"),
}


@pytest.fixture(scope="module")
def text() -> str:
    if not TEXT.is_file():
        pytest.skip(f"the paper's text is not at {TEXT}: the transcription is checked by sums only")
    return TEXT.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def flowing(text: str) -> str:
    """The text without line ends; "per- tensor" and "accu- racy" alike lose hyphen and space."""
    return squeezed(text)


def squeezed(text: str) -> str:
    return re.sub(r"[\s-]+", "", text)


def block(text: str, table: int) -> list[str]:
    start, end = BLOCKS[table]
    assert text.count(start) == 1
    lines = text.partition(start)[2].partition(end)[0].splitlines()
    return [line.strip() for line in lines if line.strip()]


def parsed(text: str, table: int) -> list[tuple[str, str, list[str]]]:
    """(model, the row's name, its numbers) of each printed row, in order."""
    model, pending, rows = "LLADA", "", []
    for line in block(text, table):
        words = line.split()
        count = len(words) - next(
            (i for i, w in enumerate(words) if NUMBER.fullmatch(w)), len(words)
        )
        if line in MODELS.values():
            model = line
        elif count == 0 or not all(map(NUMBER.fullmatch, words[-count:])):
            pending = f"{line} " if "+" in line else ""  # a row's name broken over two lines
        else:
            name = pending + " ".join(words[:-count])
            name = name.replace("textDLLMQuant", "DLLMQuant")  # a LaTeX command that lost its \
            rows.append((name if table == 4 else model, name, words[-count:]))
            pending = ""
    return rows


@pytest.mark.parametrize("table", range(1, 7))
def test_every_number_stands_in_the_paper_as_transcribed(text: str, table: int) -> None:
    found: dict[tuple[str, str], list[str]] = {}
    for cell in paper_cells(table):
        found.setdefault((MODELS[cell.model], cell.name), []).append(cell.printed)
    assert [(*key, numbers) for key, numbers in found.items()] == parsed(text, table)


def test_captions_and_quotes_are_the_papers_words(flowing: str) -> None:
    in_findings = re.findall('"(.+?)"', " ".join(finding.sentence for finding in audit()))
    for words in (*map(paper_caption, range(1, 7)), *paper_quotes().values(), *in_findings):
        assert squeezed(words) in flowing


# Sums of all printed numbers, and how many there are, taken from the text with awk.
@pytest.mark.parametrize(
    ("table", "count", "total"),
    [(1, 180, "10211.11"), (2, 8, "405.88"), (3, 8, "284.44"),
     (4, 18, "314.36"), (5, 80, "4059.07"), (6, 8, "127.29")],
)  # fmt: skip
def test_sums(table: int, count: int, total: str) -> None:
    cells = paper_cells(table)
    assert len(cells) == count
    assert sum(cell.value for cell in cells) == Decimal(total)


def test_task_columns_are_those_of_our_tables() -> None:
    for table in (1, 5):
        assert tuple(dict.fromkeys(c.column for c in paper_cells(table))) == (
            *PAPER_COLUMNS,
            AVERAGE,
        )
    assert {cell.column for table in (3, 6) for cell in paper_cells(table)} <= set(PAPER_COLUMNS)


def test_rows_are_those_of_the_configuration() -> None:
    rows = Path(__file__).resolve().parents[2] / "conf" / "row"
    known = {path.stem for path in rows.glob("*.yaml")}
    for table in (1, 2, 3, 5, 6):
        assert set(paper_rows(table)) <= known
        printed = dict.fromkeys(cell.row for cell in paper_cells(table))
        assert list(paper_rows(table).values()) == list(printed)
    assert paper_rows(4) == {}


def test_a_number_stands_once_in_a_table() -> None:
    places = {(cell.table, cell.model, cell.row, cell.column) for cell in paper_cells()}
    assert len(places) == len(paper_cells()) == 302
    cell = paper_cell(3, "llada_8b", "quarot_cgq", "Hum.")
    assert cell is not None
    assert (cell.value, cell.name) == (Decimal("26.85"), "GPTQ+ CGQ w. score & mask")


def test_a_print_keeps_its_precision() -> None:
    fine = paper_cell(1, "dream_7b", "dllmquant_plusplus", "Hum.")
    coarse = paper_cell(1, "llada_1_5", "fp", "Hum.")
    assert fine is not None and coarse is not None
    assert (fine.printed, coarse.printed) == (str(fine.value), str(coarse.value))
    assert (fine.printed, coarse.printed) == ("44.50", "49.4")


def test_a_cell_that_the_paper_does_not_print_is_none() -> None:
    assert paper_cell(1, "llada_8b", "awq_tmas", "GSM8K") is None
    assert paper_cell(1, "micro_llada", "awq", "GSM8K") is None


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no Table 7"):
        paper_cells(7)
    with pytest.raises(ValueError, match="no Table 0"):
        paper_caption(0)
    with pytest.raises(ValueError, match="not one of the paper's models: llada_8b"):
        paper_model("micro_llada")
    assert paper_model("llada_1_5") == "LLADA-1.5"


def test_checkpoints_are_those_that_the_models_names_load() -> None:
    for model in MODELS:
        option = yaml.safe_load((config_folder() / "model" / f"{model}.yaml").read_text("utf-8"))
        assert paper_checkpoint(model) == option["checkpoint"]
    with pytest.raises(ValueError, match="not one of the paper's models"):
        paper_checkpoint("micro_llada")
