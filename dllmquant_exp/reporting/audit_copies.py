"""The audit's checks of cells and rows that stand in several places of the tables."""

from itertools import combinations

from dllmquant_exp.reporting.audit_finding import (
    MODELS,
    QUANTIZED,
    TASKS,
    Finding,
    Sheet,
    agreement,
    place,
)
from dllmquant_exp.reporting.grids import AVERAGE
from dllmquant_exp.reporting.paper import PaperCell, paper_model

ALIKE_CELLS = 3  # two rows that share more numbers than chance explains


def shared_cells(sheet: Sheet) -> list[Finding]:
    """The same model, row and column in several tables must be printed alike."""
    places: dict[tuple[str, str, str], list[PaperCell]] = {}
    for cell in sheet.values():
        places.setdefault((cell.model, cell.row, cell.column), []).append(cell)
    shared = [cells for cells in places.values() if len(cells) > 1]
    findings = []
    for cells in shared:
        first, others = cells[0], [c for c in cells[1:] if c.printed != cells[0].printed]
        for other in others:
            sentence = f"{place(first)} prints {first.printed} for the same row."
            findings.append(
                Finding("shared cell", place(other), other.printed, first.printed,
                        float(other.value - first.value), "points", "error", sentence)
            )  # fmt: skip
    same = sum(len({cell.printed for cell in cells}) == 1 for cells in shared)
    sentence = f"{same} of {len(shared)} cells that two or more tables share are printed alike."
    return [*findings, agreement("shared cell", "Tables 1, 2, 3, 5", sentence)]


def renamed_row(sheet: Sheet) -> list[Finding]:
    """Table 1's QuaRot row stands as GPTQ in other tables."""
    shown = [c for c in sheet.values() if c.row == "quarot" and c.table != 1 and c.name == "GPTQ"]
    same = [c for c in shown if sheet[1, c.model, c.row, c.column].printed == c.printed]
    if not same:
        return []
    tables = ", ".join(str(t) for t in sorted({c.table for c in same}))
    sentence = f"{len(same)} of {len(shown)} numbers of the rows called GPTQ are Table 1's QuaRot "
    sentence += "numbers, so GPTQ there means rotation and GPTQ; no row is called GPTQ in Table 1."
    return [
        Finding("name", f"Tables {tables}, GPTQ", "GPTQ", "QuaRot", float(len(same)), "cells",
                "doubt", sentence)
    ]  # fmt: skip


def repeated_cells(sheet: Sheet) -> list[Finding]:
    """One number in several rows of a column of one model."""
    findings = []
    for model in MODELS:
        for task in TASKS:
            rows = [sheet[1, model, row, task] for row in ("fp", *QUANTIZED)]
            printed = [cell.printed for cell in rows]
            value = max(printed, key=printed.count)
            alike = [cell.name for cell in rows if cell.printed == value]
            if len(alike) == 1:
                continue
            losses = [float(rows[0].value - cell.value) for cell in rows]
            sentence = f"{', '.join(alike)} all print {value} where other rows lose up to "
            sentence += f"{max(losses):.1f} points: probably copied, and their averages hold it."
            where = f"Table 1, {paper_model(model)}, {', '.join(alike)}, {task}"
            findings.append(
                Finding("repeated cell", where, value, "", float(len(alike)), "rows", "doubt",
                        sentence)
            )  # fmt: skip
    return findings


def repeated_rows(sheet: Sheet) -> list[Finding]:
    """Rows of Table 1 that share several numbers, column by column."""
    rows = [(model, row) for model in MODELS for row in ("fp", *QUANTIZED)]
    findings = []
    for first, second in combinations(rows, 2):
        pairs = [(sheet[1, *first, task], sheet[1, *second, task]) for task in TASKS]
        alike = [a.column for a, b in pairs if a.printed == b.printed]
        if len(alike) >= ALIKE_CELLS:
            where = " = ".join(f"{paper_model(m)} {sheet[1, m, r, AVERAGE].name}"
                               for m, r in (first, second))  # fmt: skip
            sentence = f"The two rows print the same in {', '.join(alike)}: copied."
            findings.append(
                Finding("repeated row", f"Table 1, {where}", "", "", float(len(alike)), "cells",
                        "doubt", sentence)
            )  # fmt: skip
    sentence = f"No two of {len(rows)} rows print {ALIKE_CELLS} scores alike."
    return findings or [agreement("repeated row", "Table 1", sentence)]


def repeated_in_table_6(sheet: Sheet) -> list[Finding]:
    """A number that stands in two rows and two columns of a table of eight."""
    cells = [cell for cell in sheet.values() if cell.table == 6]
    twice = [
        (a, b)
        for i, a in enumerate(cells)
        for b in cells[i + 1 :]
        if a.printed == b.printed and a.row != b.row and a.column != b.column
    ]
    return [
        Finding("repeated cell", f"Table 6, {a.name}, {a.column} = {b.name}, {b.column}",
                a.printed, "", 0.0, "points", "note",
                f"{a.printed} twice in eight cells, in another row and column: chance, or a slip.")
        for a, b in twice
    ]  # fmt: skip
