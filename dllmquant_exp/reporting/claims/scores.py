"""The paper's claims about scores: the difference between rows, on what both of them have."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any

import numpy as np
import yaml

from dllmquant_exp.reporting.claims import Measured
from dllmquant_exp.reporting.comparable import ModelResults, Variant
from dllmquant_exp.reporting.samples import Sample, difference, shared_seeds
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.store.schema import read

NEARLY_EQUAL = 0.02  # of states: TMAS's quotas, each rounded up, make 520 of 512
FLOOR = 0.02  # above chance, on average: rows that score less decide nothing


@cache
def claims_data() -> dict[str, Any]:
    """The content of claims.yaml."""
    text = files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


@dataclass(frozen=True)
class Claim:
    """The mean of `better` less the mean of `worse`, averaged over tasks, exceeds `above`.

    With `less`, the same average over those tasks is subtracted. With `equal_size`, the rows are
    compared where both have as many calibration states.
    """

    name: str
    sentence: str
    better: tuple[str, ...]  # rows of conf/row
    worse: tuple[str, ...]
    tasks: tuple[str, ...] = PAPER_COLUMNS
    less: tuple[str, ...] = ()
    above: float = 0.0
    equal_size: bool = False


@cache
def score_claims() -> tuple[Claim, ...]:
    """Steps, then the other comparisons."""
    entries = (*claims_data()["steps"], *claims_data()["comparisons"])
    return tuple(read(Claim, entry, f"claims.yaml: {entry['name']}") for entry in entries)


@dataclass(frozen=True)
class AtChance:
    """Rows of a claim that all score at chance: their difference decides nothing."""

    scores: tuple[float, ...]  # averages of the rows, fractions

    def __str__(self) -> str:
        return f"rows above chance: these score {', '.join(f'{100 * s:.1f}%' for s in self.scores)}"


def measure_scores(claim: Claim, results: ModelResults) -> Measured | AtChance | str:
    """The claim's effect, or what it needs."""
    better = [results.variant(row) for row in claim.better]
    worse = [results.variant(row) for row in claim.worse]
    if claim.equal_size:
        pair = _equal_size(results, claim.better[0], claim.worse[0])
        if pair is None:
            needed = f"row={claim.better[0]} and row={claim.worse[0]}"
            return f"{needed} calibrated on as many states (a control)"
        better, worse = [pair[0]], [pair[1]]
    labels, rows = (*claim.tasks, *claim.less), [*better, *worse]
    unfit = missing_cells(rows, labels) or _unlike(rows) or _at_chance(rows, labels, results)
    if unfit:
        return unfit
    # The average over the tasks, less the average over the others.
    weights = [1 / len(claim.tasks)] * len(claim.tasks)
    weights += [-1 / len(claim.less)] * len(claim.less) if claim.less else []
    own, other = (
        [_mean([variant.entry(label).sample for variant in side]) for label in labels]
        for side in (better, worse)
    )
    found = difference(own, other, weights)
    if found is None:
        return "the same items and seeds in all of its rows"
    n = sum(better[0].entry(label).n for label in labels)
    names = [_names(variants, sizes=claim.equal_size) for variants in (better, worse)]
    return Measured(found, n, " - ".join(names))


def _names(variants: Sequence[Variant], *, sizes: bool) -> str:
    texts = [
        v.row
        + (f" ({v.difference})" if v.difference else "")
        + (f" on {v.collected}" if sizes else "")
        for v in variants
    ]
    return texts[0] if len(texts) == 1 else f"mean({', '.join(texts)})"


def missing_cells(variants: Iterable[Variant], labels: Sequence[str]) -> str:
    """Cells that are not there, as `row=awq_tmas (Hum., GSM8K)`."""
    lacking = []
    for variant in variants:
        absent = [label for label in labels if variant.entry(label).sample is None]
        if absent:
            nine = len(absent) == len(PAPER_COLUMNS)
            where = "nine tasks" if nine else ", ".join(absent)
            lacking.append(f"row={variant.row} ({where})")
    return "; ".join(lacking)


def _unlike(variants: Sequence[Variant]) -> str:
    """Settings in which rows differ that should not: a row changes only what its name says."""
    unlike = {
        key
        for a, b in pairwise(variants)
        for key in a.settings.keys() & b.settings.keys()
        if a.settings[key] != b.settings[key] and not _of_a_row(key, a, b)
    }
    return f"rows with equal settings of {', '.join(sorted(unlike))}" if unlike else ""


def _of_a_row(key: str, a: Variant, b: Variant) -> bool:
    """Whether rows may differ in a setting: in calibration, in the parts of CGQ, in the settings of
    another method, or in how quantized layers are executed where one of them has none."""
    if key == "execution":
        return "weight_bits" not in a.settings.keys() & b.settings.keys()
    other_method = a.settings["method.name"] != b.settings["method.name"]
    own = key.startswith("calibration.") or key in ("cgq.score", "cgq.mask")
    return own or (other_method and key.startswith("method."))


def _at_chance(
    variants: Sequence[Variant], labels: Sequence[str], results: ModelResults
) -> AtChance | None:
    chance = [results.chance.get(label) for label in labels]
    known = [value for value in chance if value is not None]
    samples = [[v.entry(label).sample for label in labels] for v in variants]
    scores = [float(np.mean([s.scores.mean() for s in own if s is not None])) for own in samples]
    above = len(known) < len(chance) or max(scores) > float(np.mean(known)) + FLOOR
    return None if above else AtChance(tuple(scores))


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


def _equal_size(results: ModelResults, first: str, second: str) -> tuple[Variant, Variant] | None:
    """Two rows as they were run with as many calibration states (up to a few), the most of them.

    Segments count as states. Tokens may differ: the claim's comparison says how many there were.
    """
    pairs = [
        (min(_states(a), _states(b)), a, b)
        for a in results.rows.get(first, ())
        for b in results.rows.get(second, ())
        if _uncalibrated(a) == _uncalibrated(b)
        and math.isclose(_states(a), _states(b), rel_tol=NEARLY_EQUAL)
    ]
    return max(pairs, key=lambda pair: pair[0])[1:] if pairs else None


def _states(variant: Variant) -> float:
    """NaN without a calibration set: no number is close to it."""
    return math.nan if variant.calibrated_on is None else variant.calibrated_on[0]


def _uncalibrated(variant: Variant) -> dict[str, object]:
    return {k: v for k, v in variant.settings.items() if not k.startswith("calibration.")}
