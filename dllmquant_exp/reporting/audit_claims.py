"""The audit's checks of what the text says against what the tables print."""

import math
from itertools import pairwise

from dllmquant_exp.reporting.audit_finding import (
    MODELS,
    PAIRS,
    QUANTIZED,
    TASKS,
    Finding,
    Sheet,
    number,
)
from dllmquant_exp.reporting.claim_list import COMPARABLE, GENERATION
from dllmquant_exp.reporting.grids import AVERAGE
from dllmquant_exp.reporting.paper import CHAINS, paper_model, paper_quotes

DROP_CLAIMED, SPEED_CLAIMED, SAVING_CLAIMED = 16, 1.6, 3.2
GAIN_CLAIMED, AVERAGE_GAIN_CLAIMED = 10, 2


def _claim(
    quote: str, where: str, expected: str, gap: float | None, unit: str, severity: str,
    sentence: str,
) -> Finding:  # fmt: skip
    printed = f'"{paper_quotes()[quote]}"'
    return Finding("claim", where, printed, expected, gap, unit, severity, sentence)


def awq_drop(sheet: Sheet) -> list[Finding]:
    """'AWQ suffers a 16% drop on LLADA': neither in points nor relative."""
    drops = {}
    for model in MODELS:
        full, awq = (number(sheet, 1, model, row, AVERAGE) for row in ("fp", "awq"))
        drops[model] = (full - awq, 100 * (1 - awq / full))
    points, relative = drops["llada_8b"]
    if min(abs(points - DROP_CLAIMED), abs(relative - DROP_CLAIMED)) < 0.5:
        return []
    recomputed = sum(number(sheet, 1, "llada_8b", "fp", task) for task in TASKS) / len(TASKS)
    fixed = recomputed - number(sheet, 1, "llada_8b", "awq", AVERAGE)
    sentence = f"The printed averages fall by {points:.1f} points, {relative:.1f}% relative (the "
    sentence += f"recomputed ones by {fixed:.1f}, {100 * fixed / recomputed:.1f}%); 'more than 16%'"
    sentence += " in the introduction is true of the relative drop only"
    near = [m for m, (_, r) in drops.items() if abs(r - DROP_CLAIMED) < 0.5]
    if near:
        sentence += f"; {DROP_CLAIMED}% is the relative drop of {paper_model(near[0])}"
    where, expected = "abstract", f"{points:.1f} points or {relative:.1f}%"
    return [
        _claim("awq_drop", where, expected, DROP_CLAIMED - points, "points", "error",
               sentence + ".")
    ]  # fmt: skip


def speed(sheet: Sheet) -> list[Finding]:
    """'average speedup of over 1.6x', from tokens/s rather than from the printed ratios."""
    cells = {
        (m, c): number(sheet, 4, m, "quantized", c)
        for m in MODELS
        for c in ("Speed FP", "Speed Quant", "Speed Up")
    }
    true = sum(cells[m, "Speed Quant"] / cells[m, "Speed FP"] for m in MODELS) / len(MODELS)
    printed = sum(cells[m, "Speed Up"] for m in MODELS) / len(MODELS)
    if true > SPEED_CLAIMED:
        return []
    first, second = (cells[m, "Speed Quant"] for m in ("llada_8b", "llada_1_5"))
    sentence = f"The tokens/s give {true:.2f} on average, the printed ratios {printed:.2f}; LLADA "
    sentence += f"and LLADA-1.5 have one shape, yet {first} and {second} tokens/s when quantized."
    return [
        _claim("speed", "Memory and Speedup", f"{true:.2f}x", SPEED_CLAIMED - true, "x", "error",
               sentence)
    ]  # fmt: skip


def saving(sheet: Sheet) -> list[Finding]:
    """'memory savings exceeding 3.2x'."""
    savings = {m: number(sheet, 4, m, "quantized", "Mem. Sav.") for m in MODELS}
    below = {paper_model(m): s for m, s in savings.items() if s <= SAVING_CLAIMED}
    if not below:
        return []
    mean = sum(savings.values()) / len(savings)
    sentence = f"{', '.join(f'{m} saves {s:.2f}x' for m, s in below.items())}; the claim holds of "
    sentence += f"the average only ({mean:.2f}x)."
    gap = SAVING_CLAIMED - min(below.values())
    expected = f"{mean:.2f}x on average"
    return [_claim("memory", "Memory and Speedup", expected, gap, "x", "note", sentence)]


def best_cells(sheet: Sheet) -> list[Finding]:
    """'the highest accuracy on nearly all tasks': where ++ is not alone at the top."""
    lost, behind = [], []
    for model in MODELS:
        for task in TASKS:
            mine, quarot = (sheet[1, model, r, task] for r in ("dllmquant_plusplus", "quarot"))
            others = [sheet[1, model, r, task] for r in QUANTIZED if r != "dllmquant_plusplus"]
            top = max(others, key=lambda cell: cell.value)
            where = f"{paper_model(model)} {task}"
            if mine.value <= top.value:
                sign = "=" if mine.value == top.value else "<"
                lost.append(f"{where} {mine.printed} {sign} {top.printed} ({top.name})")
            if mine.value < quarot.value:
                behind.append(f"{where} by {quarot.value - mine.value}")
    if not lost:
        return []
    cells = len(MODELS) * len(TASKS)
    sentence = f"DLLMQuant++ is not alone at the top in {len(lost)} of {cells} cells: "
    sentence += f"{'; '.join(lost)}. It loses to QuaRot on {', '.join(behind) or 'none'}."
    return [
        _claim("best_cells", "Results", f"{cells - len(lost)} of {cells} cells", float(len(lost)),
               "cells", "doubt", sentence)
    ]  # fmt: skip


def gains(sheet: Sheet) -> list[Finding]:
    """'over 10 points on GSM8K' and 'an average of 2%'."""
    gsm = [
        number(sheet, 1, "llada_8b", new, "GSM8K") - number(sheet, 1, "llada_8b", old, "GSM8K")
        for new, old in PAIRS
    ]
    mean = [
        number(sheet, 1, m, new, AVERAGE) - number(sheet, 1, m, old, AVERAGE)
        for m in MODELS
        for new, old in PAIRS
    ]
    findings = []
    if min(gsm) <= GAIN_CLAIMED:
        sentence = f"++ gains {gsm[1]:.2f} over QuaRot, + gains {gsm[0]:.2f} over AWQ: the claim "
        sentence += "is about one of the two variants."
        severity = "note" if max(gsm) > GAIN_CLAIMED else "error"
        findings.append(
            _claim("gsm8k_gain", "abstract", f"{gsm[0]:.2f} and {gsm[1]:.2f}",
                   GAIN_CLAIMED - min(gsm), "points", severity, sentence)
        )  # fmt: skip
    average = sum(mean) / len(mean)
    close = abs(average - AVERAGE_GAIN_CLAIMED) < 0.5
    sentence = f"The six gains of the nine-task averages are {min(mean):.2f} to {max(mean):.2f} "
    sentence += f"points, {average:.2f} on average."
    findings.append(
        _claim("average_gain", "Results", f"{average:.2f} points", AVERAGE_GAIN_CLAIMED - average,
               "points", "agrees" if close else "error", sentence)
    )  # fmt: skip
    return findings


def generation(sheet: Sheet) -> list[Finding]:
    """'results comparable to full-precision models' on the generation tasks."""
    drops = {
        f"{paper_model(m)} {task}": number(sheet, 1, m, "fp", task)
        - number(sheet, 1, m, "dllmquant_plusplus", task)
        for m in MODELS
        for task in GENERATION
    }
    if max(drops.values()) < 100 * COMPARABLE:
        return []
    others = [task for task in TASKS if task not in GENERATION]
    rest = [
        number(sheet, 1, m, "fp", task) - number(sheet, 1, m, "dllmquant_plusplus", task)
        for m in MODELS
        for task in others
    ]
    sentence = f"DLLMQuant++ loses {', '.join(f'{d:.1f} ({w})' for w, d in drops.items())}: "
    sentence += f"{sum(drops.values()) / len(drops):.1f} points on average against "
    sentence += f"{sum(rest) / len(rest):.1f} on the seven other tasks."
    return [
        _claim("generation", "Results", f"{max(drops.values()):.1f} points lost",
               max(drops.values()), "points", "doubt", sentence)
    ]  # fmt: skip


def degradation(sheet: Sheet) -> list[Finding]:
    """'without significant accuracy degradation'."""
    drops = [
        number(sheet, 1, m, "fp", AVERAGE) - number(sheet, 1, m, "dllmquant_plusplus", AVERAGE)
        for m in MODELS
    ]
    if max(drops) < 1:
        return []
    sentence = f"The best rows' nine-task averages fall by {min(drops):.2f} to {max(drops):.2f} "
    sentence += "points from the printed full-precision ones."
    return [
        _claim("no_degradation", "Conclusion", f"{max(drops):.2f} points lost", max(drops),
               "points", "doubt", sentence)
    ]  # fmt: skip


def calibration_restores(sheet: Sheet) -> list[Finding]:
    """'calibration can restore most of the performance': TMAS' share of what was lost."""
    full = sum(number(sheet, 1, "llada_8b", "fp", task) for task in TASKS) / len(TASKS)
    shares = {}
    for base, tmas, *_ in CHAINS:
        before, after = (number(sheet, 5, "llada_8b", row, AVERAGE) for row in (base, tmas))
        shares[sheet[5, "llada_8b", base, AVERAGE].name] = (after - before) / (full - before)
    before, after = (
        number(sheet, 6, "llada_8b", row, "GSM8K") for row in ("rtn_random", "rtn_tmas")
    )
    shares["RTN (GSM8K)"] = (after - before) / (
        number(sheet, 1, "llada_8b", "fp", "GSM8K") - before
    )
    best = max(shares.values())
    if best > 0.5:
        return []
    sentence = "Of what 4 bits lose, TMAS alone restores "
    sentence += f"{', '.join(f'{100 * s:.0f}% ({name})' for name, s in shares.items())}."
    return [
        _claim("calibration", "Temporal-Mask Adaptive Sampling", f"at most {100 * best:.0f}%",
               100 * (0.5 - best), "% short of half", "doubt", sentence)
    ]  # fmt: skip


def components(sheet: Sheet) -> list[Finding]:
    """'the addition of each individual method yields better metrics', task by task."""
    worse, steps = [], 0
    for chain in CHAINS:
        for before, after in pairwise(chain):
            for task in TASKS:
                steps += 1
                old, new = (number(sheet, 5, "llada_8b", row, task) for row in (before, after))
                if new <= old:
                    name = sheet[5, "llada_8b", after, task].name
                    worse.append(f"{name} on {task} ({new - old:+.2f})")
    if not worse:
        return []
    sentence = f"True of the averages; {len(worse)} of {steps} steps on single tasks go down: "
    sentence += f"{', '.join(worse)}."
    return [
        _claim("components", "Results", f"{steps - len(worse)} of {steps} steps up",
               float(len(worse)), "cells", "note", sentence)
    ]  # fmt: skip


def interaction(sheet: Sheet) -> list[Finding]:
    """CGQ's gain alone (Table 3) against its gain after TMAS (Table 5)."""
    parts, ratios = [], []
    for task in GENERATION:
        alone = number(sheet, 3, "llada_8b", "quarot_cgq", task) - number(
            sheet, 3, "llada_8b", "quarot", task
        )
        after = number(sheet, 5, "llada_8b", "quarot_tmas_cgq", task) - number(
            sheet, 5, "llada_8b", "quarot_tmas", task
        )
        parts.append(f"{task} {alone:+.2f} alone and {after:+.2f} after TMAS")
        least, most = sorted((alone, after))
        ratios.append(most / least if least > 0 else math.inf)  # a loss, or nothing, once
    if max(ratios) < 2:
        return []
    sentence = f"CGQ gives {', '.join(parts)}: the components' gains do not add up, or are noise."
    gap = max(ratios) if math.isfinite(max(ratios)) else None
    return [
        Finding("interaction", "Tables 3 and 5, CGQ", "", "", gap, "x", "note", sentence)
    ]  # fmt: skip
