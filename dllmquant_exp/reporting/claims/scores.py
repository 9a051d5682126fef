"""The paper's claims about scores: the difference between rows, on what both of them have."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from dllmquant_exp.reporting.claims import (
    AT_CHANCE,
    Claim,
    Found,
    Measured,
    Unmeasured,
    claims_data,
)
from dllmquant_exp.reporting.comparable import ModelResults, Variant
from dllmquant_exp.reporting.samples import MISSING, Sample, difference, shared_seeds
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.store.schema import read

NEARLY_EQUAL = 0.02  # of states: TMAS's quotas, each rounded up, make 520 of 512
FLOOR = 0.02  # above chance, on average: rows that score less decide nothing


@dataclass(frozen=True, kw_only=True)
class Comparison(Claim):
    """The mean of `better` less the mean of `worse`, averaged over tasks, exceeds `above`.

    With `less`, the same average over those tasks is subtracted. With `equal_size`, the rows are
    compared where both have as many calibration states.
    """

    kind = "scores"
    better: tuple[str, ...]  # rows of conf/row
    worse: tuple[str, ...]
    tasks: tuple[str, ...] = PAPER_COLUMNS
    less: tuple[str, ...] = ()
    equal_size: bool = False

    @property
    def family(self) -> str:
        return "size" if self.equal_size else self.kind

    def measure(self, results: ModelResults) -> Found:
        better = [results.variant(row) for row in self.better]
        worse = [results.variant(row) for row in self.worse]
        if self.equal_size:
            pair = _equal_size(results, self.better[0], self.worse[0])
            if pair is None:
                needed = f"row={self.better[0]} and row={self.worse[0]}"
                return Unmeasured(f"{needed} calibrated on as many states (a control)")
            better, worse = [pair[0]], [pair[1]]
        labels, rows = (*self.tasks, *self.less), [*better, *worse]
        needs = missing_cells(rows, labels) or _unlike(rows)
        if needs:
            return Unmeasured(needs)
        scores = [np.mean([s.scores.mean() for s in row.samples(labels)]) for row in rows]
        chance = [results.chance.get(label, math.nan) for label in labels]
        if max(scores) <= np.mean(chance) + FLOOR:
            shown = ", ".join(f"{100 * score:.1f}%" for score in scores)
            return Unmeasured(f"rows above chance: these score {shown}", AT_CHANCE)
        # The average over the tasks, less the average over the others.
        weights = [1 / len(self.tasks)] * len(self.tasks)
        weights += [-1 / len(self.less)] * len(self.less) if self.less else []
        own, other = ([_mean(side, label) for label in labels] for side in (better, worse))
        found = difference(own, other, weights)
        if found is None:
            return Unmeasured("the same items and seeds in all of its rows")
        n = sum(len(sample.items) for sample in better[0].samples(labels))
        names = [_names(side, sizes=self.equal_size) for side in (better, worse)]
        return Measured(found, n, " - ".join(names), seeds=found.seeds)


@cache
def score_claims() -> tuple[Comparison, ...]:
    """Steps, then the other comparisons."""
    entries = (*claims_data()["steps"], *claims_data()["comparisons"])
    return tuple(read(Comparison, entry, f"claims.yaml: {entry['name']}") for entry in entries)


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
        pairs = zip(labels, variant.samples(labels), strict=True)
        absent = [label for label, sample in pairs if not sample.seeds]
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


def _mean(variants: Sequence[Variant], label: str) -> Sample:
    """Item by item over rows, on the seeds that all of them have; empty where items differ."""
    samples = [sample for variant in variants for sample in variant.samples([label])]
    if len(samples) == 1:
        return samples[0]
    seeds, items = shared_seeds(samples), samples[0].items
    if not seeds or any(sample.items != items for sample in samples):
        return MISSING
    scores = np.mean([sample.at(seeds) for sample in samples], axis=0)
    return Sample(scores, tuple(seeds), items, any(sample.calibrated for sample in samples))


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
