"""The paper's claims, decided for each model from result files and recorded figures.

A comparison holds where its effect lies beyond the claim's threshold and p stays below 5% after
Holm's correction over the claims of its kind (scores, scores with as many calibration states,
figures, speed), those that were not measured counted; it does not hold where that is so on the
other side; else it is undecided, and the detectable effect says what these items and seeds could
have shown. Rows that are all at chance decide nothing, nor do prompts on which nothing happened.
Interval and p-value come from one estimate (comparisons.average_over_seeds) and cover other items
and, with several of them, other seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dllmquant_exp.reporting.claim_list import (
    CLAIMS,
    NEARLY_ALL,
    RIVALS,
    STEPS,
    SUMS,
    Claim,
    Sum,
)
from dllmquant_exp.reporting.comparisons import SeededAverage, holm
from dllmquant_exp.reporting.entries import difference, p_value
from dllmquant_exp.reporting.figures.claims import FIGURE_CLAIMS, FigureClaim, NoEvent, measure
from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.measured import Measured
from dllmquant_exp.reporting.score_claims import AtChance, measure_score_claim, missing_cells
from dllmquant_exp.reporting.selection import ModelResults
from dllmquant_exp.reporting.speed.claims import SPEED_CLAIMS, SpeedClaim, measure_speed_claim
from dllmquant_exp.reporting.speed.results import SpeedBlock
from dllmquant_exp.reporting.statistics import ALPHA, Estimate
from dllmquant_exp.reporting.tables import PAPER_COLUMNS

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
UNMEASURED, AT_CHANCE, NO_EVENT = "not measured", "at chance", "no event"
BEST = "dllmquant_plusplus"
AnyClaim = Claim | FigureClaim | SpeedClaim
Found = Measured | AtChance | NoEvent | str  # a text says what is needed
WITHOUT_EFFECT: Mapping[type, str] = {str: UNMEASURED, AtChance: AT_CHANCE, NoEvent: NO_EVENT}


@dataclass(frozen=True)
class Verdict:
    """What the files say of one claim. Numbers are fractions where `unit` is points, else units."""

    name: str
    sentence: str
    verdict: str
    comparison: str = ""
    unit: str = "points"  # points, tasks, ratio, share or times
    effect: Estimate | None = None
    threshold: float = 0.0
    n: int = 0
    seeds: int = 0
    p: float | None = None
    adjusted: float | None = None  # p after Holm
    # How far from the threshold, by this test alone; of a count of tasks: on one task, in points;
    # of times: a factor.
    detectable: float | None = None
    detectable_first: float | None = None  # were it the first of its family that Holm tests
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
    measured: dict[AnyClaim, Found] = {
        **{claim: measure_score_claim(claim, results) for claim in CLAIMS},
        **{claim: measure(claim, figures) for claim in FIGURE_CLAIMS},
        **{claim: measure_speed_claim(claim, speed) for claim in SPEED_CLAIMS},
    }
    decided = _decided(measured)
    steps = [decided.pop(step.name) for step in STEPS]
    sums = [_sum(claim, steps) for claim in SUMS]
    return [*steps, *sums, _best_on_nearly_all(results), *decided.values()]


def speed_verdicts(speed: SpeedBlock) -> list[Verdict]:
    """The claims about a model of which nothing but Table 4 was measured."""
    measured: dict[AnyClaim, Found] = {
        claim: measure_speed_claim(claim, speed) for claim in SPEED_CLAIMS
    }
    return list(_decided(measured).values())


def _decided(measured: Mapping[AnyClaim, Found]) -> dict[str, Verdict]:
    families: dict[str, list[AnyClaim]] = {}
    for claim in measured:
        if not _counted(claim):
            families.setdefault(_kind(claim), []).append(claim)
    adjusted: dict[AnyClaim, tuple[float, int]] = {}  # p after Holm, and of how many
    for claims in families.values():
        found = ((claim, measured[claim]) for claim in claims)
        p_values = [_p(claim, of) if isinstance(of, Measured) else 1.0 for claim, of in found]
        for claim, p in zip(claims, holm(p_values), strict=True):
            adjusted[claim] = p, len(claims)
    return {claim.name: _verdict(claim, of, adjusted.get(claim)) for claim, of in measured.items()}


def _kind(claim: AnyClaim) -> str:
    """The family of tests that a claim belongs to, whatever else was measured."""
    return "size" if isinstance(claim, Claim) and claim.equal_size else type(claim).__name__


def _p(claim: AnyClaim, measured: Measured) -> float:
    return measured.found.p_beyond(claim.threshold) if measured.p is None else measured.p


def _unit(claim: AnyClaim) -> str:
    if isinstance(claim, SpeedClaim):
        return "times"
    return claim.unit if isinstance(claim, FigureClaim) else "points"


def _counted(claim: AnyClaim) -> bool:
    """Whether no chance is in it: such a claim needs no test."""
    return isinstance(claim, SpeedClaim) and claim.counted


def _verdict(claim: AnyClaim, measured: Found, adjusted: tuple[float, int] | None) -> Verdict:
    """adjusted: p after Holm and the size of its family; None where no chance is in it."""
    if not isinstance(measured, Measured):
        verdict = WITHOUT_EFFECT[type(measured)]
        return Verdict(claim.name, claim.sentence, verdict, needs=str(measured))
    found, effect = measured.found, measured.effect
    undecided = Verdict(
        claim.name,
        claim.sentence,
        UNDECIDED,
        comparison=measured.what,
        unit=_unit(claim),
        effect=effect,
        threshold=measured.shown(claim.threshold),
        n=measured.n,
        seeds=1 if isinstance(claim, SpeedClaim) else found.seeds,  # speed's are rounds
        covers=found.covers,
    )
    below = isinstance(claim, FigureClaim) and claim.below
    beyond = (found.value > claim.threshold) != below
    if adjusted is None:
        return replace(undecided, verdict=HOLDS if beyond else FAILS)
    p, family = adjusted
    return replace(
        undecided,
        verdict=UNDECIDED if p >= ALPHA else HOLDS if beyond else FAILS,
        p=_p(claim, measured),
        adjusted=p,
        detectable=measured.shown(found.detectable()),
        detectable_first=measured.shown(found.detectable(ALPHA / family)),
    )


def _sum(claim: Sum, steps: Sequence[Verdict]) -> Verdict:
    """Holds where all parts hold: the worst verdict of a part, with the numbers of one of these.

    Of parts that fail that of the smallest p; of others that of the largest, which is that of "all
    hold". Detectable is the largest effect that a part, tested by itself, could have missed.
    """
    parts = [step for step in steps if step.name in claim.parts]
    worst_first = (FAILS, UNMEASURED, AT_CHANCE, UNDECIDED, HOLDS)
    verdict = min((part.verdict for part in parts), key=worst_first.index)
    found = [part for part in parts if part.verdict == verdict]
    if verdict in (UNMEASURED, AT_CHANCE):
        needs = "; ".join(dict.fromkeys("; ".join(part.needs for part in found).split("; ")))
        return Verdict(claim.name, claim.sentence, verdict, needs=needs)
    decisive = (min if verdict == FAILS else max)(found, key=_by_p)
    return replace(
        decisive,
        name=claim.name,
        sentence=claim.sentence,
        detectable=_largest(part.detectable for part in parts),
        detectable_first=_largest(part.detectable_first for part in parts),
    )


def _by_p(verdict: Verdict) -> tuple[float, float]:
    return verdict.adjusted or 0.0, verdict.p or 0.0


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _best_on_nearly_all(results: ModelResults) -> Verdict:
    """In how many tasks DLLMQuant++ is the best quantized row.

    At least where it beats every rival, at most where no rival beats it, by paired tests with
    Holm's correction over all of them. `detectable` is that of the comparison that could have
    missed most: a difference on one task, in points.
    """
    name = "best_on_nearly_all"
    sentence = f"DLLMQuant++ is best on nearly all tasks (at least {NEARLY_ALL} of nine)"
    rows = [results.variant(row) for row in (BEST, *RIVALS)]
    missing = missing_cells(rows, PAPER_COLUMNS)
    if missing:
        return Verdict(name, sentence, UNMEASURED, needs=missing)
    gains: dict[tuple[str, str], float] = {}
    p_values: dict[tuple[str, str], float] = {}
    found: list[SeededAverage] = []
    for rival in rows[1:]:
        for label in PAPER_COLUMNS:
            mine, other = rows[0].entry(label).sample, rival.entry(label).sample
            assert mine is not None and other is not None  # nothing is missing
            gains[rival.row, label] = float(mine.scores.mean() - other.scores.mean())
            p_values[rival.row, label] = p_value([mine], [other])
            gain = difference([mine], [other])
            found += [gain] if gain is not None else []
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
        detectable=_largest(gain.detectable() for gain in found),
        detectable_first=_largest(gain.detectable(ALPHA / len(p_values)) for gain in found),
        covers="other items of these tasks and, with several seeds, other seeds",
    )


def _won(gains: Mapping[tuple[str, str], float]) -> int:
    """Tasks with a gain over every rival."""
    return sum(all(gains[rival, label] > 0 for rival in RIVALS) for label in PAPER_COLUMNS)
