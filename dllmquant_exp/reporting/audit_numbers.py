"""The audit's checks of numbers that others determine: Table 1's averages, Table 4's ratios."""

from collections.abc import Callable, Sequence
from decimal import Decimal

from dllmquant_exp.reporting.audit_finding import (
    MODELS,
    TASKS,
    Finding,
    Sheet,
    agreement,
    place,
)
from dllmquant_exp.reporting.grids import AVERAGE
from dllmquant_exp.reporting.paper import PaperCell

RATIOS = (("Speed Quant", "Speed FP", "Speed Up"), ("Memory FP", "Memory Quant", "Mem. Sav."))


def averages(sheet: Sheet) -> list[Finding]:
    """Every printed average of nine scores, within what rounding allows; of both tables that
    print it."""
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
    sentence = f"{agreeing} of {total} averages are right within rounding."
    findings.append(agreement("average", "Tables 1 and 5", sentence))
    if cut + lifted:
        sentence = f"Of the {agreeing} agreeing averages {cut} are a hundredth below and {lifted} "
        sentence += "above the rounded mean: some were cut off, not rounded."
        findings.append(
            Finding("average", "Tables 1 and 5", "", "", 0.01, "points", "note", sentence)
        )  # fmt: skip
    return findings


def _mean(values: Sequence[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


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
    sentence = f"{agreeing} of {total} ratios are right within rounding."
    return [*findings, agreement("ratio", "Table 4", sentence)]
