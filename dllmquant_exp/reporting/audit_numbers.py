"""The audit's checks of the tables' numbers against each other: sums, ratios, copies, grids."""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import combinations

from dllmquant_exp.reporting.audit_finding import (
    MODELS,
    QUANTIZED,
    TASKS,
    Finding,
    Sheet,
    number,
    place,
)
from dllmquant_exp.reporting.grids import AVERAGE
from dllmquant_exp.reporting.paper import PaperCell, paper_model

# Items of the official evaluation splits; of C-Eval the validation split, pooled over subjects.
# HellaSwag (10,042) and MMLU (14,042) are left out: their grids are finer than two decimals, and
# TruthfulQA's mc2 is no accuracy.
SPLITS = {"Arc.": 1172, "Wino.": 1267, "PIQA": 1838, "C-EVAL": 1346, "Hum.": 164, "GSM8K": 1319}
RATIOS = (("Speed Quant", "Speed FP", "Speed Up"), ("Memory FP", "Memory Quant", "Mem. Sav."))
ALIKE_CELLS = 3  # two rows that share more numbers than chance explains


def averages(sheet: Sheet) -> list[Finding]:
    """Every printed average of nine scores, within what rounding allows."""
    findings, cut, lifted, agreeing = [], 0, 0, 0
    for average in (c for c in sheet.values() if c.column == AVERAGE):
        row = [sheet.get((average.table, average.model, average.row, task)) for task in TASKS]
        cells = [cell for cell in row if cell is not None]
        if len(cells) < len(TASKS):
            continue
        mean = _mean([cell.value for cell in cells])
        slack = _mean([cell.rounding for cell in cells]) + average.rounding
        if abs(average.value - mean) <= slack:
            agreeing += 1
            cut += average.value < round(mean, 2)
            lifted += average.value > round(mean, 2)
            continue

        def fits(
            values: Sequence[Decimal], target: Decimal = average.value, slack: Decimal = slack
        ) -> bool:
            return abs(_mean(values) - target) <= slack

        gap = average.value - mean
        sentence = f"Its nine scores average {mean:.2f}, so drops from the printed average are "
        sentence += f"{gap:+.2f} points off; {_repair(cells, fits)}."
        where = place(average)
        findings.append(
            Finding("average", where, average.printed, f"{mean:.2f}", float(gap), "points",
                    "error", sentence)
        )  # fmt: skip
    total = agreeing + len(findings)
    findings.append(_agree("average", "Tables 1 and 5", f"{agreeing} of {total} averages"))
    if cut + lifted:
        sentence = f"Of the {agreeing} agreeing averages {cut} are a hundredth below and {lifted} "
        sentence += "above the rounded mean: some were cut off, not rounded."
        findings.append(
            Finding("average", "Tables 1 and 5", f"{cut} cut", "rounded", 0.01, "points", "note",
                    sentence)
        )  # fmt: skip
    return findings


def _mean(values: Sequence[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


def _agree(check: str, where: str, what: str) -> Finding:
    sentence = f"{what}: recomputed and right within rounding."
    return Finding(check, where, what, what, 0.0, "", "agrees", sentence)


def _repair(cells: Sequence[PaperCell], fits: Callable[[Sequence[Decimal]], bool]) -> str:
    """Which single wrong digit would explain the contradiction."""
    repairs = []
    for i, cell in enumerate(cells):
        for k, digit in enumerate(cell.printed):
            others = [d for d in "0123456789" if digit != "." and d != digit]
            for other in others:
                changed = cell.printed[:k] + other + cell.printed[k + 1 :]
                values = [c.value for c in cells]
                values[i] = Decimal(changed)
                if fits(values):
                    repairs.append(f"{cell.printed} for {changed}")
    if not repairs:
        return "no single wrong digit explains it"
    return f"a single wrong digit would explain it: {' or '.join(repairs)}"


def ratios(sheet: Sheet) -> list[Finding]:
    """Table 4's ratios, within what the rounding of both sides allows."""
    findings, agreeing = [], 0
    for model in MODELS:
        for above, below, column in RATIOS:
            a, b, printed = (sheet[4, model, "quantized", name] for name in (above, below, column))
            low = (a.value - a.rounding) / (b.value + b.rounding) - printed.rounding
            high = (a.value + a.rounding) / (b.value - b.rounding) + printed.rounding
            if low <= printed.value <= high:
                agreeing += 1
                continue

            def fits(
                values: Sequence[Decimal], target: Decimal = printed.value,
                slack: Decimal = printed.rounding,
            ) -> bool:  # fmt: skip
                return values[1] > 0 and abs(values[0] / values[1] - target) <= slack

            ratio = a.value / b.value
            sentence = f"{a.printed} / {b.printed} = {ratio:.2f}; {_repair([a, b], fits)}."
            findings.append(
                Finding("ratio", place(printed), printed.printed, f"{ratio:.2f}",
                        float(printed.value - ratio), "x", "error", sentence)
            )  # fmt: skip
    total = agreeing + len(findings)
    return [*findings, _agree("ratio", "Table 4", f"{agreeing} of {total} ratios")]


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
    what = f"{same} of {len(shared)} cells that two or more tables share"
    return [*findings, _agree("shared cell", "Tables 1, 2, 3, 5", what)]


def renamed_row(sheet: Sheet) -> list[Finding]:
    """Table 1's QuaRot row stands as GPTQ in other tables."""
    shown = [c for c in sheet.values() if c.row == "quarot" and c.table != 1 and c.name == "GPTQ"]
    same = [c for c in shown if sheet[1, c.model, c.row, c.column].printed == c.printed]
    if not same:
        return []
    tables = ", ".join(str(t) for t in sorted({c.table for c in same}))
    sentence = f"All {len(same)} numbers of the rows called GPTQ are Table 1's QuaRot numbers, so "
    sentence += "GPTQ there means rotation and GPTQ; plain GPTQ is nowhere measured."
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
            sentence = f"{', '.join(alike)} agree to the last digit where other rows lose up to "
            sentence += f"{max(losses):.1f} points: probably copied, and their averages hold it."
            where = f"Table 1, {paper_model(model)}, {', '.join(alike)}, {task}"
            findings.append(
                Finding("repeated cell", where, value, "different", float(len(alike)), "rows",
                        "doubt", sentence)
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
                Finding("repeated row", f"Table 1, {where}", "equal", "different",
                        float(len(alike)), "cells", "doubt", sentence)
            )  # fmt: skip
    return findings or [_agree("repeated row", "Table 1", f"{len(rows)} rows, none copied")]


def on_grid(cell: PaperCell, n: int, *, cut: bool = False) -> bool:
    """Whether some k of n items, in percent, is printed so: rounded, or cut off."""
    low = cell.value if cut else cell.value - cell.rounding
    first, high = math.ceil(low * n / 100) * Decimal(100), (low + 2 * cell.rounding) * n
    return first < high or (first == high and not cut)


def granularity(sheet: Sheet) -> list[Finding]:
    """An accuracy over n items is k/n: the scores of each table that are none, task by task."""
    groups: dict[tuple[int, str, str], list[PaperCell]] = {}
    for cell in sheet.values():
        if cell.column in SPLITS:
            rows = "FP" if cell.row == "fp" else "quantized"
            groups.setdefault((cell.table, cell.column, rows), []).append(cell)
    findings = []
    for (table, task, rows), cells in groups.items():
        n = SPLITS[task]
        off = [cell for cell in cells if not on_grid(cell, n)]
        if not off:
            continue
        # Averages of r equal runs lie on the grid of n r items.
        runs = next(r for r in range(1, 10_000) if all(on_grid(c, n * r) for c in cells))
        by_chance = sum(min(1.0, float(2 * cell.rounding) * n / 100) for cell in cells)
        cut = sum(not on_grid(cell, n, cut=True) for cell in cells)
        sentence = f"An accuracy over {n} items is k/{n}; {len(off)} of {len(cells)} are not "
        sentence += f"({cut} if cut off, not rounded). {len(cells) - len(off)} on the grid where "
        sentence += f"chance puts {by_chance:.1f}: not single runs over the split, nor averages of "
        sentence += f"fewer than {runs} such runs."
        printed = ", ".join(cell.printed for cell in off[:3]) + (", ..." if len(off) > 3 else "")
        findings.append(
            Finding("granularity", f"Table {table}, {task}, {rows} rows", printed, f"k/{n}",
                    float(len(off)), f"of {len(cells)} cells", "doubt", sentence)
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
                limit = full if cell.value > full.value else plain
                if plain.value <= cell.value <= full.value:
                    continue
                sentence = f"A 4-bit score {'above' if limit is full else 'below'} that of "
                sentence += f"{limit.name}: noise of this size, or a slip."
                findings.append(
                    Finding("order", place(cell), cell.printed, f"{limit.name} {limit.printed}",
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
        Finding("one decimal", "Table 1, FP rows", f"{full} of {of_full}",
                f"{of_full * other / of_other:.0f}", full - of_full * other / of_other, "cells",
                "doubt", sentence)
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
        Finding("protocol", "Table 1, LLADA-1.5, FP", "one row", "two protocols",
                max(leaps.values()), "points", "doubt", sentence)
    ]  # fmt: skip
