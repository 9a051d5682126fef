"""What a reader must know about the results behind numbers: gaps, seeds and sources, in words."""

from collections import Counter
from collections.abc import Iterable

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.entries import Sample, shared_seeds
from dllmquant_exp.reporting.figure_data import FigureData
from dllmquant_exp.reporting.tables import Row


def source_notes(made: Iterable[CellResult | FigureData], what: str = "results") -> list[str]:
    """One note where results are of several commits, or were made with uncommitted changes."""
    counts = Counter(one.commit for one in made)
    changed = any(commit.endswith("+") for commit in counts)
    if len(counts) < 2 and not changed:
        return []
    named = (f"{_commit(commit)} ({n} {what})" for commit, n in counts.most_common())
    how = "made by more than one commit" if len(counts) > 1 else "made with uncommitted changes"
    return [f"{how}: {', '.join(named)}."]


def _commit(commit: str) -> str:
    name = commit.removesuffix("+")[:7] or "unknown"
    return f"{name} with uncommitted changes" if commit.endswith("+") else name


def average_seeds(samples: Iterable[Sample | None]) -> list[int]:
    """The seeds behind an average over tasks; none where a task lacks a value."""
    found = list(samples)
    present = [sample for sample in found if sample is not None]
    return shared_seeds(present) if present and len(present) == len(found) else []


def seed_note(row: Row) -> list[str]:
    """One note where an average over tasks leaves out seeds that some of the tasks have."""
    samples = [entry.sample for entry in row.entries]
    used = average_seeds(samples)
    seeds = {seed for sample in samples if sample is not None for seed in sample.seeds}
    left = sorted(seeds - set(used))
    if not used or not left:
        return []
    of, out = (", ".join(map(str, some)) for some in (used, left))
    name = row.name.replace("\n", " ")
    return [f"{name}: its average is of seed {of}; seed {out} is not there on every task."]
