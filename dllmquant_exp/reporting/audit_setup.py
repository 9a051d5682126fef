"""The audit's checks of the set-up: what so few items can show, captions, calibration."""

import math

from dllmquant_exp.reporting.audit_finding import MODELS, PAIRS, Finding, Sheet, number
from dllmquant_exp.reporting.audit_scores import SPLITS
from dllmquant_exp.reporting.audit_text import SEGMENTS
from dllmquant_exp.reporting.comparisons import mcnemar
from dllmquant_exp.reporting.paper import paper_caption, paper_model
from dllmquant_exp.reporting.statistics import ALPHA, z_quantile

GENERATED = ("GSM8K", "Hum.")  # the columns of Tables 3 and 6


def standard_error(percent: float, n: int) -> float:
    """Of an accuracy in percent over n items, in points."""
    return math.sqrt(percent * (100 - percent) / n)


def best_p(gain: float, n: int) -> float:
    """p-value of a gain in points if no item at all was lost: no pairing can give a smaller one.

    1 of a loss.
    """
    return mcnemar(max(0, math.ceil(gain * n / 100)), 0)


def small_gains(sheet: Sheet) -> list[Finding]:
    """Tables 3 and 6: gains over the first row that are no more than noise.

    Losses, and gains below twice an unpaired standard error of the difference.
    """
    findings = []
    for table, base in ((3, "quarot"), (6, "rtn_random")):
        rows = dict.fromkeys(c.row for c in sheet.values() if c.table == table and c.row != base)
        parts, largest, clear = [], 0.0, True
        for task in GENERATED:
            n, before = SPLITS[task], number(sheet, table, "llada_8b", base, task)
            gain = max(number(sheet, table, "llada_8b", row, task) for row in rows) - before
            largest = max(largest, gain)
            clear = clear and gain > 2 * math.sqrt(2) * standard_error(before, n)
            parts.append(
                f"{task} {gain:+.2f} at most, one standard error {standard_error(before, n):.1f} "
                f"(n = {n}), p at best {best_p(gain, n):.2g}"
            )
        if clear:
            continue
        sentence = f"Gains over the first row: {'; '.join(parts)} (paired, and not one item lost)."
        findings.append(
            Finding("noise", f"Table {table}", "", "", largest, "points", "doubt", sentence)
        )  # fmt: skip
    return findings


def undecidable_gains(sheet: Sheet) -> list[Finding]:
    """Table 1: gains of + over AWQ and of ++ over QuaRot that no pairing could support."""
    gains = [
        (number(sheet, 1, m, new, task), number(sheet, 1, m, old, task), n)
        for m in MODELS
        for new, old in PAIRS
        for task, n in SPLITS.items()
    ]
    hopeless = sum(best_p(abs(new - old), n) > ALPHA for new, old, n in gains)
    unpaired = sum(
        abs(new - old) > z_quantile() * math.hypot(standard_error(new, n), standard_error(old, n))
        for new, old, n in gains
    )
    sentence = f"Of {len(gains)} differences between a method and its basis on tasks of known size "
    sentence += f"{hopeless} could not reach p = {ALPHA} even if every changed item went one way, "
    sentence += f"and {unpaired} exceed the unpaired 95% limit; the paper gives no intervals."
    return [
        Finding("noise", "Table 1", "", "", float(len(gains) - unpaired), "cells", "note", sentence)
    ]  # fmt: skip


def captions(sheet: Sheet) -> list[Finding]:
    """Models and methods that a caption names and the table lacks."""
    findings = []
    for table in sorted({cell.table for cell in sheet.values()}):
        caption = paper_caption(table)
        cells = [cell for cell in sheet.values() if cell.table == table]
        there = {paper_model(cell.model) for cell in cells}
        rows = {cell.name for cell in cells}
        absent = [m for m in map(paper_model, MODELS) if f"{m}-" in caption and m not in there]
        absent += [
            m
            for m in ("RTN", "AWQ", "QuaRot", "GPTQ")
            if f"{m}," in caption and not any(name.startswith(m) for name in rows)
        ]
        if absent:
            sentence = f"The caption names {', '.join(absent)}; no row is of these, all are of "
            sentence += f"{', '.join(sorted(there))}."
            findings.append(
                Finding("caption", f"Table {table}", ", ".join(absent), "",
                        float(len(absent)), "names", "error", sentence)
            )  # fmt: skip
    return findings


def calibrated_rtn(sheet: Sheet) -> list[Finding]:
    """Table 6's RTN depends on calibration, Table 1's equal one cannot."""
    random = [sheet[6, "llada_8b", "rtn_random", task].printed for task in GENERATED]
    plain = [sheet[1, "llada_8b", "rtn", task].printed for task in GENERATED]
    rows = {c.row for c in sheet.values() if c.table == 6}
    spread = [{number(sheet, 6, "llada_8b", row, task) for row in rows} for task in GENERATED]
    if random != plain or all(len(values) == 1 for values in spread):
        return []
    gap = max(max(values) - min(values) for values in spread)
    sentence = "RTN + Random calib equals Table 1's RTN, yet RTN moves with the calibration set: "
    sentence += "per-token ranges (Setup) are taken from the input itself and need none, so under "
    sentence += "the Setup no one setting gives both tables."
    return [
        Finding("calibration", "Table 6 and Table 1, RTN", " / ".join(random), "",
                gap, "points", "error", sentence)
    ]  # fmt: skip


def masked_on_plain_text(sheet: Sheet) -> list[Finding]:
    """Table 3's 'w. mask' moves on Table 1's base, where no token is masked.

    With one weight for every token H is a multiple of plain GPTQ's, so the row equals its base.
    """
    base, masked, whole = (
        [sheet[3, "llada_8b", row, task].printed for task in GENERATED]
        for row in ("quarot", "quarot_cgq_mask", "quarot_cgq")
    )
    plain = [sheet[1, "llada_8b", "quarot", task].printed for task in GENERATED]
    states, after = (
        [sheet[5, "llada_8b", row, task].printed for task in GENERATED]
        for row in ("quarot_tmas", "quarot_tmas_cgq")
    )
    if base != plain or base == states or masked == base:
        return []
    gap = number(sheet, 3, "llada_8b", "quarot_cgq_mask", "GSM8K") - float(base[0])
    sentence = f"The base is Table 1's QuaRot, calibrated on {SEGMENTS} segments of text. Nothing "
    sentence += "is masked there, so weights by mask are all alike and change nothing. On TMAS' "
    sentence += f"states the base would be Table 5's {' / '.join(states)} and the last row its "
    sentence += f"{' / '.join(after)}, not {' / '.join(whole)}: no stated set-up gives Table 3; "
    sentence += "segments masked in some way that the paper leaves out would."
    return [
        Finding("calibration", "Table 3, GPTQ+ CGQ w. mask", " / ".join(masked), " / ".join(base),
                gap, "points", "doubt", sentence)
    ]  # fmt: skip
