"""What a reader must know about the results behind numbers: gaps, seeds and sources, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dllmquant_exp.reporting.cells import CellResult
from dllmquant_exp.reporting.entries import Entry, Sample, shared_seeds
from dllmquant_exp.reporting.figures.recordings import FigureData


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


def seed_note(name: str, entries: Iterable[Entry]) -> list[str]:
    """One note where a row's average over tasks leaves out seeds that some of the tasks have."""
    samples = [entry.sample for entry in entries]
    used = average_seeds(samples)
    seeds = {seed for sample in samples if sample is not None for seed in sample.seeds}
    left = sorted(seeds - set(used))
    if not used or not left:
        return []
    return [
        f"{_in_line(name)}: its average is of seed {_listed(used)}; seed {_listed(left)} is not "
        "there on every task."
    ]


def seeds_note(rows: Mapping[str, Sequence[Entry]]) -> list[str]:
    """Which seeds the rows of a table are of, by name; rows of the same ones together."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for name, entries in rows.items():
        seeds = sorted({seed for entry in entries if entry.sample for seed in entry.sample.seeds})
        if seeds:
            by_seeds.setdefault(tuple(seeds), []).append(_in_line(name))
    one = len(by_seeds) == 1
    named = (
        f"seed{'s' * (len(seeds) > 1)} {_listed(seeds)}" + ("" if one else f" ({', '.join(names)})")
        for seeds, names in by_seeds.items()
    )
    return [f"{'; '.join(named)}."] if by_seeds else []


def absent_seeds(name: str, entries: Mapping[str, Entry]) -> list[str]:
    """What a row lacks on some tasks, by label, and has on others: a line per set of seeds."""
    every = {seed for entry in entries.values() if entry.sample for seed in entry.sample.seeds}
    lacking: dict[tuple[int, ...], list[str]] = {}
    for label, entry in entries.items():
        failed = {cell.seed for cell in entry.failed}
        absent = every - failed - set(entry.sample.seeds) if entry.sample else set()
        if absent:
            lacking.setdefault(tuple(sorted(absent)), []).append(label)
    return [
        f"{_in_line(name)}: {', '.join(labels)}: seed {_listed(seeds)}"
        for seeds, labels in lacking.items()
    ]


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def _in_line(name: str) -> str:
    return name.replace("\n", " ")
