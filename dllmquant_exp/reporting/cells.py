"""The cells of a sweep as the tables need them, read from result files with checks.

A file that lacks what every result has, or lies in another cell's folder, is named and left out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any

from dllmquant_exp.reporting.rows import Bits, bits_of, row_of
from dllmquant_exp.store.results import (
    FIGURES_FOLDER,
    RESULT_FILE,
    ResultError,
    canonical_json,
    load_json,
)

SPEED = "speed"  # the kind of a task without items, of Table 4
# What makes a row; saved: which saved model it was, where it was one.
RECIPE = ("method", "quant", "calibration", "cgq", "iaaq", "execution", "saved")


@dataclass(frozen=True)
class CellResult:
    """What the tables need of one cell. Scores are fractions in [0, 1]."""

    folder: Path
    status: str  # finished | failed
    model: str
    method: str
    quant: str  # empty for full precision
    task: str
    label: str  # the column's name in the paper
    kind: str  # official | micro
    seed: int
    embedded: bool
    decoding: str  # the option, and what it replaces of the published settings
    config: Mapping[str, Any]
    config_hash: str
    finished_at: str
    error: str
    score: float | None
    chance: float | None
    items: Mapping[tuple[str, str], float]  # (subtask, doc id) -> score
    speed: Mapping[str, Any] = field(default_factory=dict)  # of a speed task; see speed_results.py
    hardware: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""  # of the source that made it; "+" after it: with changes; empty: not known
    checkpoint_digest: str = ""  # of the weights; empty: not known, as of failed cells
    calibrated_on: tuple[int, int] | None = None  # states and tokens that were collected
    row: str | None = None  # of conf/row; None: of none of them
    bits: Bits | None = None  # see rows.bits_of; None where nothing is quantized

    @cached_property
    def recipe(self) -> dict[str, object]:
        """Every setting that makes a row, as `calibration.samples`; quant's without a prefix."""
        found: dict[str, object] = {}
        for section in RECIPE:
            if section in self.config:
                found |= flat("" if section == "quant" else section, self.config[section])
        return found

    @cached_property
    def made_of(self) -> str:
        """One text per recipe; a setting that is None is as one that older results do not have."""
        known = {key: value for key, value in self.recipe.items() if value is not None}
        return canonical_json(known)


def flat(name: str, value: object) -> dict[str, object]:
    """Values of nested mappings by their path, as `name.inner.key`."""
    found: dict[str, object] = {}
    _flatten(name, value, found)
    return found


def _flatten(name: str, value: object, found: dict[str, object]) -> None:
    if isinstance(value, dict):  # as read from a file; a Mapping is found slowly
        for key, part in value.items():
            _flatten(f"{name}.{key}" if name else key, part, found)
    else:
        found[name] = value


def read_result(path: Path) -> CellResult:
    """Read one result file for the tables.

    Raises:
        ResultError: unreadable, of another schema, another cell's, or without a field that every
            result has.
    """
    value = load_json(path)
    try:
        return _cell_result(path.parent, value)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ResultError(f"{path}: field {error} is missing or of a wrong kind") from error
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error


def _cell_result(folder: Path, value: Mapping[str, Any]) -> CellResult:
    cell, config = _field(value, "cell", Mapping), _field(value, "config", Mapping)
    _field(_field(config, "model", Mapping), "checkpoint", str)
    _field(config, "method", Mapping)
    if value["status"] not in ("finished", "failed"):
        raise ValueError(f"status is {value['status']!r}, neither finished nor failed")
    finished = value["status"] == "finished"
    if cell.get("name") not in (None, folder.name):
        raise ValueError(f"is the result of {cell['name']}, in another folder")
    items = {
        (item["subtask"], str(item["doc_id"])): float(item["score"])
        for item in value.get("items", ())
    }
    wrong = [score for score in items.values() if not 0 <= score <= 1]
    if wrong:
        raise ValueError(f"an item's score is {wrong[0]!r}, not a fraction in [0, 1]")
    speed = _speed(value) if finished and cell["kind"] == SPEED else {}
    if finished and not items and not speed:
        raise ValueError("is finished and has no items")
    collected = (value.get("calibration") or {}).get("report")
    outliers = config["model"].get("outliers")
    if outliers is not None:
        _field(outliers, "strength", int | float)
    return CellResult(
        folder=folder,
        status=value["status"],
        model=_field(cell, "model", str),
        method=_field(cell, "method", str),
        quant=_field(cell, "quant", str | None) or "",
        task=_field(cell, "task", str),
        label=_field(cell, "label", str),
        kind=_field(cell, "kind", str),
        seed=_field(cell, "seed", int),
        embedded=_field(cell, "embedded", bool),
        decoding=_decoding(cell),
        config=config,
        config_hash=_field(value, "config_hash", str),
        finished_at=_field(value["timing"], "finished_at", str),
        error=(value["error"] or {}).get("message", ""),
        score=float(value["score"]) if items else None,
        chance=_field(value, "chance", float | int | None) if "chance" in value else None,
        items=items,
        speed=speed,
        hardware=value.get("hardware", {}),
        checkpoint_digest=str(value.get("checkpoint_digest") or ""),
        commit=commit_of(value.get("source", {})),
        calibrated_on=(
            (_field(collected, "states", int), _field(collected, "tokens", int))
            if collected
            else None
        ),
        row=row_of(config),
        bits=bits_of(config),
    )


def _speed(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Table 4 reads first; see speed_results.py for the rest."""
    speed: Mapping[str, Any] = _field(value, "speed", Mapping)
    _field(_field(speed, "machine", Mapping), "execution", str)
    if all(variant["activation_bits"] is None for variant in _field(speed, "variants", list)):
        raise ValueError("no variant of low bits was measured")
    return speed


def _field(section: Mapping[str, Any], name: str, kind: type | UnionType) -> Any:
    if not isinstance(section[name], kind):
        raise TypeError(f"{name!r}")  # as a KeyError says it
    return section[name]


def commit_of(source: Mapping[str, Any]) -> str:
    """As in `CellResult.commit`, from what provenance.source recorded."""
    return (source.get("commit") or "") + ("+" if source.get("modified") else "")


def _decoding(cell: Mapping[str, Any]) -> str:
    changes = [f"{key}={value}" for key, value in cell.get("decoding_overrides", {}).items()]
    return f"{cell['decoding']} ({', '.join(changes)})" if changes else str(cell["decoding"])


def read_sweep(runs_dir: Path, sweep: str) -> tuple[list[CellResult], list[str]]:
    """All cells of a sweep in the order of their folders' names, and what could not be read.

    Raises:
        ResultError: the sweep has no folder.
    """
    folder = runs_dir / sweep
    if not folder.is_dir() or sweep == FIGURES_FOLDER:
        found = (
            [path.name for path in runs_dir.iterdir() if path.is_dir()] if runs_dir.is_dir() else []
        )
        known = sorted(name for name in found if name[0] != "." and name != FIGURES_FOLDER)
        raise ResultError(
            f"no sweep {sweep!r} in {runs_dir} (sweeps there: {', '.join(known) or 'none'})"
        )
    return read_cells(path.parent for path in sorted(folder.glob(f"*/{RESULT_FILE}")))


def of_models(cells: Sequence[CellResult], models: Collection[str]) -> list[CellResult]:
    """The cells of some models; all of them where none is named.

    Raises:
        ResultError: a model that none of them is of.
    """
    known = sorted({cell.model for cell in cells})
    for model in models:
        if model not in known:
            there = ", ".join(known) or "none"
            raise ResultError(f"no results of model {model!r} in this sweep (there: {there})")
    return [cell for cell in cells if not models or cell.model in models]


def read_cells(folders: Iterable[Path]) -> tuple[list[CellResult], list[str]]:
    """Read the cells of some folders; a file that cannot be read becomes a problem, not a crash."""
    cells: list[CellResult] = []
    problems: list[str] = []
    for folder in folders:
        try:
            cells.append(read_result(folder / RESULT_FILE))
        except ResultError as error:
            problems.append(str(error))
    return cells, problems
