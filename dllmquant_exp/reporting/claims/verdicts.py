"""Verdicts on the paper's claims, for each model from result files and recorded figures.

A comparison holds where its effect lies beyond the claim's threshold and p stays below 5% after
Holm's correction over the claims of its family (scores, scores with as many calibration states,
figures, speed), those that were not measured counted. It does not hold where the same is true on
the other side. Else it is undecided, and the detectable effect says what these items and seeds
could have shown. Rows that are all at chance decide nothing, nor do prompts without an event.
Interval and p-value come from one estimate (statistics.average_over_seeds) and cover other items
and, with several of them, other seeds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllmquant_exp.reporting.claims import Measured
from dllmquant_exp.reporting.claims.scores import (
    AtChance,
    claims_data,
    measure_scores,
    missing_cells,
    score_claims,
)
from dllmquant_exp.reporting.comparable import ModelResults
from dllmquant_exp.reporting.figures.claims import FIGURE_CLAIMS, NoEvent, measure
from dllmquant_exp.reporting.figures.recordings import FigureData
from dllmquant_exp.reporting.samples import difference, p_value
from dllmquant_exp.reporting.speed.claims import SPEED_CLAIMS, measure_speed_claim
from dllmquant_exp.reporting.speed.results import SpeedBlock
from dllmquant_exp.reporting.statistics import ALPHA, holm

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
UNMEASURED, AT_CHANCE, NO_EVENT = "not measured", "at chance", "no event"
Found = Measured | AtChance | NoEvent | str  # a text says what is needed
WITHOUT_EFFECT: Mapping[type, str] = {str: UNMEASURED, AtChance: AT_CHANCE, NoEvent: NO_EVENT}
# A verdict is a line of these columns. Points are in percent; p_holm is p after Holm's correction;
# detectable is by this test alone, and detectable_holm as the first of its family.
COLUMNS = (
    "claim", "sentence", "verdict", "comparison", "unit", "effect", "low", "high", "threshold", "p",
    "p_holm", "n", "seeds", "detectable", "detectable_holm", "covers", "needs",
)  # fmt: skip
Verdict = dict[str, Any]
EMPTY: Verdict = {
    **dict.fromkeys(COLUMNS), "comparison": "", "unit": "", "covers": "", "needs": "",
    "n": 0, "seeds": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A claim with its measurement, whatever it is about.

    Attributes:
        family: claims of one family share Holm's correction; empty: counted, without chance in it.
        unit: points, ratio, share or times.
        below: whether the claim is that the effect lies below the threshold.
        seeds: None takes the measurement's.
    """

    name: str
    sentence: str
    found: Found
    threshold: float
    family: str
    unit: str = "points"
    below: bool = False
    seeds: int | None = None

    @property
    def p(self) -> float:
        if not isinstance(self.found, Measured):
            return 1.0
        own = self.found.p
        return self.found.found.p_beyond(self.threshold) if own is None else own


def verdicts(
    results: ModelResults, figures: Sequence[FigureData] = (), speed: SpeedBlock | None = None
) -> list[Verdict]:
    """Every claim about one model, in the paper's order.

    Args:
        figures: recordings of this model.
        speed: its part of Table 4.
    """
    data = claims_data()
    decided = _decided([*_scores(results), *_figures(figures), *_speed(speed)])
    steps = [decided.pop(step["name"]) for step in data["steps"]]
    sums = [_sum(claim, steps) for claim in data["sums"]]
    best = _count_of_tasks(data["best"], results)
    return [*steps, *sums, best, *decided.values()]


def speed_verdicts(speed: SpeedBlock) -> list[Verdict]:
    """The claims about a model of which nothing but Table 4 was measured."""
    return list(_decided(list(_speed(speed))).values())


def _scores(results: ModelResults) -> Iterator[Question]:
    for of in score_claims():
        family = "size" if of.equal_size else "scores"
        yield Question(of.name, of.sentence, measure_scores(of, results), of.above, family)


def _figures(figures: Sequence[FigureData]) -> Iterator[Question]:
    for of in FIGURE_CLAIMS:
        found = measure(of, figures)
        yield Question(of.name, of.sentence, found, of.threshold, "figures", of.unit, of.below)


def _speed(speed: SpeedBlock | None) -> Iterator[Question]:
    for of in SPEED_CLAIMS:
        found, family = measure_speed_claim(of, speed), "" if of.counted else "speed"
        # Its repetitions are rounds, not seeds.
        yield Question(of.name, of.sentence, found, of.threshold, family, "times", seeds=1)


def _decided(questions: Sequence[Question]) -> dict[str, Verdict]:
    families: dict[str, list[Question]] = {}
    for question in questions:
        families.setdefault(question.family, []).append(question)
    found = {}
    for family, members in families.items():
        adjusted = holm([question.p for question in members])
        for question, p in zip(members, adjusted, strict=True):
            found[question.name] = _verdict(question, (p, len(members)) if family else None)
    return {question.name: found[question.name] for question in questions}


def _verdict(question: Question, adjusted: tuple[float, int] | None) -> Verdict:
    """adjusted: p after Holm and the size of its family; None where no chance is in it."""
    measured = question.found
    named = {**EMPTY, "claim": question.name, "sentence": question.sentence}
    if not isinstance(measured, Measured):
        return {**named, "verdict": WITHOUT_EFFECT[type(measured)], "needs": str(measured)}
    found, effect = measured.found, measured.effect
    scale = 100 if question.unit == "points" else 1
    beyond = (found.value > question.threshold) != question.below
    decided = {
        **named,
        "verdict": HOLDS if beyond else FAILS,
        "comparison": measured.what,
        "unit": question.unit,
        "effect": scale * effect.value,
        "low": scale * effect.low,
        "high": scale * effect.high,
        "threshold": scale * measured.shown(question.threshold),
        "n": measured.n,
        "seeds": question.seeds or found.seeds,
        "covers": found.covers,
    }
    if adjusted is None:
        return decided
    p, family = adjusted
    return {
        **decided,
        "verdict": UNDECIDED if p >= ALPHA else decided["verdict"],
        "p": question.p,
        "p_holm": p,
        "detectable": scale * measured.shown(found.detectable()),
        "detectable_holm": scale * measured.shown(found.detectable(ALPHA / family)),
    }


def _sum(claim: Mapping[str, Any], steps: Sequence[Verdict]) -> Verdict:
    """Holds where all parts hold: the worst verdict of a part, with the numbers of one of these.

    Among parts that fail the one with the smallest p counts, among others the one with the largest,
    which is the p of "all hold". Detectable is the largest effect that a part, tested by itself,
    could have missed.
    """
    named = {"claim": claim["name"], "sentence": claim["sentence"]}
    parts = [step for step in steps if step["claim"] in claim["parts"]]
    worst_first = (FAILS, UNMEASURED, AT_CHANCE, UNDECIDED, HOLDS)
    verdict = min((part["verdict"] for part in parts), key=worst_first.index)
    found = [part for part in parts if part["verdict"] == verdict]
    if verdict in (UNMEASURED, AT_CHANCE):
        needs = dict.fromkeys(need for part in found for need in part["needs"].split("; "))
        return {**EMPTY, **named, "verdict": verdict, "needs": "; ".join(needs)}
    decisive = (min if verdict == FAILS else max)(
        found, key=lambda part: (part["p_holm"], part["p"])
    )
    largest = {key: _largest(part[key] for part in parts) for key in COLUMNS[-4:-2]}
    return {**decisive, **named, **largest}


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _count_of_tasks(claim: Mapping[str, Any], results: ModelResults) -> Verdict:
    """Count the tasks in which a row is better than each of its rivals.

    The lower limit counts tasks where it beats every rival, the upper one tasks where no rival
    beats it, by paired tests with Holm's correction over all of them. `detectable` is the largest
    over the comparisons: a difference on one task, in points.
    """
    named = {**EMPTY, "claim": claim["name"], "sentence": claim["sentence"]}
    labels = claim["tasks"]
    row, *rivals = (results.variant(name) for name in (claim["row"], *claim["rivals"]))
    missing = missing_cells([row, *rivals], labels)
    if missing:
        return {**named, "verdict": UNMEASURED, "needs": missing}
    mine = {label: row.entry(label).sample for label in labels}
    pairs = {
        (rival.row, label): ([mine[label]], [rival.entry(label).sample])
        for rival in rivals
        for label in labels
    }
    gains = {  # in the value itself, and 0 where it may be chance
        key: float(own.scores.mean() - other.scores.mean())
        for key, ([own], [other]) in pairs.items()
        if own and other
    }
    adjusted = holm([p_value(*pair) for pair in pairs.values()])
    sure = {key: gains[key] * (p < ALPHA) for key, p in zip(pairs, adjusted, strict=True)}
    lost = {label for (_, label), gain in sure.items() if gain < 0}
    best, low, high = _won(gains, labels), _won(sure, labels), len(labels) - len(lost)
    found = [gain for pair in pairs.values() if (gain := difference(*pair)) is not None]
    least = claim["at_least"]
    return {
        **named,
        "verdict": HOLDS if low >= least else FAILS if high < least else UNDECIDED,
        "comparison": f"{row.row} against {', '.join(claim['rivals'])}",
        "unit": "tasks",
        "effect": best,
        "low": low,
        "high": high,
        "threshold": least,
        "n": sum(row.entry(label).n for label in labels),
        "seeds": min(len(entry.cells) for entry in row.entries.values()),
        "detectable": _largest(100 * gain.detectable() for gain in found),
        "detectable_holm": _largest(100 * gain.detectable(ALPHA / len(pairs)) for gain in found),
        "covers": "other items of these tasks and, with several seeds, other seeds",
    }


def _won(gains: Mapping[tuple[str, str], float], labels: Sequence[str]) -> int:
    """Tasks with a gain over every rival."""
    return sum(all(gain > 0 for (_, of), gain in gains.items() if of == label) for label in labels)
