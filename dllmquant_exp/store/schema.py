"""Settings: plain mappings read into frozen dataclasses, with messages that say what to do.

Types, choices and ranges stand on the fields, once:

    bits: Literal[2, 3, 4, 8, 16] = 4
    clip_ratio: Annotated[float, Above(0), AtMost(1)] = 1.0

A small reader instead of OmegaConf's structured configs or pydantic: it suggests the key that was
meant, names the setting by its place in the configuration, and reports all problems of a section
at once.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import operator
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.outside import fault, full_name, is_outside, source_digest

T = TypeVar("T")
TARGET = "_target_"  # names the class of a section, as Hydra does


@dataclasses.dataclass(frozen=True)
class Bound:
    """A limit that the number of a field keeps to; NaN keeps to none."""

    bound: float
    words: ClassVar[str]
    compare: ClassVar[Callable[[Any, Any], Any]]

    def holds(self, value: Any) -> bool:
        return bool(type(self).compare(value, self.bound))

    def __str__(self) -> str:
        return f"{self.words} {self.bound}"


class AtLeast(Bound):
    words, compare = "at least", operator.ge


class Above(Bound):
    words, compare = "above", operator.gt


class AtMost(Bound):
    words, compare = "at most", operator.le


class Settings:
    """Base of dataclasses whose fields are checked whenever one is constructed.

    Raises:
        ConfigError: values of another type, choice or range than their fields declare.
    """

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        problems = []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            try:
                _convert(value, hints[field.name], field.name)
            except TypeError as error:
                problems.append(f"{field.name} = {value!r} {error}")
        if problems:
            raise ConfigError("; ".join(problems))


def read(cls: type[T], section: Any, where: str, *, ignore: Iterable[str] = ()) -> T:
    """Make a `cls` from a configuration section.

    Args:
        cls: a dataclass whose field types are str, int, float, bool, Literal, Annotated with
            bounds, mappings, tuples, other dataclasses or unions of these with None.
        section: the mapping to read.
        where: the section's place in the configuration, for messages.
        ignore: keys of the section that are read elsewhere.

    Raises:
        ConfigError: unknown, missing or mistyped keys, all in one message, or values that the
            dataclass itself refuses.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} is {section!r}, but a group of settings belongs there")
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    given = {str(key): value for key, value in section.items() if key not in set(ignore)}
    problems = [unknown_key(key, fields, where) for key in given if key not in fields]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            try:
                values[name] = _convert(given[name], hints[name], f"{where}.{name}")
            except TypeError as error:
                problems.append(f"{where}.{name} = {given[name]!r} {error}")
        elif _required(field):
            problems.append(f"{where}.{name} is missing")
    if problems:
        raise ConfigError("; ".join(problems))
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def build(section: Any, base: type[T], where: str, *, ignore: Iterable[str] = ()) -> T:
    """Make the object whose class a section names by `_target_`; the other keys are its settings.

    Only for sections of a user's configuration: never for what a checkpoint, a saved model or a
    result file holds.

    Args:
        base: the class that it must derive from.
        where, ignore: see `read`.

    Raises:
        ConfigError: no such class, one that is not a dataclass derived from `base`, or settings
            that it does not take.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} is {section!r}, but a group of settings belongs there")
    cls = _class(section.get(TARGET), base, where)
    try:
        made = read(cls, section, where, ignore=[TARGET, *ignore])
        json.dumps(describe(made), allow_nan=False)  # as results hold it
        return made
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if not is_outside(cls):
            raise
        raise ConfigError(f"{where}.{TARGET} = {full_name(cls)}: {fault(error)}") from error


def describe(value: Any) -> dict[str, Any]:
    """The settings of a dataclass as plain values, and the source of a class from outside.

    Equal descriptions mean equal work: it is what cells and caches are identified by. A class that
    holds others, as a method holds its steps, says its own by a method `describe`.
    """
    if hasattr(value, "describe"):
        return dict(value.describe())
    plain = dataclasses.asdict(value)
    cls = type(value)
    if is_outside(cls):
        plain |= {TARGET: full_name(cls), "source": source_digest(cls)}
    return plain


def plain(value: Any, *, later: Iterable[str] = ()) -> dict[str, Any]:
    """A dataclass as plain values. Fields named in `later` are left out where they have their
    default: descriptions from before there were such settings stay equal to new ones."""
    defaults = {field.name: field.default for field in dataclasses.fields(value)}
    left_out = {name for name in later if getattr(value, name) == defaults[name]}
    return {k: v for k, v in dataclasses.asdict(value).items() if k not in left_out}


def unknown_key(key: str, known: Iterable[str], where: str) -> str:
    """The message for a key that nothing reads, with the nearest one that something does."""
    known = sorted(known)
    near = [name for name in known if key in name.split("_")]  # bits: none of several is meant
    near = near if len(near) > 1 else difflib.get_close_matches(key, known, n=1)
    meant = f"did you mean {' or '.join(map(repr, near))}?"
    hint = meant if near else f"known here: {', '.join(known) or 'none'}"
    return f"{where}.{key} is not a setting ({hint})"


def _class(target: Any, base: type[T], where: str) -> type[T]:
    name = f"{where}.{TARGET} = {target!r}"
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", target):
        raise ConfigError(f"{name} is not the dotted name of a class, such as my_module.MyClass")
    module, _, attribute = target.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} cannot be imported ({error}); put the folder of its module on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name} cannot be imported: {fault(error)}") from error
    if found is None:
        raise ConfigError(f"{name}: {module} has no {attribute}")
    wanted = full_name(base)
    known = isinstance(found, type) and issubclass(found, base) and is_dataclass(found)
    if not known:
        raise ConfigError(f"{name} is not a dataclass derived from {wanted}")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"{name} lacks {lacking}, which every {wanted} defines")
    home = sys.modules.get(found.__module__)  # whose source identifies the class
    at_home = getattr(home, found.__name__, None) is found
    if getattr(home, "__file__", None) is None or not at_home:
        raise ConfigError(f"{name} is of no file; define it by `class` at the top of a module")
    return cast(type[T], found)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's fields with their bounds; quantizers are constructed on every call."""
    return get_type_hints(cls, include_extras=True)


def _required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, or TypeError saying what belongs there."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _bounded(_convert(value, arguments[0], where), arguments[1:])
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal:
        if value in arguments and type(value) in map(type, arguments):
            return value
        raise TypeError(f"is not one of: {', '.join(map(str, arguments))}")
    if (origin is not None and issubclass(origin, Mapping)) or hint is dict:
        return _convert_mapping(value, arguments[-1] if arguments else Any, where)
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, arguments[0], where) for item in value)
        raise TypeError("is not a list")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return read(hint, value, where)
        raise TypeError("is not a group of settings")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise TypeError(f"is not {_kind(hint)}")


def _convert_mapping(value: Any, hint: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("is not a group of settings")
    found = {}
    for key, item in value.items():
        try:
            found[key] = _convert(item, hint, f"{where}.{key}")
        except TypeError as error:
            raise TypeError(f"holds {key} = {item!r}, which {error}") from error
    return found


def _bounded(value: Any, bounds: Iterable[Any]) -> Any:
    """`value` where all bounds hold."""
    known = [bound for bound in bounds if isinstance(bound, Bound)]
    if not all(bound.holds(value) for bound in known):
        raise TypeError(f"must be {' and '.join(map(str, known))}")
    return value


def _convert_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    real = [option for option in options if option is not type(None)]
    reasons = []
    for option in real:
        try:
            return _convert(value, option, where)
        except TypeError as error:
            reasons.append(str(error))
    null = " (null is possible too)" if len(real) < len(options) else ""
    raise TypeError(" and ".join(reasons) + null)


def _kind(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(hint, f"a {getattr(hint, '__name__', hint)}")
