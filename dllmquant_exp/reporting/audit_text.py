"""The audit's checks of words, formulas and Algorithm 1; no number of the tables takes part.

So these findings stay however the tables are corrected. Every quotation is one of paper.yaml's.
"""

import math
from decimal import Decimal

from dllmquant_exp.reporting.audit_finding import Finding, Sheet
from dllmquant_exp.reporting.paper import paper_quotes

SAMPLES, SEGMENTS = 512, 128  # TMAS' states; the baselines' segments
PROPORTIONS = tuple(Decimal(p) for p in ("0.3", "0.2", "0.2", "0.3"))
BLOCKS = (4, 8)
STEPS = 100  # Figure 1's
MASKED, UNMASKED = 1.0, 0.7  # Eq. 10's indicator
LEVELS = 15  # of 4 bits, above the lowest


def _quoted(quote: str) -> str:
    return f'"{paper_quotes()[quote]}"' if quote else ""


def _said(check: str, where: str, quote: str, other: str, severity: str, sentence: str) -> Finding:
    """What the text says and, unless empty, what it says elsewhere: names of two quotations."""
    return Finding(check, where, _quoted(quote), _quoted(other), None, "", severity, sentence)


def contradictions(_: Sheet) -> list[Finding]:
    """Two statements of the text that exclude each other."""
    return [
        _said("text", "Quantization (Eq. 3) and Setup", "per_tensor", "per_token", "error",
              "These are different quantizers."),
        _said("text", "Certainty-Guided Quantization and Conclusion", "unmasked_first",
              "masked_first", "error",
              "CGQ favours the decoded tokens in one place and those still masked in the other; "
              f"Eq. 10's indicator is {MASKED} where masked and {UNMASKED} elsewhere."),
        _said("text", "Certainty-Guided Quantization", "decoded_idle", "decoded_matter", "doubt",
              "The first would weigh decoded tokens by 0, the second is the reason for "
              f"{UNMASKED}: masked positions attend to them in every later step. Both can hold "
              "only if the first is about outputs at these positions, the second about inputs."),
    ]  # fmt: skip


def algorithm(_: Sheet) -> list[Finding]:
    """Algorithm 1's lines, taken literally."""
    blocks = next(b for b in BLOCKS if STEPS % b)
    last = (STEPS - 1) // (STEPS // blocks)
    return [
        _said("algorithm", "Algorithm 1, lines 10, 15", "stored", "", "error",
              "x is the prompt of line 8 and no line changes it: y_t is the same at every step, "
              "and every stored sample of a prompt is one and the same. The state that the model "
              "is given at step t must be meant."),
        _said("algorithm", "Algorithm 1, line 11", "ratio", "", "note",
              "Called mask ratio, computed as the unmasked share. Thresholds .2, .5, .8 and "
              "proportions .3, .2, .2, .3 are symmetric, so that quotas stay, but for "
              "ratios that stand on a threshold."),
        _said("algorithm", "Algorithm 1, line 13", "block", "", "note",
              f"t descends, so the first block decoded has the highest index; where B does not "
              f"divide T, some steps have none: T = {STEPS}, B = {blocks} gives t = {STEPS - 1} "
              f"index {last} of 0 to {blocks - 1}."),
        _said("algorithm", "Algorithm 1, line 16", "counter", "", "note",
              "b is defined nowhere; block must be meant."),
    ]  # fmt: skip


def formulas(_: Sheet) -> list[Finding]:
    """Formulas that cannot be meant as printed."""
    low, high = -1.0, 1.0
    s = (high - low) / LEVELS
    least, most = ((x - low / s) / s for x in (low, high))  # (X - z) / s with z = Xmin / s
    return [
        _said("formula", "Quantization (Eq. 3)", "zero_point", "", "error",
              f"Eq. 3 rounds (X - z) / s, so this z is divided by s twice: with X in [{low:.0f}, "
              f"{high:.0f}] and 4 bits it gives {least:.0f} to {most:.0f}, all clamped to one "
              "level. X / s - z must be meant, or z = Xmin."),
        _said("formula", "Interaction-Aware Activation Quantization (Eq. 6)", "own_error", "",
              "doubt",
              "The quantized model's output on exact and on quantized states: no "
              "full-precision model takes part, as the error of quantization needs."),
        _said("formula", "Interaction-Aware Activation Quantization (Eq. 7)", "value_metric", "",
              "error",
              "Eq. 7 subtracts V from the integer floor((V - z) / s): without Deq, which Eq. 4 "
              "has, and without Eq. 3's rounding and clamp this is no quantization error."),
    ]  # fmt: skip


def sample_quotas(_: Sheet) -> list[Finding]:
    """Algorithm 1's quotas are fractional; `C < p` admits their ceilings."""
    parts, totals, gap = [], [], 0
    for blocks in BLOCKS:
        quotas = [SAMPLES // blocks * p for p in PROPORTIONS]
        total = blocks * sum(math.ceil(q) for q in quotas)
        totals.append(str(total))
        parts.append(f"{total} for B = {blocks} ({', '.join(f'{q:.1f}' for q in quotas)} a block)")
        gap = min(gap, SAMPLES - total)
    sentence = f"The quotas are fractional and 'C < p' admits their ceilings: {'; '.join(parts)}."
    confound = f"TMAS' rows calibrate on {SAMPLES} states or more, the baselines on {SEGMENTS} "
    confound += "segments: a gain may come from the sample count."
    return [
        Finding("algorithm", "Algorithm 1, line 14", f"{SAMPLES} samples", " or ".join(totals),
                float(gap), "samples", "note", sentence),
        Finding("confound", "Setup and Algorithm 1", "", "", float(SEGMENTS - SAMPLES), "samples",
                "note", confound),
    ]  # fmt: skip


def certainty_weights(_: Sheet) -> list[Finding]:
    """Eq. 10 weighs a decoded token, sure of itself, above most masked ones."""
    decoded, hidden = (UNMASKED + math.sqrt(0.95)) ** 2, (MASKED + math.sqrt(0.2)) ** 2
    break_even = (UNMASKED + 1 - MASKED) ** 2
    sentence = f"Not guaranteed: (1[.] + sqrt s)^2 is {decoded:.1f} for a decoded token with "
    sentence += f"s = .95 and {hidden:.1f} for a masked one with s = .2; a masked token outweighs "
    sentence += f"a certain decoded one only above s = {break_even:.2f}."
    return [
        Finding("formula", "Certainty-Guided Quantization (Eq. 10) and Conclusion",
                _quoted("masked_first"), "", decoded - hidden, "weight", "doubt", sentence)
    ]  # fmt: skip
