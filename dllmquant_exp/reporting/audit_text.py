"""The audit's checks of words, formulas and Algorithm 1; no number of the tables takes part."""

import math
from decimal import Decimal

from dllmquant_exp.reporting.audit_finding import Finding, Sheet
from dllmquant_exp.reporting.paper import paper_quotes

SAMPLES, SEGMENTS = 512, 128  # TMAS' states; the baselines' segments
PROPORTIONS = tuple(Decimal(p) for p in ("0.3", "0.2", "0.2", "0.3"))
BLOCKS = (4, 8)
MASKED, UNMASKED = 1.0, 0.7  # Eq. 10's indicator


def granularity_of_activations(sheet: Sheet) -> list[Finding]:
    """Eq. 3 against the Setup; no number of the tables takes part."""
    quotes = paper_quotes()
    sentence = "The text states both granularities; they are different quantizers."
    return [
        Finding("text", "Quantization (Eq. 3) and Setup", f'"{quotes["per_tensor"]}"',
                f'"{quotes["per_token"]}"', None, "", "error", sentence)
    ]  # fmt: skip


def sample_quotas(sheet: Sheet) -> list[Finding]:
    """Algorithm 1's quotas are fractional; `C < p` admits their ceilings."""
    parts, gap = [], 0
    for blocks in BLOCKS:
        quotas = [SAMPLES // blocks * p for p in PROPORTIONS]
        total = blocks * sum(math.ceil(q) for q in quotas)
        parts.append(f"{total} for B = {blocks} ({', '.join(f'{q:.1f}' for q in quotas)} a block)")
        gap = min(gap, SAMPLES - total)
    sentence = f"The quotas are fractional and 'C < p' admits their ceilings: {'; '.join(parts)}."
    confound = f"TMAS' rows calibrate on {SAMPLES} states or more, the baselines on {SEGMENTS} "
    confound += "segments: a gain may come from the sample count."
    return [
        Finding("algorithm", "Algorithm 1", f"{SAMPLES} samples", parts[0], float(gap), "samples",
                "note", sentence),
        Finding("confound", "Setup and Algorithm 1", f"{SEGMENTS} segments", f"{SAMPLES} states",
                float(SEGMENTS - SAMPLES), "samples", "note", confound),
    ]  # fmt: skip


def certainty_weights(sheet: Sheet) -> list[Finding]:
    """Eq. 10 weighs a decoded token, sure of itself, above most masked ones."""
    decoded, hidden = (UNMASKED + math.sqrt(0.95)) ** 2, (MASKED + math.sqrt(0.2)) ** 2
    break_even = (UNMASKED + 1 - MASKED) ** 2
    sentence = f"(1[.] + sqrt s)^2 is {decoded:.1f} for a decoded token with s = .95 and "
    sentence += f"{hidden:.1f} for a masked one with s = .2; a masked token outweighs a certain "
    sentence += f"decoded one only above s = {break_even:.2f}."
    return [
        Finding("formula", "Certainty-Guided Quantization (Eq. 10) and Conclusion",
                f'"{paper_quotes()["masked_first"]}"', "not guaranteed", decoded - hidden,
                "weight", "doubt", sentence)
    ]  # fmt: skip
