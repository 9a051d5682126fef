"""Verdicts on the paper's claims, for each model from result files and recorded figures.

A comparison holds where its effect lies beyond the claim's threshold and p stays below 5% after
Holm's correction over the claims of its family (scores, scores with as many calibration states,
figures, speed), those that were not measured counted. It does not hold where the same is true on
the other side. Else it is undecided, and the detectable effect says what these items and seeds
could have shown. Rows that are all at chance decide nothing, nor do prompts without an event.
Interval and p-value come from one estimate (statistics.average_over_seeds) and cover other items
and, with several of them, other seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dllmquant_exp.reporting.claims import (
    AT_CHANCE,
    FAILS,
    HOLDS,
    UNDECIDED,
    UNMEASURED,
    Claim,
    Evidence,
    Found,
    Unmeasured,
    claims_data,
)
from dllmquant_exp.reporting.claims.figures import figure_claims
from dllmquant_exp.reporting.claims.scores import missing_cells, score_claims
from dllmquant_exp.reporting.claims.speed import speed_claims
from dllmquant_exp.reporting.comparable import ModelResults
from dllmquant_exp.reporting.render import Document, Grid, Section, grid, signed
from dllmquant_exp.reporting.samples import difference, p_value
from dllmquant_exp.reporting.statistics import ALPHA, holm

TITLE = "The paper's claims"
CAPTION = (
    "Effects in points (or in the unit that is named) with 95% intervals, from the same items in "
    "both rows; figures' effects are over prompts (and seeds), speed's over rounds. A claim holds, "
    "or does not, where p stays below 0.05 after Holm's correction over the claims of one model "
    "and kind: scores, scores with as many calibration states, figures, speed (and, in the count "
    "of tasks, over its comparisons). Detectable: how far from the claim's threshold an effect "
    "must lie to be found in 80 of 100 repetitions with so many items and seeds, by its 95% "
    "interval alone; in brackets, as the first of its kind that Holm tests. For the count of tasks "
    "it is a difference on one task, in points; for speed a factor on the threshold; for a sum the "
    "largest of its parts', each tested by itself."
)
# A verdict is a line of these columns. Points are in percent; p_holm is p after Holm's correction;
# detectable is by this test alone, and detectable_holm as the first of its family.
COLUMNS = [
    "claim", "sentence", "verdict", "comparison", "unit", "effect", "low", "high", "threshold", "p",
    "p_holm", "n", "seeds", "detectable", "detectable_holm", "covers", "needs",
]  # fmt: skip
LIMITS, DETECTABLE = ("effect", "low", "high"), ("detectable", "detectable_holm")
NUMBERS = (*LIMITS, "threshold", "p", "p_holm", *DETECTABLE)
Verdict = dict[str, Any]
EMPTY: Verdict = {
    **dict.fromkeys(COLUMNS), "comparison": "", "unit": "", "covers": "", "needs": "",
    "n": 0, "seeds": 0,
}  # fmt: skip


def claims_document(sections: Iterable[Section]) -> Document:
    columns = ["model", *COLUMNS]
    return Document("claims", TITLE, CAPTION, tuple(sections), long=True, columns=columns)


def claims_section(title: str, evidence: Evidence, notes: Sequence[str]) -> Section:
    """The verdicts on one model's claims, with a fault that names what is not measured."""
    found = verdicts(evidence)
    lines = pd.DataFrame(found, columns=COLUMNS).astype(dict.fromkeys(NUMBERS, float))
    lines.insert(0, "model", title)
    needs = [line["needs"] for line in found if line["verdict"] == UNMEASURED]
    single = dict.fromkeys(part for text in needs for part in text.split("; "))
    which = "; ".join(single)
    faults = [f"not measured: {title}: {len(needs)} claims, which need {which}"] if needs else []
    return Section(title, _grids(found), tuple(notes), lines, tuple(faults))


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Every claim about one model, in the paper's order; without scores those about speed alone.

    Args:
        evidence: its ModelResults as `scores`, recordings as `figures`, and speed tasks as `speed`.
    """
    results: ModelResults | None = evidence.get("scores")
    if results is None:
        return list(_decided(speed_claims(), evidence).values())
    data = claims_data()
    decided = _decided([*score_claims(), *figure_claims(), *speed_claims()], evidence)
    steps = [decided.pop(step["name"]) for step in data["steps"]]
    sums = [_sum(claim, steps) for claim in data["sums"]]
    return [*steps, *sums, _count_of_tasks(data["best"], results), *decided.values()]


def _decided(claims: Sequence[Claim], evidence: Evidence) -> dict[str, Verdict]:
    """Verdicts by the claim's name, in the order of the claims."""
    measured = [(claim, claim.measure(evidence.get(claim.kind, ()))) for claim in claims]
    found: dict[str, Verdict] = {}
    for family in {claim.family for claim in claims}:
        members = [(claim, effect) for claim, effect in measured if claim.family == family]
        p_values = [_p_value(*member) for member in members]
        for (claim, effect), p, adjusted in zip(members, p_values, holm(p_values), strict=True):
            tested = {"p": p, "p_holm": adjusted} if family else {}
            found[claim.name] = _verdict(claim, effect, tested, len(members))
    return {claim.name: found[claim.name] for claim in claims}


def _p_value(claim: Claim, effect: Found) -> float:
    if isinstance(effect, Unmeasured):
        return 1.0
    return effect.found.p_beyond(claim.threshold) if effect.p is None else effect.p


def _verdict(claim: Claim, effect: Found, tested: Mapping[str, float], family: int) -> Verdict:
    """tested: p and p after Holm; empty where no chance is in the claim."""
    named = {**EMPTY, "claim": claim.name, "sentence": claim.sentence}
    if isinstance(effect, Unmeasured):
        return {**named, "verdict": effect.verdict, "needs": effect.needs}
    scale = 100 if claim.unit == "points" else 1
    beyond = (effect.found.value > claim.threshold) != (claim.below is not None)
    undecided = tested and tested["p_holm"] >= ALPHA
    levels = dict(zip(DETECTABLE, (ALPHA, ALPHA / family), strict=True)) if tested else {}
    return {
        **named,
        "verdict": UNDECIDED if undecided else HOLDS if beyond else FAILS,
        "comparison": effect.what,
        "unit": claim.unit,
        **dict(zip(LIMITS, (scale * value for value in effect.limits), strict=True)),
        "threshold": scale * effect.shown(claim.threshold),
        "n": effect.n,
        "seeds": effect.seeds,
        "covers": effect.found.covers,
        **tested,
        **{k: scale * effect.shown(effect.found.detectable(a)) for k, a in levels.items()},
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
    return {
        **decisive,
        **named,
        **{key: _largest(part[key] for part in parts) for key in DETECTABLE},
    }


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _count_of_tasks(claim: Mapping[str, Any], results: ModelResults) -> Verdict:
    """Count the tasks in which a row is better than each of its rivals.

    The lower limit counts tasks where it beats every rival, the upper one tasks where no rival
    beats it, by paired tests with Holm's correction over all of them. `detectable` is the largest
    over the comparisons: a difference on one task, in points.
    """
    named = {**EMPTY, "claim": claim["name"], "sentence": claim["sentence"]}
    labels, least = claim["tasks"], claim["at_least"]
    row, *rivals = (results.variant(name) for name in (claim["row"], *claim["rivals"]))
    missing = missing_cells([row, *rivals], labels)
    if missing:
        return {**named, "verdict": UNMEASURED, "needs": missing}
    pairs = [
        (label, row.samples([label]), rival.samples([label]))
        for rival in rivals
        for label in labels
    ]
    compared = pd.DataFrame({
        "label": [label for label, _, _ in pairs],
        "gain": [float(a.scores.mean() - b.scores.mean()) for _, [a], [b] in pairs],
        "p": holm([p_value(own, other) for _, own, other in pairs]),
    })  # fmt: skip
    # In the value itself, and in the lower limit 0 where it may be chance.
    sure = compared["gain"].where(compared["p"] < ALPHA, 0.0)
    won, surely = ((gain > 0).groupby(compared["label"]).all() for gain in (compared["gain"], sure))
    lost = (sure < 0).groupby(compared["label"]).any()
    best, low, high = int(won.sum()), int(surely.sum()), int((~lost).sum())
    found = [gain for _, own, other in pairs if (gain := difference(own, other)) is not None]
    samples = row.samples(labels)
    return {
        **named,
        "verdict": HOLDS if low >= least else FAILS if high < least else UNDECIDED,
        "comparison": f"{row.row} against {', '.join(claim['rivals'])}",
        "unit": "tasks",
        **dict(zip(LIMITS, (best, low, high), strict=True)),
        "threshold": least,
        "n": sum(len(sample.items) for sample in samples),
        "seeds": min(len(sample.seeds) for sample in samples),
        "detectable": _largest(100 * gain.detectable() for gain in found),
        "detectable_holm": _largest(100 * gain.detectable(ALPHA / len(pairs)) for gain in found),
        "covers": "other items of these tasks and, with several seeds, other seeds",
    }


def _grids(found: Sequence[Verdict]) -> dict[str, Grid]:
    """Claims with their numbers, then those that were not measured with what they need."""
    columns = ("verdict", "effect", "p (Holm)", "n", "seeds", "detectable")
    measured = [(line["sentence"], _texts(line)) for line in found if not line["needs"]]
    others = [(of["sentence"], (of["verdict"], of["needs"])) for of in found if of["needs"]]
    title = "not measured, at chance or without an event"
    return {
        **(
            {"decided": grid("claims that these results decide", columns, measured)}
            if measured
            else {}
        ),
        **({"others": grid(title, ("verdict", "needs"), others)} if others else {}),
    }


def _texts(line: Verdict) -> tuple[str, ...]:
    unit, p = line["unit"], line["p_holm"]
    digits = 1 if unit in ("points", "tasks") else 2
    numbers = [line[key] for key in LIMITS]
    if unit == "points":
        value, low, high = map(signed, numbers)
    else:
        value, low, high = (f"{x:.{0 if unit == 'tasks' else digits}f}" for x in numbers)
    named = {"points": value, "tasks": f"{value} tasks", "times": f"{value} times"}
    detectable = "-"
    if line["detectable"] is not None:
        sign = "x" if unit == "times" else ""
        alone, first = (f"{sign}{line[key]:.{digits}f}" for key in DETECTABLE)
        detectable = f"{alone} ({first})"
    return (
        line["verdict"],
        f"{named.get(unit, f'{unit} {value}')} ({low} to {high})",
        "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
        str(line["n"]),
        str(line["seeds"]),
        detectable,
    )
