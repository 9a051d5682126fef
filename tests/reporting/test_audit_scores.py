"""The audit of single scores: every fraction that could be printed, looked up by other code."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from audited import found, one

from dllmquant_exp.reporting.audit_scores import on_grid
from dllmquant_exp.reporting.paper import PaperCell, paper_cells

SPLITS = {"Arc.": 1172, "Wino.": 1267, "PIQA": 1838, "C-EVAL": 1346, "Hum.": 164, "GSM8K": 1319}


def prints(n: int, digits: int) -> set[int]:
    """Every k/n in units of the last digit, rounded and cut off, in whole numbers."""
    whole = 100 * 10**digits
    rounded = {(2 * k * whole + n) // (2 * n) for k in range(n + 1)}
    return rounded | {k * whole // n for k in range(n + 1)}


def fits(printed: str, n: int) -> bool:
    whole, _, part = printed.partition(".")
    return int(whole + part) in prints(n, len(part))


def distinct(task: str) -> dict[tuple[str, str], str]:
    """The prints of a task by model and row; the tables agree where they share a row."""
    return {(cell.model, cell.row): cell.printed for cell in paper_cells() if cell.column == task}


@pytest.mark.parametrize(
    ("task", "off", "of", "full", "runs", "alone"),
    [("Arc.", 18, 22, 1, 6, 6), ("Wino.", 13, 22, 0, 6, 4), ("PIQA", 14, 22, 1, 4, 4),
     ("C-EVAL", 13, 22, 1, 5, 5), ("Hum.", 23, 29, 0, 41, 36), ("GSM8K", 21, 29, 0, 5, 5)],
)  # fmt: skip
def test_scores_off_the_grid_by_other_code(
    task: str, off: int, of: int, full: int, runs: int, alone: int
) -> None:
    """Every k/n printed with as many digits, and looked up there; so for averages of runs."""
    n, cells = SPLITS[task], distinct(task)
    wrong = {key: printed for key, printed in cells.items() if not fits(printed, n)}
    assert (len(wrong), len(cells), sum(row == "fp" for _, row in wrong)) == (off, of, full)

    def fewest(these: Iterable[str]) -> int:
        return next(r for r in range(1, 100) if all(fits(printed, n * r) for printed in these))

    assert fewest(cells.values()) == runs
    assert max(fewest([printed]) for printed in cells.values()) == alone

    finding = one("granularity", f", {task}")
    assert (finding.gap, finding.unit, finding.expected) == (off, f"of {of} cells", f"k/{n}")
    assert f"{off} of {of} cells ({full} of full precision)" in finding.sentence
    ending = f"at least {runs}" + ("" if alone == runs else f" ({alone} for one cell by itself)")
    every = set(range(10_000)) <= set(prints(n * runs, 2))
    ending += ", and averages of so many fit any print." if every else "."
    assert finding.sentence.endswith(ending)
    digits = [len(printed.partition(".")[2]) for printed in cells.values()]
    chance = sum(len(prints(n, d)) / (100 * 10**d + 1) for d in digits)
    stated = float(finding.sentence.partition("chance has ")[2].partition(". So")[0])
    assert stated == pytest.approx(chance, abs=0.06)


def test_full_precision_scores_that_only_cutting_off_explains() -> None:
    """32.92 is 54 / 164 = 32.927 cut off, 49.4 and 57.9 are 81 and 95 of 164 rounded; 74.9, 74.8
    and 74.50 are 949, 948 and 944 of 1267 cut off (74.901, 74.822, 74.507)."""
    for task, n, counts in (("Hum.", 164, (54, 81, 95)), ("Wino.", 1267, (949, 948, 944))):
        full = [cell for cell in paper_cells(1) if (cell.row, cell.column) == ("fp", task)]
        for cell, k in zip(full, counts, strict=True):
            assert abs(100 * k / n - float(cell.value)) < 2 * float(cell.rounding)
            assert on_grid(cell, n)


def test_no_granularity_where_every_cell_is_rounded_or_cut_off() -> None:
    """Of 164 items, by turns rounded and cut off."""

    def printed(i: int, value: str) -> str:
        k = round(float(value) * 164 / 100)
        return f"{10_000 * k // 164 / 100:.2f}" if i % 2 else f"{100 * k / 164:.2f}"

    new = {key: printed(i, value) for i, (key, value) in enumerate(distinct("Hum.").items())}
    right = [replace(c, printed=new[c.model, c.row]) if c.column == "Hum." else c
             for c in paper_cells()]  # fmt: skip
    assert not found("granularity", ", Hum.", right)
    assert len(found("granularity", cells=right)) == 5


@pytest.mark.parametrize("n", [7, 164, 299, 1319])
def test_the_grid_is_the_set_of_printed_fractions(n: int) -> None:
    for hundredth in range(0, 10_001, 3):
        cell = PaperCell(1, "llada_8b", "rtn", "Hum.", f"{hundredth / 100:.2f}", "RTN")
        assert on_grid(cell, n) == (hundredth in prints(n, 2))


def test_llada_1_5_mixes_two_protocols() -> None:
    finding = one("protocol")
    assert finding.gap == pytest.approx(88.5 - 44.03)
    for task in ("Arc.", "Hella.", "Hum.", "GSM8K"):
        assert f"{task} by +" in finding.sentence


def test_full_precision_rows_mix_precisions() -> None:
    finding = one("one decimal")
    assert finding.sentence.startswith("14 of 27 full-precision scores")


def test_scores_out_of_order() -> None:
    places = {f.where: f.expected for f in found("order")}
    assert places == {
        "Table 1, LLADA, QuaRot, Arc.": "at most FP's 44.03",
        "Table 1, LLADA, DLLMQuant++, Arc.": "at most FP's 44.03",
        "Table 1, LLADA, QuaRot, C-EVAL": "at least RTN's 57.95",
        "Table 1, LLADA-1.5, QuaRot, C-EVAL": "at least RTN's 58.96",
    }
