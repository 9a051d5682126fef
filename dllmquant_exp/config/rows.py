"""The row of the tables that a job belongs to: an option of conf/row or of a user's folder.

A row states choices (its method, tmas, cgq, ...) and settings. It holds for a job that has them,
whether or not `row=` was said. A row that leaves a group open takes the default: random texts to
calibrate on, components off, no calibrated activation ranges. Bits and the sizes of calibration
sets are no part of a row unless one states them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from dllmquant_exp.config.folder import Folders, config_folder
from dllmquant_exp.config.identity import method_label
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.quantized_model import COMPONENTS, QuantizedModel

_ON = "on"
Settings = dict[str, Any]  # by dotted names


@dataclass(frozen=True)
class Row:
    """A row as results record it: a name for files, a label for tables."""

    name: str
    label: str


@dataclass(frozen=True)
class _Stated:
    """An option of the group `row`: what its file states."""

    row: Row
    choices: Mapping[str, str]
    settings: Mapping[str, Any]
    folders: Folders

    @cached_property
    def usual(self) -> Settings:
        """The settings of the options that it chooses, before its own."""
        found: Settings = {}
        for group, option in self.choices.items():
            path = self.folders.options(group).get(option)
            found |= _flat({group: _yaml(path) if path else {}})
        return found


def row_of(model: QuantizedModel, config: Mapping[str, Any], line: Overrides) -> Row:
    """The row of a job: the one that was chosen if it holds, else the one that states most.

    Args:
        config: the composed configuration.
        line: the words of the job.
    """
    rows = _rows(line.folders)
    telling = {name for row in rows for name in row.settings}
    holding = [row for row in rows if not _differences(row, telling, model, config)]
    chosen = line.value("row")
    for row in holding:
        if row.row.name == chosen:
            return row.row
    if holding:
        return max(holding, key=lambda row: len(row.choices) + len(row.settings)).row
    return _unknown(model, rows, telling, config)


def _differences(
    row: _Stated, telling: set[str], model: QuantizedModel, config: Mapping[str, Any]
) -> list[str]:
    """Choices and settings in which a job differs from a row."""
    found = [name for name in COMPONENTS if (row.choices.get(name) == _ON) != _is_on(model, name)]
    sampler = _sampler(model)
    if sampler is not None and not _is_on(model, "tmas"):
        usual = row.choices.get("calibration", _defaults()["calibration"])
        found += ["calibration"] if sampler != usual else []
    static = model.quant is not None and model.quant.static
    if static and "quant" not in row.choices:
        found.append("quant")
    names = {"method": model.method.name, "quant": model.quant_name}
    for group, option in row.choices.items():
        if group not in (*COMPONENTS, "calibration"):
            found += [group] if names.get(group, _name(config, group)) != option else []
    expected = {name: row.usual[name] for name in telling if name in row.usual}
    actual = _flat(_settings(model, config))
    for name, value in {**expected, **row.settings}.items():
        found += [name] if actual.get(name) != value else []
    return found


def _unknown(
    model: QuantizedModel, rows: list[_Stated], telling: set[str], config: Mapping[str, Any]
) -> Row:
    """A name for what is no row: method and components, and what keeps it from being one."""
    parts = [method_label(model)]
    sampler = _sampler(model)
    if sampler not in (None, "tmas", _defaults()["calibration"]):
        parts.append(str(sampler))
    if model.quant is not None and model.quant.static:
        parts.append("static")
    actual = _flat(_settings(model, config))
    usual: Settings = {}
    for row in rows:
        usual |= row.usual
    different = sorted(n for n in telling & set(actual) & set(usual) if actual[n] != usual[n])
    parts += [f"{name}={actual[name]}" for name in different]
    return Row("+".join(parts), "+".join(parts))


def _settings(model: QuantizedModel, config: Mapping[str, Any]) -> Mapping[str, Any]:
    return config if model.saved is None else model.saved.made


def _is_on(model: QuantizedModel, component: str) -> bool:
    if component == "tmas":
        return _sampler(model) == component
    return model.describe(component) is not None


def _sampler(model: QuantizedModel) -> str | None:
    calibration = model.describe("calibration")
    return None if calibration is None else calibration["name"]


def _name(config: Mapping[str, Any], group: str) -> Any:
    section = config.get(group)
    return section.get("name") if isinstance(section, Mapping) else section


@lru_cache(maxsize=8)
def _rows(folders: Folders) -> list[_Stated]:
    found = []
    for name, path in folders.options("row").items():
        content = _yaml(path)
        named = content.pop("row", {})
        choices = {"method": _defaults()["method"]}
        for entry in content.pop("defaults", []):
            if isinstance(entry, Mapping):
                ((key, option),) = entry.items()
                choices[key.removeprefix("override ").strip().lstrip("/")] = str(option)
        label = str(named.get("label", name))
        found.append(_Stated(Row(name, label), choices, _flat(content), folders))
    return found


@lru_cache(maxsize=1)
def _defaults() -> dict[str, str]:
    entries = _yaml(config_folder() / "config.yaml")["defaults"]
    return {k: v for entry in entries if isinstance(entry, Mapping) for k, v in entry.items()}


def _yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text("utf-8")) or {}


def _flat(section: Mapping[str, Any], prefix: str = "") -> Settings:
    return dict(_leaves(section, prefix))


def _leaves(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
