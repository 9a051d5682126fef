"""One finding of the audit, and look-ups in the printed numbers that every check needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dllmquant_exp.reporting.paper import PaperCell, paper_model
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

MODELS = ("llada_8b", "llada_1_5", "dream_7b")
PAIRS = (("dllmquant_plus", "awq"), ("dllmquant_plusplus", "quarot"))  # the method, its basis
QUANTIZED = ("rtn", "awq", "dllmquant_plus", "quarot", "dllmquant_plusplus")
TASKS = PAPER_COLUMNS

# error: contradicts itself under every reading; doubt: improbable, or holds under another reading
# only; note: a limit that a reader must know; agrees: recomputed and found right.
SEVERITIES = ("error", "doubt", "note", "agrees")

Sheet = Mapping[tuple[int, str, str, str], PaperCell]  # table, model, row, column


@dataclass(frozen=True)
class Finding:
    check: str  # the rule that found it
    where: str
    printed: str  # as it stands in print; quotations in quotation marks
    expected: str  # what stands against it; "" where there is no one such thing
    gap: float | None  # printed - expected, or what the sentence says of it
    unit: str  # of the gap
    severity: str  # one of SEVERITIES
    sentence: str

    @property
    def stated(self) -> str:
        """What is printed and what stands against it; "" where the sentence alone says it."""
        if not self.printed.startswith('"'):
            return f"printed {self.printed}, expected {self.expected}" if self.expected else ""
        if not self.expected:
            return f"says {self.printed}"
        link = ", elsewhere" if self.expected.startswith('"') else "; the numbers give"
        return f"says {self.printed}{link} {self.expected}"


def sheet_of(cells: Iterable[PaperCell]) -> Sheet:
    """Cells by place."""
    return {(cell.table, cell.model, cell.row, cell.column): cell for cell in cells}


def number(sheet: Sheet, table: int, model: str, row: str, column: str) -> float:
    """One printed number."""
    return float(sheet[table, model, row, column].value)


def place(cell: PaperCell) -> str:
    """Where a number stands, in the paper's words."""
    parts = [f"Table {cell.table}", paper_model(cell.model), cell.name, cell.column]
    return ", ".join(dict.fromkeys(parts))  # Table 4's rows are named after the models


def agreement(check: str, where: str, sentence: str) -> Finding:
    """Of numbers that were recomputed and are right."""
    return Finding(check, where, "", "", 0.0, "", "agrees", sentence)
