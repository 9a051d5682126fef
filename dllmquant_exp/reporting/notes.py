"""Notes below a table: settings, seeds and sources of the results behind its numbers, in words."""

from collections import Counter
from collections.abc import Iterable, Mapping

from dllmquant_exp.reporting.frame import PUBLISHED, Cell
from dllmquant_exp.reporting.render import in_line

FEW = 0.01  # a share below is not worth a word, except of prompts that were cut
CUT = "of prompts cut"
OUTPUTS = {"cut_prompts": CUT}  # the other shares are called as in results


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
        stated = f", which the user states is {cell.same_as}" if cell.same_as else ""
        notes.append(f"checkpoint: {model['checkpoint']}{stated}")
    if cell.kind == "official":
        whose = "the authors' own" if cell.evaluation == PUBLISHED else "see conf/README.md"
        notes.append(f"settings: evaluation={cell.evaluation} ({whose}).")
    if cell.decoding != "published":
        notes.append(f"decoding={cell.decoding}: not the published settings.")
    if cell.config.get("limit") is not None:
        notes.append(f"limit={cell.config['limit']}: a part of each task's items.")
    return notes


def output_notes(row: str, tasks: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One note on a row's outputs by task, where any went wrong.

    Args:
        tasks: shares by name, see evaluation's diagnostics.
    """
    parts = []
    for task, shares in tasks.items():
        told = {OUTPUTS.get(name, name): of for name, of in shares.items()}
        told = {words: of for words, of in told.items() if of >= FEW or (of and words == CUT)}
        named = (f"{'<1%' if of < FEW else f'{of:.0%}'} {words}" for words, of in told.items())
        parts += [f"{task} {', '.join(named)}"] if told else []
    return [f"{in_line(row)}, outputs: {'; '.join(parts)}."] if parts else []


def source_notes(commits: Iterable[str], what: str = "results") -> list[str]:
    """One note where results come from several commits, or from uncommitted changes."""
    counts = Counter(commits)
    changed = any(commit.endswith("+") for commit in counts)
    if len(counts) < 2 and not changed:
        return []
    named = (f"{_commit(commit)} ({n} {what})" for commit, n in counts.most_common())
    how = "made by more than one commit" if len(counts) > 1 else "made with uncommitted changes"
    return [f"{how}: {', '.join(named)}."]


def _commit(commit: str) -> str:
    name = commit.removesuffix("+")[:7] or "unknown"
    return f"{name} with uncommitted changes" if commit.endswith("+") else name


def seed_notes(seeds: Mapping[str, Iterable[int]]) -> list[str]:
    """The seeds of a table's rows; rows of the same ones together."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for name, own in seeds.items():
        if own:
            by_seeds.setdefault(tuple(sorted(own)), []).append(in_line(name))
    named = (
        f"seed{'s' * (len(of) > 1)} {listed(of)}"
        + (f" ({', '.join(names)})" if len(by_seeds) > 1 else "")
        for of, names in by_seeds.items()
    )
    return [f"{'; '.join(named)}."] if by_seeds else []


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
