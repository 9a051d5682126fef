"""Folders of options: conf/ in the installed package or beside it, then folders that a user brings.

    python -m dllmquant_exp --config-dir mine method=smoothquant row=mine

is the same as `hydra.searchpath=[mine]`; every command understands both.
"""

import argparse
import difflib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from dllmquant_exp.errors import ConfigError

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


def split_folders(words: Sequence[str]) -> tuple[Folders, list[str]]:
    """A user's folders, and the other words of a command line.

    Raises:
        ConfigError: no such folder, or one with an option that ours would hide.
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
        if name == SEARCH_PATH:
            listed = yaml.safe_load(value)
            paths += listed if isinstance(listed, list) else [listed]
        else:
            others.append(word)
    folders = Folders(tuple(dict.fromkeys(_folder(str(path)) for path in paths)))
    for folder in folders.theirs:
        _check_names(folder)
    return folders, others


def group_with(folders: Folders, option: str, *groups: str) -> str:
    """The first group that has the option; ConfigError where none has it."""
    known = {group: folders.options(group) for group in groups}
    for group, options in known.items():
        if option in options:
            return group
    names = dict.fromkeys(name for options in known.values() for name in options)
    raise ConfigError(no_option(option, " or ".join(groups), names))


def no_option(option: str, group: str, options: Iterable[str]) -> str:
    """The message for an option that a group does not have, with the nearest one that it has."""
    near = difflib.get_close_matches(option, options, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    known = ", ".join(options)
    return f"{group} has no option {option!r}{hint}. Available options in {group!r}: {known}"


def _folder(path: str) -> Path:
    found: Path | None = Path(path.removeprefix(_FILE)).expanduser().resolve()
    if path.startswith(_PACKAGE):
        package = path.removeprefix(_PACKAGE).replace("/", ".")
        try:
            spec = importlib.util.find_spec(package)
        except ImportError:
            spec = None
        places = spec.submodule_search_locations if spec else None
        found = Path(places[0]) if places else None
    if found is None or not found.is_dir():
        raise ConfigError(f"{path} is not a folder of options, as --config-dir needs one")
    return found


def _check_names(folder: Path) -> None:
    """Refuse an option that has the name of one of ours: Hydra would read ours (ConfigError)."""
    ours = config_folder()
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder)
        if (ours / name).exists():
            raise ConfigError(f"{path}: there is a {name} already; give yours another name")
