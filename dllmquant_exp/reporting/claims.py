"""The paper's claims, decided for each model from result files and recorded figures.

A comparison holds where its effect lies beyond the claim's threshold and p stays below 5% after
Holm's correction over the model's comparisons; it does not hold where that is so on the other side;
else it is undecided, and the detectable effect says what these items and seeds could have shown.
Interval and p-value come from one estimate (comparisons.average_over_seeds) and cover other items
and, with several of them, other calibration seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dllmquant_exp.reporting.claim_list import (
    CLAIMS,
    NEARLY_ALL,
    RIVALS,
    STEPS,
    SUMS,
    Claim,
    Sum,
)
from dllmquant_exp.reporting.comparisons import ALPHA, SeededAverage, holm, p_beyond
from dllmquant_exp.reporting.entries import Sample, difference, p_value, shared_seeds
from dllmquant_exp.reporting.figure_claims import FIGURE_CLAIMS, FigureClaim, Measured, measure
from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.selection import ModelResults, Variant
from dllmquant_exp.reporting.speed_claims import SPEED_CLAIMS, SpeedClaim, measure_speed_claim
from dllmquant_exp.reporting.speed_results import SpeedBlock
from dllmquant_exp.reporting.statistics import Estimate
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

HOLDS, FAILS, UNDECIDED, UNMEASURABLE = "holds", "does not hold", "undecided", "not measured"
BEST = "dllmquant_plusplus"
AnyClaim = Claim | FigureClaim | SpeedClaim


@dataclass(frozen=True)
class Verdict:
    """What the files say of one claim. Numbers are fractions where `unit` is points, else units."""

    name: str
    sentence: str
    verdict: str
    comparison: str = ""
    unit: str = "points"
    effect: Estimate | None = None
    threshold: float = 0.0
    n: int = 0
    seeds: int = 0
    p: float | None = None
    adjusted: float | None = None  # p after Holm
    detectable: float | None = None
    covers: str = ""
    needs: str = ""  # where nothing was measured


def verdicts(
    results: ModelResults, figures: Sequence[FigureData] = (), speed: SpeedBlock | None = None
) -> list[Verdict]:
    """Every claim about one model, in the paper's order.

    Args:
        figures: recorded ones of this model.
        speed: its part of Table 4.
    """
    measured: dict[AnyClaim, Measured | str] = {
        **{claim: _measure(claim, results) for claim in CLAIMS},
        **{claim: measure(claim, figures) for claim in FIGURE_CLAIMS},
        **{claim: measure_speed_claim(claim, speed) for claim in SPEED_CLAIMS},
    }
    decided = _decided(measured)
    steps = [decided.pop(step.name) for step in STEPS]
    sums = [_sum(claim, steps) for claim in SUMS]
    return [*steps, *sums, _best_on_nearly_all(results), *decided.values()]


def speed_verdicts(speed: SpeedBlock) -> list[Verdict]:
    """The claims about a model of which nothing but Table 4 was measured."""
    measured: dict[AnyClaim, Measured | str] = {
        claim: measure_speed_claim(claim, speed) for claim in SPEED_CLAIMS
    }
    return list(_decided(measured).values())


def _decided(measured: Mapping[AnyClaim, Measured | str]) -> dict[str, Verdict]:
    p_values = {
        claim.name: p_beyond(of.found.estimate, claim.threshold, ratio=_unit(claim) == "ratio")
        for claim, of in measured.items()
        if isinstance(of, Measured) and not _counted(claim)
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {claim.name: _verdict(claim, of, p_values, adjusted) for claim, of in measured.items()}


def _measure(claim: Claim, results: ModelResults) -> Measured | str:
    """The claim's effect, or what it needs."""
    better = [results.variant(row) for row in claim.better]
    worse = [results.variant(row) for row in claim.worse]
    if claim.equal_size:
        pair = _equal_size(results, claim.better[0], claim.worse[0])
        if pair is None:
            rows = f"row={claim.better[0]} and row={claim.worse[0]}"
            return f"{rows} calibrated on as many samples or tokens (a control)"
        better, worse = [pair[0]], [pair[1]]
    missing = _missing([*better, *worse], (*claim.tasks, *claim.beside))
    if missing:
        return missing
    main, beside = (_effect(better, worse, tasks) for tasks in (claim.tasks, claim.beside))
    if main is None or (claim.beside and beside is None):
        return "the same items and seeds in all of its rows"
    found = main if beside is None else _contrast(main, beside)
    n = sum(better[0].entry(label).n for label in (*claim.tasks, *claim.beside))
    return Measured(found, n, f"{_names(better)} - {_names(worse)}")


def _names(variants: Sequence[Variant]) -> str:
    texts = [v.row + (f" ({v.difference})" if v.difference else "") for v in variants]
    return texts[0] if len(texts) == 1 else f"mean({', '.join(texts)})"


def _missing(variants: Iterable[Variant], labels: Sequence[str]) -> str:
    """Cells that are not there, as `row=awq_tmas (Hum., GSM8K)`."""
    lacking = []
    for variant in variants:
        absent = [label for label in labels if variant.entry(label).sample is None]
        if absent:
            nine = len(absent) == len(PAPER_COLUMNS)
            where = "nine tasks" if nine else ", ".join(absent)
            lacking.append(f"row={variant.row} ({where})")
    return "; ".join(lacking)


def _effect(
    better: Sequence[Variant], worse: Sequence[Variant], labels: Sequence[str]
) -> SeededAverage | None:
    if not labels:
        return None
    samples = [_mean([variant.entry(label).sample for variant in better]) for label in labels]
    references = [_mean([variant.entry(label).sample for variant in worse]) for label in labels]
    return difference(samples, references)


def _mean(samples: Sequence[Sample | None]) -> Sample | None:
    """Item by item over rows, on the seeds that all of them have; None where items differ."""
    present = [sample for sample in samples if sample is not None]
    if len(present) == 1:
        return present[0]
    seeds = shared_seeds(present)
    if not seeds or any(sample.items != present[0].items for sample in present):
        return None
    scores = np.mean([sample.at(seeds) for sample in present], axis=0)
    return Sample(scores, tuple(seeds), present[0].items, any(s.calibrated for s in present))


def _contrast(first: SeededAverage, second: SeededAverage) -> SeededAverage:
    """first - second of different tasks; the seeds' parts are added as if independent, too."""
    a, b = first.estimate, second.estimate
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    error = math.hypot(first.standard_error, second.standard_error)
    return SeededAverage(Estimate(value, low, high), error, first.seeds, first.covers)


def _equal_size(results: ModelResults, first: str, second: str) -> tuple[Variant, Variant] | None:
    """Two rows as they were run with equally large calibration sets: most samples, then tokens."""
    pairs = [
        (size, a, b)
        for a in results.rows.get(first, ())
        for b in results.rows.get(second, ())
        if _uncalibrated(a) == _uncalibrated(b)
        for size in _sizes(a) & _sizes(b)
    ]
    return max(pairs, key=lambda pair: pair[0])[1:] if pairs else None


def _sizes(variant: Variant) -> set[tuple[bool, int]]:
    """(True, samples) of a set that was not cut, and (False, tokens) where they are known."""
    samples, tokens, length = (
        int(str(value)) if (value := variant.settings.get(f"calibration.{name}")) is not None else 0
        for name in ("samples", "tokens", "length")
    )
    if tokens:
        return {(False, tokens)}
    return {(True, samples)} | ({(False, samples * length)} if length else set())


def _uncalibrated(variant: Variant) -> dict[str, object]:
    return {k: v for k, v in variant.settings.items() if not k.startswith("calibration.")}


def _unit(claim: AnyClaim) -> str:
    if isinstance(claim, SpeedClaim):
        return "ratio"
    return claim.unit if isinstance(claim, FigureClaim) else "points"


def _counted(claim: AnyClaim) -> bool:
    """Whether no chance is in it: such a claim needs no test."""
    return isinstance(claim, SpeedClaim) and claim.counted


def _verdict(
    claim: AnyClaim,
    measured: Measured | str,
    p: Mapping[str, float],
    adjusted: Mapping[str, float],
) -> Verdict:
    if isinstance(measured, str):
        return Verdict(claim.name, claim.sentence, UNMEASURABLE, needs=measured)
    found = measured.found
    decided = _counted(claim) or adjusted[claim.name] < ALPHA
    below = isinstance(claim, FigureClaim) and claim.below
    beyond = (found.estimate.value > claim.threshold) != below
    return Verdict(
        claim.name,
        claim.sentence,
        UNDECIDED if not decided else HOLDS if beyond else FAILS,
        comparison=measured.what,
        unit=_unit(claim),
        effect=found.estimate,
        threshold=claim.threshold,
        n=measured.n,
        seeds=found.seeds,
        p=p.get(claim.name),
        adjusted=adjusted.get(claim.name),
        detectable=None if _counted(claim) else found.detectable,
        covers=found.covers,
    )


def _sum(claim: Sum, steps: Sequence[Verdict]) -> Verdict:
    """Holds where all parts hold: the worst verdict of a part, with its numbers."""
    parts = [step for step in steps if step.name in claim.parts]
    worst_first = (FAILS, UNMEASURABLE, UNDECIDED, HOLDS)
    verdict = min((part.verdict for part in parts), key=worst_first.index)
    found = [part for part in parts if part.verdict == verdict]
    if verdict == UNMEASURABLE:
        needs = "; ".join(dict.fromkeys("; ".join(part.needs for part in found).split("; ")))
        return Verdict(claim.name, claim.sentence, verdict, needs=needs)
    weakest = min(found, key=lambda part: part.effect.value if part.effect else math.inf)
    return replace(weakest, name=claim.name, sentence=claim.sentence, verdict=verdict)


def _best_on_nearly_all(results: ModelResults) -> Verdict:
    """In how many tasks DLLMQuant++ is the best quantized row.

    At least where it beats every rival, at most where no rival beats it, by paired tests on the
    seeds that were run, with Holm's correction over all of them.
    """
    name = "best_on_nearly_all"
    sentence = f"DLLMQuant++ is best on nearly all tasks (at least {NEARLY_ALL} of nine)"
    rows = [results.variant(row) for row in (BEST, *RIVALS)]
    missing = _missing(rows, PAPER_COLUMNS)
    if missing:
        return Verdict(name, sentence, UNMEASURABLE, needs=missing)
    gains: dict[tuple[str, str], float] = {}
    p_values: dict[tuple[str, str], float] = {}
    for rival in rows[1:]:
        for label in PAPER_COLUMNS:
            mine, other = rows[0].entry(label).sample, rival.entry(label).sample
            assert mine is not None and other is not None  # nothing is missing
            gains[rival.row, label] = float(mine.scores.mean() - other.scores.mean())
            p_values[rival.row, label] = p_value([mine], [other])
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    sure = {key: gains[key] if p < ALPHA else 0.0 for key, p in adjusted.items()}
    best, low = _won(gains), _won(sure)
    high = len(PAPER_COLUMNS) - len({label for (_, label), gain in sure.items() if gain < 0})
    return Verdict(
        name,
        sentence,
        HOLDS if low >= NEARLY_ALL else FAILS if high < NEARLY_ALL else UNDECIDED,
        comparison=f"{BEST} against {', '.join(RIVALS)}",
        unit="tasks",
        effect=Estimate(best, low, high),
        threshold=NEARLY_ALL,
        n=sum(rows[0].entry(label).n for label in PAPER_COLUMNS),
        seeds=min(len(entry.cells) for entry in rows[0].entries.values()),
        covers="other items of these tasks, with the calibration seeds that were run",
    )


def _won(gains: Mapping[tuple[str, str], float]) -> int:
    """Tasks with a gain over every rival."""
    return sum(all(gains[rival, label] > 0 for rival in RIVALS) for label in PAPER_COLUMNS)
