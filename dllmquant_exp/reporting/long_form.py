"""What one line of a long form says of the runs behind its number, whatever table it is of."""

import hashlib
from collections.abc import Sequence
from typing import Any

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.entries import Entry
from dllmquant_exp.reporting.remarks import average_seeds

SCORE, CHANGE = ("score", "low", "high"), ("change", "change_low", "change_high")


def numbers(names: Sequence[str], found: SeededAverage | None) -> dict[str, float | None]:
    """A value and its limits by their names, in percent or points; None where there is none."""
    if found is None:
        return dict.fromkeys(names)
    estimate = found.estimate
    values = (estimate.value, estimate.low, estimate.high)
    return {name: 100 * value for name, value in zip(names, values, strict=True)}


def behind(entries: Sequence[Entry], score: SeededAverage | None) -> dict[str, Any]:
    """`n` items, and `seeds`, `config_hash` and `commit` of the runs that were averaged, joined by
    spaces.

    An average over tasks has the seeds that every task has, and as its hash sha256 of its runs'
    sorted hashes, joined by spaces. Where there is no score, nothing stands behind it.
    """
    if score is None:
        return {"n": 0, "seeds": "", "config_hash": "", "commit": ""}
    seeds = average_seeds(entry.sample for entry in entries)
    runs = [run for entry in entries for run in entry.cells if run.seed in seeds]
    hashes = [run.config_hash for run in runs]
    one_task = len(entries) == 1
    return {
        "n": sum(entry.n for entry in entries),
        "seeds": " ".join(map(str, seeds)),
        "config_hash": " ".join(hashes) if one_task else _hash(hashes),
        "commit": " ".join(dict.fromkeys(run.commit for run in runs)),
    }


def _hash(hashes: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(sorted(hashes)).encode()).hexdigest()
