"""Plain mappings into frozen dataclasses, with messages that say which key, where and what to do.

A small reader instead of OmegaConf's structured configs: it reads the `Literal` and `X | None`
fields of the rooms' own dataclasses, suggests the key that was meant, and reports every problem
of a section at once.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message says which key and what would work."""


def read(cls: type[T], section: Any, where: str, *, ignore: Iterable[str] = ()) -> T:
    """Make a `cls` from a configuration section.

    Args:
        cls: a dataclass whose field types are str, int, float, bool, Literal, mappings, tuples,
            other dataclasses or unions of these with None.
        section: the mapping to read.
        where: the section's place in the configuration, for messages.
        ignore: keys of the section that somebody else reads.

    Raises:
        ConfigError: unknown, missing or mistyped keys, all in one message, or values that the
            dataclass itself refuses.
    """
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where} is {section!r}, but a group of settings belongs there")
    hints = get_type_hints(cls)
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


def unknown_key(key: str, known: Iterable[str], where: str) -> str:
    """The message for a key that nothing reads, with the nearest one that something does."""
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"{where}.{key} is not a setting ({hint})"


def _required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _convert(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint`, or TypeError saying what belongs there."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise TypeError(f"is not one of: {', '.join(map(str, arguments))}")
    if (origin is not None and issubclass(origin, Mapping)) or hint is dict:
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError("is not a group of settings")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, arguments[0], where) for item in value)
        raise TypeError("is not a list")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return read(hint, value, where)
        raise TypeError("is not a group of settings")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    raise TypeError(f"is not {_kind(hint)}")


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
