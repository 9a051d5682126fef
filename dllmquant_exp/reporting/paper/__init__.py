"""The paper as data: its printed numbers, its words, and what does not add up in them.

tables.yaml      every number of Tables 1-6 as printed, captions, the models' names and checkpoints
quotes.yaml      quotations from the text
contradictions.yaml  findings on both, printed by `report audit` (audit.py)

A number keeps its printed precision: "44.50" and "44.5" are not the same print. Task columns have
the labels of `reporting.tables.PAPER_COLUMNS`, the average is "Avg.". Rows of Tables 1, 2 and 5
have the names of conf/row. Those of Tables 3 and 6 are no rows of ours (quarot_cgq_mask,
rtn_random, ...); `paper_rows` says which of ours stand for them. Table 4 has one row, `quantized`,
per model. The paper's GPTQ of Tables 2, 3 and 5 is its QuaRot row of Table 1.
"""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

CHAINS = (  # rows of Tables 2 and 5, each with one more component
    ("awq", "awq_tmas", "awq_tmas_cgq", "dllmquant_plus"),
    ("quarot", "quarot_tmas", "quarot_tmas_cgq", "dllmquant_plusplus"),
)


@dataclass(frozen=True)
class PaperCell:
    """One printed number: a score in percent, in Table 4 tokens/s, "GB" or a ratio."""

    table: int
    model: str  # our name of the model
    row: str  # our name of the row
    column: str  # our label of the column
    printed: str
    name: str  # the row's name in the paper

    @property
    def value(self) -> Decimal:
        return Decimal(self.printed)


@cache
def read_paper(name: str) -> dict[str, Any]:
    """One of this folder's YAML files; every scalar is text, so that "44.50" keeps its zero."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, Loader=yaml.BaseLoader)
    return data


@cache
def _cells() -> tuple[PaperCell, ...]:
    return tuple(
        PaperCell(int(number), model, row, column, printed, name)
        for number, table in read_paper("tables.yaml")["tables"].items()
        for model, row, name, numbers in table["rows"]
        for column, printed in zip(table["columns"], numbers.split(), strict=True)
    )


def paper_cells(table: int | None = None) -> tuple[PaperCell, ...]:
    """The printed numbers of one table, or of all, in printed order."""
    return tuple(cell for cell in _cells() if table in (None, cell.table))


def paper_cell(table: int, model: str, row: str, column: str) -> PaperCell | None:
    """One printed number, or None where the paper prints none."""
    where = (model, row, column)
    cells = (cell for cell in paper_cells(table) if (cell.model, cell.row, cell.column) == where)
    return next(cells, None)


def paper_rows(table: int) -> dict[str, str]:
    """The rows of conf/row that regenerate a table, each with its name in `paper_cells`, in order.

    Empty for Table 4, which does not say which method it ran.
    """
    ours = read_paper("tables.yaml")["tables"][str(table)].get("ours")
    return dict(ours if ours is not None else {cell.row: cell.row for cell in paper_cells(table)})


def paper_caption(table: int) -> str:
    """A table's caption."""
    return str(read_paper("tables.yaml")["tables"][str(table)]["caption"])


def paper_model(model: str) -> str:
    """The paper's name of one of its models, by ours: llada_8b, llada_1_5 or dream_7b."""
    return str(read_paper("tables.yaml")["models"][model])


def paper_checkpoint(model: str) -> str:
    """The hub id of one of the paper's models, by our name of it."""
    return str(read_paper("tables.yaml")["checkpoints"][model])


def paper_name(model: str, same_as: str) -> str:
    """Our name of the model that weights are: by the hub id that a user stated, else their own."""
    checkpoints: dict[str, str] = read_paper("tables.yaml")["checkpoints"]
    return next((name for name, hub_id in checkpoints.items() if hub_id == same_as), model)


def paper_metric(model: str, column: str) -> str:
    """The accuracy that a model's row can only be, acc or acc_norm; empty where nothing tells."""
    metrics: dict[str, dict[str, str]] = read_paper("tables.yaml")["metrics"]
    return metrics.get(model, {}).get(column, "")


def paper_quotes() -> dict[str, str]:
    """Quotations from the paper's text, word for word, by a short name."""
    return dict(read_paper("quotes.yaml"))
