"""The transcription: as it was compared with the paper's text, and sums taken from the text."""

import hashlib
import json
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
    paper_quotes,
    paper_rows,
)
from dllmquant_exp.reporting.paper.audit import audit
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.store.names import AVERAGE

MODELS = ("llada_8b", "llada_1_5", "dream_7b")
# Digest of the numbers, names, captions and quotations that were compared with the paper's own
# text, word for word. Whoever edits one compares again.
COMPARED = "98c856e666e5624d"


def test_the_transcription_is_the_one_that_was_compared_with_the_paper() -> None:
    printed = [
        (cell.table, cell.model, cell.name, cell.column, cell.printed) for cell in paper_cells()
    ]
    quoted = re.findall('"(.+?)"', " ".join(finding.sentence for finding in audit()))
    words = [*map(paper_caption, range(1, 7)), *paper_quotes().values(), *quoted]
    found = hashlib.sha256(json.dumps([printed, words]).encode()).hexdigest()
    assert found.startswith(COMPARED)


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


def test_checkpoints_are_those_that_the_models_names_load() -> None:
    for model in MODELS:
        option = yaml.safe_load((config_folder() / "model" / f"{model}.yaml").read_text("utf-8"))
        assert paper_checkpoint(model) == option["checkpoint"]
