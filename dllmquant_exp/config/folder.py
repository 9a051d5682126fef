"""Folders of options: conf/ in the installed package or beside it, then folders that a user brings.

    python -m dllmquant_exp --config-dir mine method=smoothquant row=mine

is the same as `hydra.searchpath=[mine]`; every command understands both.
"""

import argparse
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dllmquant_exp.config.own_options import check_options, choices_in
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.yaml_files import read_mapping

SEARCH_PATH = "hydra.searchpath"
_FILE, _PACKAGE = "file://", "pkg://"


def config_folder() -> Path:
    """The folder of our own groups and options."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Folders:
    """Our folder of options and a user's."""

    theirs: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Path]:
        return iter((config_folder(), *self.theirs))

    @property
    def words(self) -> list[str]:
        """The word that shows a user's folders to Hydra, in this process and in jobs."""
        listed = ",".join(f"'{_FILE}{folder}'" for folder in self.theirs)
        return [f"{SEARCH_PATH}=[{listed}]"] if listed else []

    def options(self, group: str) -> dict[str, Path]:
        """The YAML file of each option of a group, ours first, each by name."""
        paths = [path for folder in self for path in sorted((folder / group).glob("*.yaml"))]
        return {path.stem: path for path in paths}

    def groups(self) -> list[str]:
        """The names of all groups that may be chosen from."""
        found = {path.name for folder in self for path in folder.iterdir() if path.is_dir()}
        return sorted(name for name in found if name[0] not in "._" and name != "hydra")


@lru_cache(maxsize=256)
def content_of(folders: Folders, group: str, option: str) -> Mapping[str, Any]:
    """An option's settings, over those of the group's options that its defaults list.

    Raises:
        ConfigError: no such option, or a file that cannot be read.
    """
    options = folders.options(group)
    if option not in options:
        raise ConfigError(f"{group} has no option {option!r} (there are: {', '.join(options)})")
    own = read_mapping(options[option])
    found: dict[str, Any] = {}
    for place, other in choices_in(own):
        if place in ("", group) and other not in ("_self_", None):
            found = merged(found, content_of(folders, group, other))
    return merged(found, {key: value for key, value in own.items() if key != "defaults"})


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where `second` has the last word."""
    found = dict(first)
    for key, value in second.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


def split_folders(words: Sequence[str]) -> tuple[Folders, list[str]]:
    """A user's folders, and the other words of a command line.

    Raises:
        ConfigError: no such folder, or one with an option that cannot be used.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    try:
        flags, rest = parser.parse_known_args(list(words))
    except argparse.ArgumentError as error:
        raise ConfigError("--config-dir needs a folder: --config-dir FOLDER") from error
    paths, others = list(flags.config_dir), []
    for word in rest:
        name, _, value = word.partition("=")
        if name.lstrip("+") == SEARCH_PATH:
            paths += _listed(word, value)
        else:
            others.append(word)
    folders = Folders(tuple(dict.fromkeys(_folder(path) for path in paths)))
    files = [
        (path, folder, path.stat().st_mtime_ns)
        for folder in folders.theirs
        for depth in ("*", "*/*", "*/*/*")
        for path in folder.glob(f"{depth}.yaml")
    ]
    check_options(config_folder(), tuple(files))  # once, not for each job of a sweep
    return folders, others


def _listed(word: str, value: str) -> list[str]:
    """The folders behind `hydra.searchpath=`."""
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        found = None
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
        raise ConfigError(f"{word} is not a list of folders, such as {SEARCH_PATH}=[FOLDER]")
    return found


def _folder(path: str) -> Path:
    found: Path | None = None
    try:
        if path.startswith(_PACKAGE):
            spec = importlib.util.find_spec(path.removeprefix(_PACKAGE).replace("/", "."))
            places = spec.submodule_search_locations if spec else None
            found = Path(places[0]) if places else None
        else:
            found = Path(path.removeprefix(_FILE)).expanduser().resolve()
        if found is not None and found.is_dir():
            return found
    except Exception as error:  # what a package raises when it is imported, or an impossible path
        raise ConfigError(f"{path} is not a folder of options ({error})") from error
    raise ConfigError(f"{path} is not a folder of options, as --config-dir needs one")
