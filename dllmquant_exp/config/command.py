"""A subcommand: its settings, declared once, its help, and how its words are read."""

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dllmquant_exp.config.folder import Folders
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.schema import unknown_key

PROGRAM = "python -m dllmquant_exp"
CONSOLE = "dllmquant"  # the same, where the package is installed
Given = argparse.Namespace  # settings by name, None where nothing is given; `words` and `folders`


def refuse_flags(message: str) -> NoReturn:
    """Say how a setting is written, in the place of argparse's usage (ConfigError)."""
    flag = re.search(r"arguments: --?([\w.-]+)", message)
    advice = "" if flag is None else f"; settings are written without dashes: {flag[1]}=..."
    raise ConfigError(f"{message}{advice}")


@dataclass(frozen=True)
class Setting:
    """A setting of a command, written name=value."""

    help: str
    default: Any = None  # None: left to the command
    kind: type = str
    choices: tuple[str, ...] = ()
    needed: bool = False
    least: int = 0  # of whole numbers

    def line(self, name: str) -> str:
        """Its line in the help of a command."""
        choices = f" ({', '.join(self.choices)})" if self.choices else ""
        usual = "..." if self.default is None else self.default
        return f"  {f'{name}={usual}':20}{self.help}{choices}"

    def read(self, name: str, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            ConfigError: it stands for none.
        """
        if self.choices and text not in self.choices:
            raise ConfigError(f"{name} = {text!r} is not one of: {', '.join(self.choices)}")
        try:
            value = self.kind(text)
        except ValueError as error:
            wanted = "whole number" if self.kind is int else "number"
            raise ConfigError(f"{name} = {text!r} is not a {wanted}") from error
        if self.kind is int and value < self.least:
            raise ConfigError(f"{name} = {value} must be at least {self.least}")
        return value


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        summary: for the list of commands.
        text: of its own help.
        run: called with what is given, the other words and the folders of options among it;
            returns the exit status.
        composes: all other words belong to an experiment, as in `model=... -m`.
        examples: command lines without the program.
        bare: the setting that a word without `=` gives, as in `ls quant`.
    """

    summary: str
    text: str
    settings: Mapping[str, Setting]
    run: Callable[[Given], int]
    composes: bool = False
    examples: tuple[str, ...] = ()
    bare: str = ""

    def call(self, name: str, words: Sequence[str], folders: Folders) -> int:
        """Run it, or print its help.

        Args:
            name: as users write it.

        Raises:
            ConfigError: words that it does not take.
        """
        parser = self._parser(name)
        parser.error = refuse_flags  # type: ignore[method-assign]
        try:
            flags = parser.parse_intermixed_args(list(words))
        except SystemExit:  # argparse has printed help
            return 0
        values, others = self._read(name, flags.words, folders)
        multirun = ["-m"] if self.composes and flags.multirun else []
        return self.run(Given(**values, words=[*multirun, *others], folders=folders))

    def _parser(self, name: str) -> argparse.ArgumentParser:
        listed = [setting.line(key) for key, setting in self.settings.items()]
        examples = [f"  {PROGRAM} {example}" for example in self.examples]
        parser = argparse.ArgumentParser(
            prog=f"{PROGRAM} {name}",
            usage="%(prog)s [--config-dir FOLDER] [setting=value ...]",
            description=self.text,
            epilog="\n".join(["settings:", *listed, "", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("words", nargs="*", metavar="setting=value", help=argparse.SUPPRESS)
        if self.composes:
            parser.add_argument(
                "-m", "--multirun", action="store_true", help="as without the command"
            )
        return parser

    def _read(
        self, name: str, words: Sequence[str], folders: Folders
    ) -> tuple[dict[str, Any], list[str]]:
        """A command's settings by name, defaults included, and the words that are an experiment's.

        Raises:
            ConfigError: a word that is no setting, is given twice, or is missing.
        """
        values: dict[str, Any] = {}
        others: list[str] = []
        known = self.settings
        for word in words:
            key, equals, text = word.partition("=")
            if self.bare and not equals:
                key, equals, text = self.bare, "=", word
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
            if not equals and not (self.composes and word.startswith("~")):
                raise ConfigError(f"{word!r} is not setting=value, see {PROGRAM} {name} --help")
            if key in values:
                raise ConfigError(f"{key} is given twice")
            if key in known:
                values[key] = known[key].read(key, text)
            elif not self.composes or (near and key not in folders.groups()):
                raise ConfigError(unknown_key(key, known, name))
            else:
                others.append(word)
        missing = [key for key, setting in known.items() if setting.needed and key not in values]
        if missing:
            raise ConfigError(f"{name} needs {' and '.join(f'{key}=...' for key in missing)}")
        return {key: setting.default for key, setting in known.items()} | values, others
