"""The row of the tables that a job belongs to: an option of conf/row or of a user's folder.

A row states choices (its method, tmas, cgq, ...) and settings. It holds for a job that has the
same classes and these settings, whatever they are called. A row that leaves a group open takes the
default: random texts to calibrate on, components off, no calibrated activation ranges. Bits and the
sizes of calibration sets are no part of a row unless one states them.

Our rows hold whether or not `row=` was said. A user's row counts only where it was chosen, and its
cells are its own (see `identity`): others may describe the same work.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dllmquant_exp.config.folder import Folders, config_folder, content_of, merged
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.own_options import Row, choices_in, row_named_in
from dllmquant_exp.config.quantized_model import COMPONENTS, QuantizedModel, targets
from dllmquant_exp.store.outside import full_name
from dllmquant_exp.store.yaml_files import read_mapping

_TOLD_BY_CLASS = ("method", "calibration", *COMPONENTS)  # their settings make variants of a row
_TOLD_BY_SETTINGS = ("model", "quant", "task", "decoding")
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class _Stated:
    """A row's choices, its own settings, and those of the options that it chooses."""

    choices: Mapping[str, str]
    settings: Settings
    content: Settings


def row_of(model: QuantizedModel, config: Settings, line: Overrides) -> tuple[Row, bool]:
    """The row of a job: the one that was chosen if it holds, or one of ours that holds.

    Args:
        config: the composed configuration.
        line: the words of the job.

    Returns:
        The row, and whether it is an option of a user's folder.
    """
    options, chosen = line.folders.options("row"), line.value("row")
    ours = [name for name, path in options.items() if path.is_relative_to(config_folder())]
    names = [name for name in options if name == chosen or name in ours]
    rows = {name: _stated(line.folders, name) for name in names}
    telling: Settings = {}
    for name in ours:
        telling = merged(telling, rows[name].settings)
    holding = [name for name, row in rows.items() if _holds(row, telling, model, config)]
    if not holding:
        known = {text for path in options.values() for text in vars(row_named_in(path)).values()}
        return _unknown(model, list(rows.values()), telling, config, known), False
    name = chosen if chosen in holding else holding[0]
    return row_named_in(options[str(name)]), name not in ours


def _holds(row: _Stated, telling: Settings, model: QuantizedModel, config: Settings) -> bool:
    """Whether a job has a row's classes, and its settings."""
    content = row.content
    sampler = content.get("tmas") or content["calibration"]
    wanted = {
        "method": targets(content["method"]),
        "sampler": targets(sampler) if model.calibration is not None else [],
        "cgq": targets(content.get("cgq", {})),
        "iaaq": targets(content.get("iaaq", {})),
    }
    parts = {"sampler": model.calibration, "cgq": model.cgq, "iaaq": model.iaaq}
    given = {name: [full_name(type(part))] if part else [] for name, part in parts.items()}
    given["method"] = [full_name(type(step)) for step in model.method.steps.values()]
    static = model.quant is not None and model.quant.static
    if wanted != given or (static and "quant" not in row.choices):
        return False
    whole = {group: content[group] for group in row.choices if group in _TOLD_BY_SETTINGS}
    stated = merged(merged(_within(content, telling), whole), row.settings)
    both: Any = merged(config, stated)
    if "${" in str(stated):  # settings may refer to others of the job
        both = OmegaConf.to_container(OmegaConf.create(both), resolve=True)
    return bool(both == config)


def _unknown(
    model: QuantizedModel,
    rows: list[_Stated],
    telling: Settings,
    config: Settings,
    known: set[str],
) -> Row:
    """A name for what is no row: method and components, and what keeps it from being one.

    Args:
        known: names and labels of rows.
    """
    parts = [model.label]
    usual = rows[0].content["calibration"]
    if model.calibration is not None and not config.get("tmas"):
        own = [full_name(type(model.calibration))] != targets(usual)
        parts += [model.calibration.name] if own else []
    if model.quant is not None and model.quant.static:
        parts.append("static")
    different: Settings = {}
    for row in rows:
        different = merged(different, _within(row.content, telling))
    parts += _differences("", different, config)
    name = "+".join(parts)
    name = f"method={name}" if name in known else name
    return Row(name, name)


def _within(content: Settings, telling: Settings) -> dict[str, Any]:
    """The settings that have the names of some others."""
    both = {key: value for key, value in content.items() if key in telling}
    return {
        key: _within(value, telling[key]) if isinstance(telling[key], Mapping) else value
        for key, value in both.items()
    }


def _differences(place: str, usual: Settings, config: Settings) -> Iterator[str]:
    """The settings of a job that are not as usual, in order of their names."""
    for key, value in sorted(usual.items()):
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            yield from _differences(f"{place}{key}.", value, config[key])
        elif key in config and config[key] != value:
            yield f"{place}{key}={config[key]}"


@lru_cache(maxsize=256)
def _stated(folders: Folders, name: str) -> _Stated:
    usual = _choices(read_mapping(config_folder() / "config.yaml"), folders)
    choices = _choices(read_mapping(folders.options("row")[name]), folders)
    choices = {"method": usual["method"], **choices}
    content = {
        group: content_of(folders, group, option)
        for group, option in {"calibration": usual["calibration"], **choices}.items()
        if group in (*_TOLD_BY_CLASS, *_TOLD_BY_SETTINGS)
    }
    for group, option in choices.items():
        if group in content and group in _TOLD_BY_SETTINGS:
            content[group] = _known(content[group], folders.options(group)[option])
    own = content_of(folders, "row", name)
    settings = {key: value for key, value in own.items() if key not in ("row", "hydra")}
    return _Stated(choices, settings, content)


def _known(content: Settings, path: Path) -> Settings:
    """An option's settings; its name alone where others depend on what else is chosen."""
    if any(group for group, _ in choices_in(read_mapping(path))):
        return {"name": content.get("name")}
    return {name: value for name, value in content.items() if name != "name"}


def _choices(content: Settings, folders: Folders) -> dict[str, str]:
    """The options that a file's `defaults` choose, and those of the rows that they list."""
    found: dict[str, str] = {}
    for group, option in choices_in(content):
        if group in ("", "row") and option in folders.options("row"):
            found |= _choices(read_mapping(folders.options("row")[option]), folders)
        elif option is not None:
            found[group] = str(option)
    return found
