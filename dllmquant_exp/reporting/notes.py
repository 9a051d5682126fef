"""Notes below a table: gaps, seeds and sources of the results behind its numbers, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from dllmquant_exp.reporting.frame import PUBLISHED, Cell
from dllmquant_exp.reporting.samples import Entry, shared_seeds


def setting_notes(cell: Cell) -> list[str]:
    """Facts to know before these numbers are compared with any that are printed elsewhere."""
    model, notes = cell.config["model"], []
    if cell.embedded:
        notes.append(f"{cell.model} is an embedded stand-in, not one of the paper's models.")
    if model.get("outliers") is not None:
        notes.append(
            f"Outlier channels were put into {cell.model} (strength "
            f"{model['outliers']['strength']:g}) without changing its function."
        )
    if not model["checkpoint"].startswith("embedded:"):
        notes.append(f"checkpoint: {model['checkpoint']}")
    if cell.kind == "official":
        whose = "the authors' own" if cell.evaluation == PUBLISHED else "see conf/README.md"
        notes.append(f"settings: evaluation={cell.evaluation} ({whose}).")
    if cell.decoding != "published":
        notes.append(f"decoding={cell.decoding}: not the published settings.")
    if cell.config.get("limit") is not None:
        notes.append(f"limit={cell.config['limit']}: a part of each task's items.")
    return notes


class Sourced(Protocol):
    """A result or a recorded figure."""

    @property
    def commit(self) -> str: ...


def source_notes(made: Iterable[Sourced], what: str = "results") -> list[str]:
    """One note where results come from several commits, or from uncommitted changes."""
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


def left_out_seeds(name: str, entries: Iterable[Entry]) -> list[str]:
    """One note where a row's average over tasks leaves out seeds that some of the tasks have."""
    samples = [entry.sample for entry in entries]
    used = shared_seeds(samples)
    left = sorted({seed for sample in samples if sample for seed in sample.seeds} - set(used))
    if not used or not left:
        return []
    return [
        f"{in_line(name)}: its average is of seed {listed(used)}; seed {listed(left)} is not "
        "there on every task."
    ]


def seed_notes(rows: Mapping[str, Sequence[Entry]]) -> list[str]:
    """The seeds of a table's rows; rows of the same ones together."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for name, entries in rows.items():
        seeds = sorted({seed for entry in entries if entry.sample for seed in entry.sample.seeds})
        if seeds:
            by_seeds.setdefault(tuple(seeds), []).append(in_line(name))
    named = (
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"
        + (f" ({', '.join(names)})" if len(by_seeds) > 1 else "")
        for seeds, names in by_seeds.items()
    )
    return [f"{'; '.join(named)}."] if by_seeds else []


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def in_line(name: str) -> str:
    return name.replace("\n", " ")
