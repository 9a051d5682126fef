"""JSON has one meaning, or is refused as a ValueError; never in another way."""

import json
from typing import Any

import pytest

from dllmquant_exp.store.strict_json import MOST_LEVELS, parse_json


@pytest.mark.parametrize(
    "value", [None, 1, -1.5, 1e300, 10**40, "ü\u2028", [], {}, {"a": [1, {"b": None}]}, "1e999"]
)
def test_plain_json_is_read(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        assert parse_json(text) == parse_json(text.encode()) == value
        assert parse_json(b"\xef\xbb\xbf" + text.encode()) == value


def nested(levels: int) -> str:
    return '{"a":[' * (levels // 2) + "]}" * (levels // 2)


ODD: dict[str, str | bytes] = {
    "repeated": '{"a": 1, "b": 2, "a": 1}',
    "repeated inside": '[{"x": {"a": 1, "a": 2}}]',
    "not a number": '{"a": NaN}',
    "infinite": "[-Infinity]",
    "infinite by its exponent": "[1, 1e999]",
    "infinite by leading zeros": "-1E+0000400",
    "a whole number without end": "9" * 5000,
    "too deep": nested(MOST_LEVELS + 2),
    "far too deep": nested(800),
    "deeper than the stack": "[" * 100_000,
    "deep on one side": "[1, " * 70 + "2" + "]" * 70,
    "no text": b"\xff\xfe",
    "cut": '{"a": ',
    "nothing": "",
    "two values": "1 2",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_json_is_refused(kind: str) -> None:
    with pytest.raises(ValueError):
        parse_json(ODD[kind])


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse_json(nested(MOST_LEVELS)) == json.loads(nested(MOST_LEVELS))
