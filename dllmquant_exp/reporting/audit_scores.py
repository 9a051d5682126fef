"""The audit's checks of single scores: grids of k/n, order, precision, protocols."""

import math
from collections.abc import Sequence
from itertools import count

from dllmquant_exp.reporting.audit_finding import (
    MODELS,
    QUANTIZED,
    TASKS,
    Finding,
    Sheet,
    number,
    place,
)
from dllmquant_exp.reporting.paper import PaperCell

# Items of the official evaluation splits; of C-Eval the validation split, pooled over subjects.
# HellaSwag (10,042) and MMLU (14,042) are left out: their grids are finer than two decimals, and
# TruthfulQA's mc2 is no accuracy.
SPLITS = {"Arc.": 1172, "Wino.": 1267, "PIQA": 1838, "C-EVAL": 1346, "Hum.": 164, "GSM8K": 1319}


def on_grid(cell: PaperCell, n: int) -> bool:
    """Whether some k of n items, in percent, is printed so, be it rounded or cut off.

    Printed v with a last digit of u stands for [v - u/2, v + u/2] rounded and [v, v + u) cut off:
    for [v - u/2, v + u) if either will do.
    """
    low, high = cell.value - cell.rounding, cell.value + 2 * cell.rounding
    return math.ceil(low * n / 100) * 100 < high * n


def runs_needed(cells: Sequence[PaperCell], n: int) -> int:
    """The fewest equally many runs that averages like these can be of: the grid of n r items."""
    return next(r for r in count(1) if all(on_grid(cell, n * r) for cell in cells))


def granularity(sheet: Sheet) -> list[Finding]:
    """An accuracy over n items is k/n: the scores that are none, task by task over all tables.

    A cell that several tables share counts once. Averages were cut off in places, so every score
    may be rounded or cut off.
    """
    findings = []
    for task, n in SPLITS.items():
        column = [cell for cell in sheet.values() if cell.column == task]
        cells = list({(cell.model, cell.row, cell.printed): cell for cell in column}.values())
        off = [cell for cell in cells if not on_grid(cell, n)]
        if not off:
            continue
        of_full = sum(cell.row == "fp" for cell in off)
        # Of 10,000 hundredths 1.5 n are some k/n: a cell stands for one and a half units.
        by_chance = sum(min(1.0, float(3 * cell.rounding) * n / 100) for cell in cells)
        runs, alone = runs_needed(cells, n), max(runs_needed([cell], n) for cell in off)
        sentence = f"{len(off)} of {len(cells)} cells ({of_full} of full precision) are no k/{n}, "
        sentence += f"neither rounded nor cut off; {len(cells) - len(off)} are, where chance "
        sentence += f"has {by_chance:.1f}. So not all are single runs pooled over the split"
        sentence += " (a mean over subjects may be one)" if task == "C-EVAL" else ""
        sentence += f"; if all are averages of equally many runs, these are at least {runs}"
        sentence += f" ({alone} for one cell by itself)" if alone < runs else ""
        # Where chance fits every cell, their fitting says no more of the number of runs.
        sentence += ", and averages of so many fit any print." if 1.5 * runs * n >= 10_000 else "."
        tables = ", ".join(str(table) for table in sorted({cell.table for cell in column}))
        printed = ", ".join(cell.printed for cell in off[:3]) + (", ..." if len(off) > 3 else "")
        findings.append(
            Finding("granularity", f"Tables {tables}, {task}", printed, f"k/{n}", float(len(off)),
                    f"of {len(cells)} cells", "doubt", sentence)
        )  # fmt: skip
    return findings


def out_of_order(sheet: Sheet) -> list[Finding]:
    """4-bit scores above full precision, or below plain rounding's."""
    findings = []
    for model in MODELS:
        for row in QUANTIZED:
            for task in TASKS:
                cell = sheet[1, model, row, task]
                full, plain = sheet[1, model, "fp", task], sheet[1, model, "rtn", task]
                above = cell.value > full.value
                limit, bound = (full, "at most") if above else (plain, "at least")
                if plain.value <= cell.value <= full.value:
                    continue
                sentence = f"A 4-bit score {'above' if above else 'below'} that of "
                sentence += f"{limit.name}: noise of this size, or a slip."
                findings.append(
                    Finding("order", place(cell), cell.printed,
                            f"{bound} {limit.name}'s {limit.printed}",
                            float(cell.value - limit.value), "points", "note", sentence)
                )  # fmt: skip
    return findings


def one_decimal(sheet: Sheet) -> list[Finding]:
    """Numbers with one significant decimal: many in full-precision rows, few elsewhere."""

    def share(rows: Sequence[str]) -> tuple[int, int]:
        cells = [sheet[1, model, row, task] for model in MODELS for row in rows for task in TASKS]
        return sum(cell.value == round(cell.value, 1) for cell in cells), len(cells)

    (full, of_full), (other, of_other) = share(["fp"]), share(QUANTIZED)
    if full / of_full < 3 * other / of_other:
        return []
    sentence = f"{full} of {of_full} full-precision scores have one decimal (some padded with a 0) "
    sentence += f"against {other} of {of_other} quantized ones, a tenth as chance has it: FP rows "
    sentence += "mix numbers taken from elsewhere with measured ones, so drops compare two set-ups."
    return [
        Finding("one decimal", "Table 1, FP rows", "", "", full - of_full * other / of_other,
                "cells", "doubt", sentence)
    ]  # fmt: skip


def mixed_protocol(sheet: Sheet) -> list[Finding]:
    """LLADA-1.5 is LLADA tuned further: columns that stay and columns that leap."""
    gaps = {
        task: number(sheet, 1, "llada_1_5", "fp", task) - number(sheet, 1, "llada_8b", "fp", task)
        for task in TASKS
    }
    leaps = {task: gap for task, gap in gaps.items() if abs(gap) > 10}
    still = {task: gap for task, gap in gaps.items() if abs(gap) < 1}
    if not leaps or not still or len(leaps) + len(still) < len(gaps):
        return []
    sentence = f"Against LLADA {', '.join(still)} move by less than a point and "
    sentence += ", ".join(f"{task} by {gap:+.1f}" for task, gap in leaps.items())
    sentence += ": two protocols in one row. 88.5 is ARC-C as published for LLaDA-8B-Instruct by "
    sentence += "generation, 74.8 WinoGrande as published for LLaDA-8B-Base by likelihood."
    return [
        Finding("protocol", "Table 1, LLADA-1.5, FP", "", "", max(leaps.values()), "points",
                "doubt", sentence)
    ]  # fmt: skip
