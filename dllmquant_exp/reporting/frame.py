"""The results of a sweep as one long frame: a line per cell, read once from its result file.

A file that lacks a field of every result, or lies in another cell's folder, is named and left out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from dllmquant_exp.errors import printable
from dllmquant_exp.reporting.paper import paper_metric, paper_name
from dllmquant_exp.store.names import check_name
from dllmquant_exp.store.results import FIGURES_FOLDER, RESULT_FILE, ResultError, load_json

PUBLISHED = "published"  # the evaluation of results from before there was a choice
SPEED = "speed"  # the kind of a task without items
# Sections of a configuration that make a row; saved and row: which saved model, and which own row.
RECIPE = ("method", "quant", "calibration", "cgq", "iaaq", "execution", "saved", "row")
# The rest must agree in one table. Not threads: null stands for another number on each machine.
ROW_KEYS = (*RECIPE, "task", "seed", "data_root", "threads")
REQUIRED: dict[str, Any] = {  # types of the fields that every result has
    **{f"cell.{name}": str for name in ("model", "method", "task", "label", "kind")},
    "cell.seed": int, "cell.embedded": bool, "cell.quant": (str, type(None)),
    "row.name": str, "row.label": str, "config.model.checkpoint": str, "config.method": dict,
    "config_hash": str, "timing.finished_at": str, "status": str,
}  # fmt: skip
Item = tuple[str, str]  # subtask, doc id
Bits = tuple[object, ...]


class Cell(NamedTuple):
    """A line of the frame; its fields are the columns."""

    folder: Path
    status: str  # finished | failed
    model: str
    embedded: bool
    method: str
    quant: str  # empty where nothing is quantized
    row: str  # of conf/row or the user's own; empty: of no row
    row_label: str
    task: str
    label: str  # the column's name in the paper
    kind: str  # official | micro | speed
    seed: int
    decoding: str  # the option, in brackets the published settings that it replaces
    commit: str  # of the source that made it; `+` at its end: with changes; empty: not known
    checkpoint: str  # digest of the weights; empty: not known, as for failed cells
    config_hash: str
    finished_at: str
    error: str
    chance: float | None
    score: float | None  # in [0, 1]
    n: int
    items: tuple[Item, ...]  # sorted
    scores: NDArray[np.float64]  # of the items, in [0, 1]
    speed: Mapping[str, Any]  # of a speed task, see speed.py
    hardware: Mapping[str, Any]
    diagnostics: Mapping[str, float]  # shares of outputs that may have gone wrong
    calibrated_on: tuple[int, int] | None  # states and tokens that were collected
    bits: Bits | None  # see `bits_of`; None where nothing is quantized
    config: Mapping[str, Any]  # resolved
    recipe: Mapping[str, object]  # every setting that makes the row, by path
    made_of: str  # the same as a text
    conditions: Mapping[str, object]  # every setting that results of one table share
    comparable: str  # the same as a text
    evaluation: str = PUBLISHED  # whose settings: the option of that group
    metric: str = ""  # that scores were read by, where it is not the result's own
    same_as: str = ""  # hub id that the user says the weights are a copy of; empty: not stated


COLUMNS = list(Cell._fields)


def to_frame(cells: Iterable[Cell]) -> pd.DataFrame:
    return pd.DataFrame(list(cells), columns=COLUMNS)


def first(frame: pd.DataFrame) -> Cell:
    """The first line of a frame."""
    return lines_of(frame.head(1))[0]


def lines_of(frame: pd.DataFrame) -> list[Cell]:
    """The lines of a frame."""
    return [Cell(*line) for line in frame.itertuples(index=False, name=None)]


def grouped(cells: Iterable[Cell], *names: str) -> dict[Any, list[Cell]]:
    """Lines by the value of one column, or by the values of several."""
    key = attrgetter(*names)
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return found


def read_sweep(runs_dir: Path, sweep: str) -> tuple[pd.DataFrame, list[str]]:
    """All cells of a sweep in the order of their folders' names, and files that are unreadable.

    Raises:
        ResultError: the sweep has no folder.
        ConfigError: a name that no sweep can have.
    """
    folder = runs_dir / check_name(sweep, "sweep")
    if not folder.is_dir() or sweep == FIGURES_FOLDER:
        there = [path.name for path in runs_dir.iterdir()] if runs_dir.is_dir() else []
        known = [name for name in sorted(there) if name[0] != "." and name != FIGURES_FOLDER]
        sweeps = ", ".join(name for name in known if (runs_dir / name).is_dir()) or "none"
        raise ResultError(f"no sweep {sweep!r} in {runs_dir} (sweeps there: {sweeps})")
    return read_cells(path.parent for path in sorted(folder.glob(f"*/{RESULT_FILE}")))


def read_cells(folders: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Read the cells of some folders; a file that cannot be read becomes a problem, not a crash."""
    cells: list[Cell] = []
    problems: list[str] = []
    for folder in folders:
        try:
            cells.append(read_result(folder / RESULT_FILE))
        except ResultError as error:
            problems.append(str(error))
    return to_frame(cells), problems


def of_models(frame: pd.DataFrame, models: Collection[str]) -> pd.DataFrame:
    """The cells of some models; all of them where none is named.

    Raises:
        ResultError: a model without results.
    """
    known = sorted(set(frame["model"]))
    for model in models:
        if model not in known:
            there = ", ".join(known) or "none"
            raise ResultError(f"no results of model {model!r} in this sweep (there: {there})")
    return frame[frame["model"].isin(models)] if models else frame


def read_result(path: Path) -> Cell:
    """One result file as a line of the frame.

    Raises:
        ResultError: unreadable, of another schema, another cell's, or without a field of every
            result.
    """
    value = load_json(path)
    try:
        return line_of(path.parent, value)
    except (LookupError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: field {error} is missing or of a wrong kind") from error
    except ValueError as error:
        raise ResultError(f"{path}: {error}") from error


def line_of(folder: Path, value: Mapping[str, Any]) -> Cell:
    """A result's content as a line of the frame.

    Raises:
        LookupError, TypeError, AttributeError, ValueError: a field is missing or wrong.
    """
    check_fields(value, REQUIRED)
    cell, config, status = value["cell"], value["config"], value["status"]
    if status not in ("finished", "failed"):
        raise ValueError(f"status is {status!r}, neither finished nor failed")
    if cell.get("name") not in (None, folder.name):
        raise ValueError(f"is the result of {cell['name']}, in another folder")
    metric, others = _fitting(cell, value)
    items, scores = _scores(value.get("items", ()), others)
    speed = _speed(value) if status == "finished" and cell["kind"] == SPEED else {}
    if status == "finished" and not items and not speed:
        raise ValueError("is finished and has no items")
    recipe, conditions = _recipe(config), _conditions(cell, config)
    calibrated = (value.get("calibration") or {}).get("report")
    return Cell(
        folder=folder,
        status=status,
        **{name: check_name(cell[name], name) for name in ("model", "method", "task", "kind")},
        label=printable(cell["label"]),
        seed=cell["seed"],
        embedded=cell["embedded"],
        quant=check_name(cell["quant"], "quant") if cell["quant"] else "",
        row=printable(value["row"]["name"]),
        row_label=printable(value["row"]["label"]),
        decoding=_decoding(cell),
        commit=commit_of(value.get("source", {})),
        checkpoint=value.get("checkpoint_digest") or "",
        config_hash=value["config_hash"],
        finished_at=value["timing"]["finished_at"],
        error=(value["error"] or {}).get("message", ""),
        chance=value.get("chance"),
        score=float(scores.mean() if metric else value["score"]) if items else None,
        n=len(items),
        items=items,
        scores=scores,
        speed=speed,
        hardware=value.get("hardware", {}),
        diagnostics={name: float(of) for name, of in value.get("diagnostics", {}).items()},
        calibrated_on=calibrated and (int(calibrated["states"]), int(calibrated["tokens"])),
        bits=bits_of(config),
        config=config,
        recipe=recipe,
        # A setting that is None is one that older results do not have.
        made_of=_text({key: part for key, part in recipe.items() if part is not None}),
        conditions=conditions,
        comparable=_text(conditions),
        evaluation=_evaluation(cell),
        metric=metric,
        same_as=printable(cell.get("same_as") or ""),
    )


def check_fields(value: Mapping[str, Any], required: Mapping[str, Any]) -> None:
    """Check fields, given by their paths with the types that they may have.

    Raises:
        ValueError: one that is missing or of a wrong kind.
    """
    for path, kinds in required.items():
        found: Any = value
        for key in path.split("."):
            found = found.get(key, ...) if isinstance(found, dict) else ...
        if not isinstance(found, kinds):
            raise ValueError(f"field {path} is missing or of a wrong kind")


def _recipe(config: Mapping[str, Any]) -> dict[str, object]:
    """Settings as `calibration.samples`; quant's without a prefix."""
    found: dict[str, object] = {}
    for section in RECIPE:
        if section in config:
            part = config[section]
            value = _by_step(part) if section == "method" else part
            found |= flat("" if section == "quant" else section, value)
    return found


def _by_step(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's steps by their keys, and their order; as it is where it has no list of them."""
    if "steps" not in method:
        return dict(method)
    order = ", ".join(step["step"] for step in method["steps"])
    return {"name": method["name"], "steps": order} | {
        step["step"]: {key: value for key, value in step.items() if key != "step"}
        for step in method["steps"]
    }


def _conditions(cell: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, object]:
    shared = {key: value for key, value in config.items() if key not in ROW_KEYS}
    return {
        "model.name": cell["model"],
        "kind": cell["kind"],
        "decoding": _decoding(cell),
        **({} if _evaluation(cell) == PUBLISHED else {"evaluation": _evaluation(cell)}),
        **shared,
    }


def _text(value: Mapping[str, object]) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def flat(name: str, value: object) -> dict[str, object]:
    """Values of nested mappings by their path, as `name.inner.key`."""
    if not isinstance(value, dict):  # an abstract Mapping takes longer to check
        return {name: value}
    found: dict[str, object] = {}
    for key, part in value.items():
        found |= flat(f"{name}.{key}" if name else key, part)
    return found


def _evaluation(cell: Mapping[str, Any]) -> str:
    return str(cell.get("evaluation", PUBLISHED))


def _fitting(
    cell: Mapping[str, Any], value: Mapping[str, Any]
) -> tuple[str, Sequence[float] | None]:
    """The metric that the paper's row of this model fits, and each item's score by it, where the
    result has them besides its own; else an empty name and None."""
    wanted = paper_metric(paper_name(cell["model"], cell.get("same_as") or ""), cell["label"])
    kept = value.get("other_scores") or {}
    return (wanted, kept[wanted]) if wanted in kept else ("", None)


def _scores(
    items: Sequence[Mapping[str, Any]], others: Sequence[float] | None
) -> tuple[tuple[Item, ...], NDArray[np.float64]]:
    """Items by name, and in this order their scores, or `others` in their place."""
    names = tuple((item["subtask"], str(item["doc_id"])) for item in items)
    scores = np.array([float(item["score"]) for item in items])
    if others is not None:
        if len(others) != len(scores):
            raise ValueError(f"{len(others)} other scores stand beside {len(scores)} items")
        scores = np.array(others, np.float64)
    wrong = scores[~((scores >= 0) & (scores <= 1))]
    if wrong.size:
        raise ValueError(f"an item's score is {wrong[0]}, not a fraction in [0, 1]")
    in_order, places = _sorted(names)
    return in_order, scores[places]


@lru_cache(maxsize=256)
def _sorted(names: tuple[Item, ...]) -> tuple[tuple[Item, ...], NDArray[np.intp]]:
    """Hundreds of cells have the same items: they are sorted once, and share one tuple."""
    places = sorted(range(len(names)), key=names.__getitem__)
    return tuple(names[place] for place in places), np.array(places, np.intp)


def _speed(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The measurement behind Table 4, see reporting/speed.py."""
    check_fields(value, {"speed.machine.execution": str, "speed.variants": list})
    speed: Mapping[str, Any] = value["speed"]
    if all(variant["activation_bits"] is None for variant in speed["variants"]):
        raise ValueError("no variant of low bits was measured")
    return speed


def bits_of(config: Mapping[str, Any]) -> Bits | None:
    """Bits of weights and activations, of P, V and K, of head and embedding; None for fp."""
    quant = config.get("quant")
    if quant is None:
        return None
    attention = quant.get("attention") or {}
    return (
        quant["weight_bits"],
        quant["activation_bits"],
        *(attention.get(name) for name in ("p_bits", "v_bits", "k_bits")),
        quant.get("head_bits"),
        quant.get("embedding_bits"),
    )


def commit_of(source: Mapping[str, Any]) -> str:
    """Text of the column `commit`, from the record of provenance.source."""
    return (source.get("commit") or "") + ("+" if source.get("modified") else "")


def _decoding(cell: Mapping[str, Any]) -> str:
    changes = [f"{key}={value}" for key, value in cell.get("decoding_overrides", {}).items()]
    return f"{cell['decoding']} ({', '.join(changes)})" if changes else str(cell["decoding"])
