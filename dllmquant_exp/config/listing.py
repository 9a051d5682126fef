"""`ls` and `ls GROUP`: what can be chosen and set, from the options' files and their comments."""

import importlib
import re
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from dllmquant_exp.config.folder import Folders, config_folder
from dllmquant_exp.config.help import group_texts
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.schema import Bound

# Parts of a path that stand for any task and kind of model.
_ANY = ((r"^tasks\.[^.]+", "tasks.TASK"), (r"(settings|measure)\.[^.]+", r"\1.KIND"))
_NAMES = {
    int: "whole number", float: "number", bool: "true | false", str: "text", type(None): "null",
    list: "list", dict: "settings",
}  # fmt: skip
_UNSEEN = ("name", "defaults", "hydra", "report", "row", "leaves")  # no settings for a command line
_KEY = re.compile(r"^( *)([\w<]+):(?: +((?!#).*?))?(?: +# (.*))?$")


def list_options(folders: Folders) -> Iterator[str]:
    """A line per option of every group: its name, what it is, and where one of the user's is."""
    for group, text in group_texts().items():
        yield f"{group}: {text}"
        options = folders.options(group)
        width = max(map(len, options))
        yield from (f"  {name:{width}}  {_about(path)}" for name, path in options.items())
    yield ""
    yield "dllmquant ls GROUP lists a group's settings; dllmquant --help the common ones."


def list_group(folders: Folders, group: str) -> Iterator[str]:
    """A group's options, and a paragraph per setting: its default, type and comment.

    Raises:
        ConfigError: no such group.
    """
    texts = group_texts()
    if group not in texts:
        raise ConfigError(f"there is no group {group!r} (there are: {', '.join(texts)})")
    options, usual = folders.options(group), _defaults().get(group)
    yield f"{group}: {texts[group]}"
    for name, path in options.items():
        yield f"  {name:18}  {_about(path)}{' (the default)' if name == usual else ''}"
    yield ""
    seen: set[str] = set()
    for name in sorted(options, key=lambda name: name != usual):
        path = options[name]
        prefix = "" if "@package _global_" in path.read_text("utf-8") else f"{group}."
        known = _types(group, path)
        for key, value, comment in settings(path):
            if key in seen or key.partition(".")[0] in _UNSEEN:
                continue
            seen.add(key)
            kind = known.get(key.rpartition(".")[2]) or _kind(value)
            yield f"  {prefix}{key}={value}  ({kind}{'' if name == usual else f'; in {name}'})"
            yield from [f"      {comment}"] if comment else []
    if group == "task":
        yield ""
        yield from list_files()


def list_files() -> Iterator[str]:
    """The files that a folder `data_root` may hold."""
    from dllmquant_exp.calibration.sources import OFFICIAL
    from dllmquant_exp.evaluation.local_data import SOURCES

    yield "data_root=FOLDER holds, as FILE.jsonl.gz or FILE.jsonl, in the rows of the hub:"
    for name, source in SOURCES.items():
        yield f"  {name:26}  {', '.join(source.files.values())}"
    for name, data in OFFICIAL.items():
        yield f"  {f'to calibrate on {name}':26}  {data.file}, {data.evaluated[0]}"


def show(lines: Iterator[str]) -> None:
    """Print lines; on a terminal, as much of each as it is wide."""
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        cut = width is not None and len(line) > width
        print(f"{line[: (width or 2) - 2]} …" if cut else line)


def settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Path, value and comment of each setting of an option's file, in its order."""
    outer: list[tuple[int, str]] = []
    for line in path.read_text("utf-8").splitlines():
        found = None if line.startswith("#") else _KEY.match(line)
        if found is None:
            continue
        indent, key, value, comment = found.groups("")
        outer = [place for place in outer if place[0] < len(indent)]
        name = ".".join([*(key for _, key in outer), key])
        if not value or value[0] in "&>":
            outer.append((len(indent), key))
        elif "*" not in value[:7] and key not in ("_target_", "<<"):  # no alias of YAML
            for pattern, text in _ANY:
                name = re.sub(pattern, text, name)
            yield name, value, comment


def _defaults() -> dict[str, str]:
    """The option of each group that is chosen where none is named."""
    entries = yaml.safe_load((config_folder() / "config.yaml").read_text("utf-8"))["defaults"]
    return {
        group: str(name) for of in entries if isinstance(of, dict) for group, name in of.items()
    }


def _about(path: Path) -> str:
    """The sentence below an option's command line, and its file where it is a user's."""
    comments = [line[2:] for line in path.read_text("utf-8").splitlines() if line[:2] == "# "]
    said = " ".join(line for line in comments if line[0] != "@" and "python -m" not in line)
    ours = path.is_relative_to(config_folder())
    sentence = re.match(r".*?[\w)'`]{3}(?=\. [A-Z]|\.$|$)", said)  # not up to `Eq. 7`
    shown = (sentence[0] if sentence else said).rstrip(".")
    return shown if ours else f"{shown} [yours: {path}]".lstrip()


def _types(group: str, path: Path) -> dict[str, str]:
    """Types of an option's settings by their last names, from the classes that read them."""
    from dllmquant_exp.config.quantized_model import ModelSettings
    from dllmquant_exp.evaluation.settings import DecodingOverrides, TaskSettings
    from dllmquant_exp.quantization.quant_settings import AttentionSettings, QuantSettings
    from dllmquant_exp.speed.workload import SpeedSettings
    from dllmquant_exp.store.tracking import TrackingSettings

    readers: dict[str, tuple[type, ...]] = {
        "model": (ModelSettings,),
        "quant": (AttentionSettings, QuantSettings),
        "task": (TaskSettings, SpeedSettings),
        "decoding": (DecodingOverrides,),
        "tracking": (TrackingSettings,),
    }
    classes = list(readers.get(group, ()))
    for target in re.findall(r"_target_: ([\w.]+)", path.read_text("utf-8")):
        module, _, name = target.rpartition(".")
        with suppress(ImportError, AttributeError):  # a user's that cannot be run
            classes.append(getattr(importlib.import_module(module), name))
    hints = [get_type_hints(cls, include_extras=True) for cls in classes]
    return {name: _said(hint) for found in hints for name, hint in found.items()}


def _said(hint: Any) -> str:
    """A field's type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [str(part) for part in parts[1:] if isinstance(part, Bound)]
        return " ".join([_said(parts[0]), *bounds])
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        return " or ".join(_said(part) for part in parts)
    if origin is tuple:
        return f"list of {_said(parts[0])}"
    return _NAMES.get(hint, "settings")


def _kind(value: str) -> str:
    """The type of a value in YAML."""
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        return "text"
    return "text or null" if found is None else _NAMES.get(type(found), "text")
