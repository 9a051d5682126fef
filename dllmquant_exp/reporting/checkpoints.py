"""Results of one name and of different weights are never averaged or compared."""

from collections.abc import Sequence

from dllmquant_exp.reporting.cells import CellResult

SHOWN = len("sha256:") + 8


def one_checkpoint(cells: Sequence[CellResult], notes: list[str]) -> list[CellResult]:
    """The results of the checkpoint that most of them are of, the newest where that ties.

    What is left out is named in `notes`. A failed result has no digest and stays. So does a saved
    quantized model, whose digest is of itself: its recipe tells it apart.
    """
    groups: dict[str, list[CellResult]] = {}
    for cell in cells:
        if cell.checkpoint_digest and "saved" not in cell.config:
            groups.setdefault(cell.checkpoint_digest, []).append(cell)
    sizes = {
        digest: (len(group), max(cell.finished_at for cell in group))
        for digest, group in groups.items()
    }
    kept = max(sizes, key=lambda digest: sizes[digest], default="")
    others = {digest: group for digest, group in groups.items() if digest != kept}
    for digest, group in others.items():
        notes.append(
            f"left out: {len(group)} results of another checkpoint ({digest[:SHOWN]}; shown: "
            f"{kept[:SHOWN]})."
        )
    left = {id(cell) for group in others.values() for cell in group}
    return [cell for cell in cells if id(cell) not in left]
