"""JSON that others may have written: one value per text, or a ValueError that says why not."""

import json
import re
from codecs import BOM_UTF8
from typing import Any, NoReturn

import orjson

MOST_LEVELS = 64  # of objects and lists in each other; our own files have eight
_KEY = re.compile(rb'"\s*:')


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: not JSON; repeated keys, of which parsers take the one or the other; NaN and
            infinite numbers; nesting that later code could not bear.
    """
    written = text.encode() if isinstance(text, str) else text.removeprefix(BOM_UTF8)
    try:
        value = orjson.loads(written)
    except orjson.JSONDecodeError:  # Python's parser says what is wrong in plainer words
        value = _show_each_key(written)
    keys = 0
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MOST_LEVELS):
        keys += sum(len(item) for item in level if type(item) is dict)
        parents = [item.values() if type(item) is dict else item for item in level]
        level = [item for parent in parents for item in parent if type(item) in (dict, list)]
    if level:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    # Each key is counted, and now and then a quote that a text holds.
    if len(_KEY.findall(written)) > keys:
        _show_each_key(written)
    return value


def _show_each_key(written: bytes) -> Any:
    """The value as Python's own parser sees it, pair by pair: five times slower."""
    try:
        value = json.loads(written, object_pairs_hook=_object, parse_constant=_no_number)
        json.dumps(value, allow_nan=False)  # refuses 1e999
    except RecursionError:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is repeated")
    return made


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number that can be used")
