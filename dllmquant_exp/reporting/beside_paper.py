"""The paper's numbers beside ours: where shown, and where ours may be subtracted from them."""

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.paper import (
    PaperCell,
    paper_cell,
    paper_cells,
    paper_checkpoint,
    paper_rows,
)
from dllmquant_exp.reporting.selection import ModelResults, Variant

PUBLISHED = "published"  # the option of conf/decoding that keeps every setting
UNLIKE_TABLES = {  # whose rows of ours are not the paper's, and why
    3: "our rows are calibrated on TMAS' masked states, the paper's base is its Table 1's QuaRot",
}


def printed_cells(number: int, results: ModelResults, variant: Variant) -> dict[str, PaperCell]:
    """The paper's own numbers of a row; none for other models, other bits or a control."""
    if results.embedded or not results.is_w4a4 or variant.difference:
        return {}
    row = paper_rows(number)[variant.row]
    columns = dict.fromkeys(cell.column for cell in paper_cells(number))
    cells = {column: paper_cell(number, results.model, row, column) for column in columns}
    return {column: cell for column, cell in cells.items() if cell is not None}


def unlike_the_paper(number: int, results: ModelResults) -> str:
    """Why a model with the name of one of the paper's was not run as there; empty if it was.

    A local checkpoint may be the published one, but nothing in a result says so.
    """
    cell = _any_cell(results)
    if cell is None:
        return ""
    checkpoint, published = cell.config["model"]["checkpoint"], paper_checkpoint(results.model)
    reasons = {
        f"its checkpoint is {checkpoint}, not {published}": checkpoint != published,
        f"decoding={cell.decoding}": cell.decoding != PUBLISHED,
        UNLIKE_TABLES.get(number, ""): number in UNLIKE_TABLES,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def notes_beside_the_paper(results: ModelResults, unlike: str) -> list[str]:
    """What a reader must know of the differences, or why there are none."""
    if unlike:
        return [f"not subtracted from the paper's numbers, which are of another run: {unlike}."]
    cell = _any_cell(results)
    limit = None if cell is None else cell.config.get("limit")
    if limit is None:
        return []
    return [f"differences from the paper compare limit={limit} with its whole splits."]


def _any_cell(results: ModelResults) -> CellResult | None:
    """All agree in model, decoding and limit; see selection.model_results."""
    variants = (variant for found in results.rows.values() for variant in found)
    entries = (entry for variant in variants for entry in variant.entries.values())
    return next((cell for entry in entries for cell in entry.cells), None)
