"""The words of a command line, read once: what they set, add, delete and sweep over.

method=awq,quarot       an option of a group, or several: a sweep
calibration.samples=8   a setting
+tmas=on ++seed=1       the same, where nothing is there yet, or whether or not
~tmas.texts             nothing
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, NoReturn
from urllib.parse import unquote

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, ValueType
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from dllmquant_exp.config.command import refuse_flags
from dllmquant_exp.config.folder import Folders, config_folder, no_option, split_folders
from dllmquant_exp.config.own_options import choices_in
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.schema import unknown_key
from dllmquant_exp.store.yaml_files import read_mapping

MULTIRUN = ("-m", "--multirun")
# Words about a sweep as a whole; all others reach its jobs alone.
_OF_SWEEPS = ("hydra", "sweep", "runs_dir", "launcher", "table", "models")
_SWEEPER = "hydra.sweeper"
_NO_WORD = re.compile(
    r"[-+]?\.?\d[-+\d._e]*|nan|[-+]?inf|true|false", re.IGNORECASE
)  # as Hydra reads it
CONTROLS = "controls"  # `controls=on`, see `tables`


class NoUse(ConfigError):
    """Settings that a job would ignore: refused, or left out of this job of a sweep.

    Attributes:
        names: of the settings or groups.
    """

    def __init__(self, message: str, *names: str) -> None:
        super().__init__(message)
        self.names = names


@dataclass(frozen=True)
class Word:
    """One word, as it was given and as Hydra reads it."""

    text: str
    name: str  # dotted, without prefix and package: `tmas.texts` of `~tmas.texts`
    values: tuple[str, ...]  # several in a sweep; none where something is deleted
    changes: bool  # without a prefix: what it names must be there already

    def concerns(self, *names: str) -> bool:
        """Whether it sets one of `names`, or something inside."""
        return any(self.name == name or self.name.startswith(f"{name}.") for name in names)


@lru_cache(maxsize=4096)
def _read(text: str) -> Word:
    try:
        (found,) = OverridesParser.create().parse_overrides([text])
    except OverrideParseException as error:
        raise ConfigError(
            f"{text!r} cannot be read ({error.message.splitlines()[0]}); write setting=value, and "
            "quote a value that is no plain word: \"setting='a=b, c'\""
        ) from error
    name = found.key_or_group.replace("/", ".")
    return Word(text, name, _values(text, found), text[:1] not in "+~")


def _values(text: str, found: Override) -> tuple[str, ...]:
    if found.is_delete():
        return ()
    if found.is_discrete_sweep() and found.value_type != ValueType.GLOB_CHOICE_SWEEP:
        return tuple(found.sweep_string_iterator())
    return (text.partition("=")[2],)


@dataclass(frozen=True)
class Overrides:
    """A command line.

    Attributes:
        words: in the order given, without flags.
        flags: of Hydra, as `--cfg job`, without -m.
        multirun: -m was given.
        folders: where options are looked for.
        beside_others: a call has further lines, for which a word may be meant that no job of this
            one has a use for.
    """

    words: tuple[Word, ...] = ()
    flags: tuple[str, ...] = ()
    multirun: bool = False
    folders: Folders = field(default_factory=Folders)
    beside_others: bool = False

    @classmethod
    def read(cls, line: Sequence[str]) -> "Overrides":
        """Read words and flags in any order.

        Raises:
            ConfigError: a word that cannot be read, or a folder that cannot be used.
        """
        from hydra._internal.utils import get_args_parser  # which knows the flags' own values

        folders, line = split_folders(line)
        texts = [text for text in line if text not in MULTIRUN]
        multirun = len(texts) < len(line)
        if not any(text.startswith("-") for text in texts):
            return cls(tuple(map(_read, texts)), (), multirun, folders)
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]
        given = parser.parse_intermixed_args(texts).overrides
        left, flags = list(given), []
        for text in texts:
            if left and text == left[0]:
                del left[0]
            else:
                flags.append(text)
        return cls(tuple(map(_read, given)), tuple(flags), multirun, folders)

    @property
    def texts(self) -> list[str]:
        """The words as they were given."""
        return [word.text for word in self.words]

    @cached_property
    def names(self) -> list[str]:
        """The groups and top-level settings that words concern, in order."""
        return list(dict.fromkeys(word.name.partition(".")[0] for word in self.words))

    def touching(self, *names: str) -> list[str]:
        """The words that set one of `names`, or something inside."""
        return [word.text for word in self.words if word.concerns(*names)]

    def touches(self, *names: str) -> bool:
        """Whether a word sets one of `names`, or something inside."""
        return bool(self.touching(*names))

    def values(self, name: str) -> tuple[str, ...]:
        """The values that `name` itself is given, several in a sweep; empty where it has none."""
        found = [word.values for word in self.words if word.name == name]
        return found[-1] if found else ()

    def value(self, name: str) -> str | None:
        """The one value that `name` itself is given, or None."""
        values = self.values(name)
        return values[0] if len(values) == 1 else None

    def within(self, *names: str) -> "Overrides":
        """The words that concern `names` alone."""
        return replace(self, words=tuple(w for w in self.words if w.concerns(*names)))

    def without(self, *names: str) -> "Overrides":
        """The words that do not concern `names`."""
        return replace(self, words=tuple(w for w in self.words if not w.concerns(*names)))

    def with_words(self, *texts: str) -> "Overrides":
        """These words, and `texts` in the places of those with the same names."""
        new = {_read(text).name: _read(text) for text in texts}
        kept = [new.pop(word.name, word) for word in self.words]
        return replace(self, words=(*kept, *new.values()))

    @property
    def sweeps(self) -> bool:
        """Whether the line stands for several jobs: by -m, or because a table does."""
        mode, table = self.value("hydra.mode"), self.values("table")
        if mode is not None:
            return mode == "MULTIRUN"
        return self.multirun or (bool(table) and table != ("null",))

    def of_sweep(self) -> list[str]:
        """The words that a sweep as a whole is composed of; jobs may differ in all others."""
        return [*self.folders.words, *self.within(*_OF_SWEEPS).texts]

    def command_line(self) -> list[str]:
        """The line for Hydra; a sweep's words are held back for its jobs, see `sweeper`."""
        if not self.sweeps or self.flags:
            flags = (*self.flags, *(MULTIRUN[:1] if self.multirun else ()))
            return [*flags, *self.folders.words, *self.texts]
        held = self.without("hydra").texts
        words = f"{_SWEEPER}.words=[{','.join(map(_quoted, held))}]"
        others = f"{_SWEEPER}.beside_others={str(self.beside_others).lower()}"
        return [MULTIRUN[0], *self.of_sweep(), words, others]

    def check_names(self) -> None:
        """Refuse what no group and no top-level setting is called, before anything is imported.

        Raises:
            ConfigError: with the nearest name; or a group of the user's that cannot be read.
        """
        settings = yaml.safe_load((config_folder() / "config.yaml").read_text("utf-8"))
        chosen = choices_in({"defaults": settings.pop("defaults")})
        needed = {*settings, *(group for group, option in chosen if option is not None)}
        for word in self.words:
            if word.text[0] == "~" and word.name in needed:
                raise ConfigError(f"{word.text}: every job needs {word.name}; leave it as it is")
            if word.name in self.folders.groups() and any(map(_NO_WORD.fullmatch, word.values)):
                raise ConfigError(f"{word.text}: {word.name} has no such option, which is a word")
        known = {*settings, *self.folders.groups(), CONTROLS}
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise ConfigError("; ".join(unknown_key(name, known, "config") for name in unknown))
        for word in self.words:
            group = word.name.removeprefix("hydra.")
            if group == word.name:
                self._check_options(word)
                self._check_setting(word)
            else:
                _check_hydras(group)
        for name in {*self.names} - {*Folders().groups()}:
            for path in self.folders.options(name).values():
                read_mapping(path)

    def _check_options(self, word: Word) -> None:
        """Refuse an option that a group does not have (ConfigError)."""
        options = self.folders.options(word.name)
        words = [value for value in word.values if options and re.fullmatch(r"\w+", value)]
        unknown = [value for value in words if value not in (*options, "null", "all")]
        if unknown:
            raise ConfigError("; ".join(no_option(v, word.name, options) for v in unknown))

    def _check_setting(self, word: Word) -> None:
        """Refuse a setting that no option of its group has (ConfigError).

        A user's options may put settings anywhere, so with a folder of theirs it is left to Hydra.
        """
        where, *keys = word.name.split(".")
        paths = [] if self.folders.theirs else (config_folder() / where).rglob("*.yaml")
        if not word.changes or not keys:
            return
        files = [read_mapping(path) for path in paths]
        stated: list[Any] = [*files, *(file.get(where) for file in files)]  # global ones name it
        for key in keys:
            groups = [value for value in stated if isinstance(value, Mapping)]
            known = {str(name) for value in groups for name in value} - {"defaults"}
            if groups and key not in known:
                raise ConfigError(unknown_key(key, known, where))
            stated, where = [value.get(key) for value in groups], f"{where}.{key}"


def _check_hydras(name: str) -> None:
    """Refuse a setting that Hydra does not have (ConfigError)."""
    from hydra.conf import HydraConf

    node, where = OmegaConf.structured(HydraConf), "hydra"
    for key in name.split("."):
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is dict:
            return  # of a plugin, or free
        if key not in node.keys():  # noqa: SIM118, as `in` leaves out what has no default
            raise ConfigError(unknown_key(key, map(str, node.keys()), where))
        node, where = node._get_node(key), f"{where}.{key}"


def _refuse(message: str) -> NoReturn:
    refuse_flags(f"{message}; --hydra-help lists Hydra's")


def _quoted(text: str) -> str:
    """A text for one of Hydra's lists, where ${...} must not be replaced yet."""
    plain = text.replace("%", "%25").replace("$", "%24")
    return QuotedString(plain, Quote.single).with_quotes()


def held_words(listed: Iterable[str]) -> list[str]:
    """The words that `Overrides.command_line` held back, out of the sweeper's configuration."""
    return [unquote(text) for text in listed]
