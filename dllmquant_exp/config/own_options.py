"""Options of a user's own folder: each is told from ours, and from one another, by its name.

Results, their folders and tables go by names, so a name must say which option it was:

- an option with a name is called like its file, and no file like one of ours
- no method is called like a row of ours, and no sampler or weighting like one of ours
- a row is called like its file, and no two rows have the same label
- a task is called otherwise than ours, and no two tasks have the same label
- `defaults` choose one option of a group, not a list that would be merged, and never in a circle
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.names import AVERAGE
from dllmquant_exp.store.schema import read
from dllmquant_exp.store.yaml_files import read_mapping

NAMED = ("model", "method", "quant", "calibration", "decoding", "tmas", "cgq")
# Groups whose names must not be those of other groups' options, as labels hold both.
_ALIKE = {"method": "row", "calibration": "tmas", "tmas": "calibration", "cgq": "calibration"}
_PART = re.compile(r"static$|(tmas|cgq|iaaq)-")  # of labels, as samplers: awq+static, awq+tmas-mine
PLAIN_NAME = r"[A-Za-z0-9_][\w.-]*"
_GLOBAL = re.compile(r"(#.*\n|\s)*#\s*@package _global_\s*\n")


@dataclass(frozen=True)
class Row:
    """A row as results record it: a name for files, a label for tables."""

    name: str
    label: str


def row_named_in(path: Path) -> Row:
    """The row of a file in the group `row` (ConfigError)."""
    section = read_mapping(path).get("row")
    return Row(path.stem, path.stem) if section is None else read(Row, section, f"{path}: row")


def choices_in(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The groups that a file's `defaults` choose from, "" for its own, and their options."""
    for entry in content.get("defaults") or []:
        chosen = entry.items() if isinstance(entry, Mapping) else [str(entry).rpartition("/")[::2]]
        for key, option in chosen:
            yield str(key).split(" ")[-1].strip("/").partition("@")[0], option


@lru_cache(maxsize=8)
def check_options(ours: Path, files: tuple[tuple[Path, Path, int], ...]) -> None:
    """Refuse files that are no options of their own.

    Args:
        ours: our folder of options.
        files: each with the user's folder that it lies in and the time of its last change.

    Raises:
        ConfigError: naming the first such file.
    """
    rows = sorted((ours / "row").glob("*.yaml")) if files else []
    labels = {_as_read(row_named_in(path).label): path for path in rows}
    tasks = _tasks_in(sorted((ours / "task").glob("*.yaml")) if files else [])
    columns = {_as_read(AVERAGE): "the average"} | {_as_read(tasks[name]): name for name in tasks}
    names: dict[Path, Path] = {}
    chosen: dict[Path, list[Path]] = {}
    for path, folder, _ in sorted(files):
        name = path.relative_to(folder)
        if (ours / name).exists() or names.setdefault(name, path) != path:
            there = ours / name if (ours / name).exists() else names[name]
            raise ConfigError(f"{path}: there is a {there} already; give yours another name")
        if not (ours / name.parts[0]).is_dir():
            continue  # another program's, or an lm-eval task
        content = read_mapping(path)
        for problem in _problems(content, name, path, ours):
            raise ConfigError(f"{path}: {problem}")
        if name.parts[0] == "row":
            label = _as_read(row_named_in(path).label)
            if (other := labels.setdefault(label, path)) != path:
                raise ConfigError(f"{path}: {other} has the same label; give yours another one")
        if name.parts[0] == "task":
            _check_columns(path, set(tasks), columns)
        chosen[name] = [
            Path(group) / f"{option}.yaml" if group else name.with_stem(str(option))
            for group, option in choices_in(content)
        ]
    for name in chosen:
        if _in_circle(name, chosen):
            raise ConfigError(f"{names[name]}: its defaults choose it again; leave that out")


def _as_read(label: str) -> str:
    """A label, but for letters and spaces that a reader overlooks."""
    return " ".join(label.split()).casefold()


def _check_columns(path: Path, ours: Collection[str], columns: dict[str, str]) -> None:
    """Refuse a task in the column of another one (ConfigError).

    Args:
        ours: the names of our tasks.
        columns: the tasks that have a label already; the file's are added.
    """
    for task, label in _tasks_in([path]).items():
        if not label.strip() or not label.isprintable():
            raise ConfigError(f"{path}: the label {label!r} of {task} is no line of text")
        there = columns.setdefault(_as_read(label), task)
        if task in ours or there != task:
            there = task if task in ours else there
            raise ConfigError(
                f"{path}: {task}, labelled {label!r}, would stand in the column of {there}; give "
                "yours another name and label"
            )


def _in_circle(name: Path, chosen: Mapping[Path, Sequence[Path]]) -> bool:
    """Whether following `defaults` from an option leads to it again."""
    seen, waiting = set[Path](), [*chosen[name]]
    while waiting and name not in seen:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += chosen.get(other, ())
    return name in seen


def _problems(content: Mapping[str, Any], name: Path, path: Path, ours: Path) -> Iterator[str]:
    """Reasons why an option cannot be told from others, with what would work."""
    group = name.parts[0]
    if not re.fullmatch(PLAIN_NAME, path.stem):
        yield "give the file a plain name (letters, digits, . _ -)"
    taken = path.stem in (*_ALIKE, "iaaq") or (group == "calibration" and _PART.match(path.stem))
    if taken or (ours / _ALIKE.get(group, group) / path.name).exists():
        yield f"labels call something of ours {path.stem} already; give yours another name"
    if not (ours / name).parent.is_dir():
        yield f"there is no group {name.parent.as_posix()}; put the file into {group}"
    if not isinstance(content.get("defaults"), list | None):
        yield "defaults is no list"
    for chosen_from, chosen in choices_in(content):
        if not isinstance(chosen, str | None):
            yield (
                f"defaults choose {chosen_from}: {chosen!r}; choose one option, in quotes, as "
                "several would be merged into one that is none of them"
            )
    if group in NAMED and len(name.parts) == 2 and content.get("name", "") != path.stem:
        stated = content.get("name")
        if content:  # an empty file switches a component off
            yield f"it is named {stated!r} in results; write `name: {path.stem}` in it"
    if group == "row":
        if not _GLOBAL.match(path.read_text(encoding="utf-8")):
            yield "its settings would be ignored; write `# @package _global_` on top of it"
        if (stated := row_named_in(path).name) != path.stem:
            yield f"its row is named {stated!r}; write `name: {path.stem}`"
        if not (label := row_named_in(path).label).strip() or not label.isprintable():
            yield f"its label {label!r} is no line of text"


def _tasks_in(files: Sequence[Path]) -> dict[str, str]:
    """The labels of tasks by their names."""
    stated = [read_mapping(path).get("tasks") for path in files]
    specs = [item for tasks in stated if isinstance(tasks, Mapping) for item in tasks.items()]
    return {str(k): str(s.get("label")) for k, s in specs if isinstance(s, Mapping)}
