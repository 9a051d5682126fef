"""The paper's printed numbers as data: Tables 1-6, their captions and the claims in its text.

The numbers stand in paper.yaml as printed; a number keeps its printed precision, so "44.50" and
"44.5" are not the same print. `PAPER_COLUMNS` of tables.py names the task columns, "Avg." the
average. Rows of Tables 1, 2 and 5 have the names of conf/row; those of Tables 3 and 6 are no rows
of ours (quarot_cgq_mask, rtn_random, ...), `paper_rows` says which of ours stand for them. Table 4
has one row, `quantized`, per model. What the paper calls GPTQ in Tables 2, 3 and 5 is its QuaRot
row of Table 1.
"""

from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
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

    @property
    def rounding(self) -> Decimal:
        """Half a unit of the last printed digit: how far the true value may lie from the print."""
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int)  # only NaN and infinity have letters here
        return Decimal(5).scaleb(exponent - 1)


@cache
def _data() -> dict[str, Any]:
    text = files(__package__).joinpath("paper.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


@cache
def _cells() -> tuple[PaperCell, ...]:
    return tuple(
        PaperCell(number, model, row, column, printed, name)
        for number, table in _data()["tables"].items()
        for model, row, name, numbers in table["rows"]
        for column, printed in zip(table["columns"], numbers.split(), strict=True)
    )


def paper_cells(table: int | None = None) -> tuple[PaperCell, ...]:
    """The printed numbers of one table, or of all, in printed order.

    Raises:
        ValueError: the paper has no such table.
    """
    return _cells() if table is None else tuple(c for c in _cells() if c.table == _known(table))


def _known(table: int) -> int:
    if table not in _data()["tables"]:
        raise ValueError(f"the paper has no Table {table}, only 1 to 6")
    return table


def paper_cell(table: int, model: str, row: str, column: str) -> PaperCell | None:
    """One printed number, or None where the paper prints none.

    Raises:
        ValueError: the paper has no such table.
    """
    where = (model, row, column)
    cells = (cell for cell in paper_cells(table) if (cell.model, cell.row, cell.column) == where)
    return next(cells, None)


def paper_frame(table: int | None = None) -> pd.DataFrame:
    """Long form: table, model, row, column, printed (text), name, value (float, as printed)."""
    cells = paper_cells(table)
    return pd.DataFrame([asdict(cell) | {"value": float(cell.value)} for cell in cells])


def paper_model(model: str) -> str:
    """The paper's name of one of its models, by ours: llada_8b, llada_1_5 or dream_7b.

    Raises:
        ValueError: not one of the paper's models.
    """
    names = _data()["models"]
    if model not in names:
        raise ValueError(f"{model!r} is not one of the paper's models: {', '.join(names)}")
    return str(names[model])


def paper_checkpoint(model: str) -> str:
    """The hub id of one of the paper's models, by our name of it.

    Raises:
        ValueError: not one of the paper's models.
    """
    paper_model(model)
    return str(_data()["checkpoints"][model])


def paper_rows(table: int) -> dict[str, str]:
    """The rows of conf/row that regenerate a table, each with its name in `paper_cells`, in order.

    Empty for Table 4, which does not say which method it ran.

    Raises:
        ValueError: the paper has no such table.
    """
    ours = _data()["tables"][_known(table)].get("ours")
    return dict(ours if ours is not None else {cell.row: cell.row for cell in paper_cells(table)})


def paper_caption(table: int) -> str:
    """A table's caption.

    Raises:
        ValueError: the paper has no such table.
    """
    return str(_data()["tables"][_known(table)]["caption"])


def paper_quotes() -> dict[str, str]:
    """What the text says of its numbers and of its method, word for word, by a short name."""
    return dict(_data()["quotes"])
