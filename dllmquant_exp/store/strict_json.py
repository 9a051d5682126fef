"""JSON that others may have written: one value per text, or a ValueError that says why not."""

import json
import re
from typing import Any, NoReturn

MOST_LEVELS = 64  # of objects and lists in each other; our own files have eight
_MAYBE_INFINITE = re.compile(r"[eE]\+?\d{3}")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: not JSON; repeated keys, of which parsers take the one or the other; NaN and
            infinite numbers; nesting that later code could not bear.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        if _MAYBE_INFINITE.search(text):
            json.dumps(value, allow_nan=False)
    except RecursionError:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep") from None
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MOST_LEVELS):
        parents = [item.values() if type(item) is dict else item for item in level]
        level = [item for parent in parents for item in parent if type(item) in (dict, list)]
    if level:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is repeated")
    return made


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number that can be used")
