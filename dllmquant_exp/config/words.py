"""Settings from Python as words of a command line.

`{"quant": {"weight_bits": 3}, "tmas": "on"}` is `quant.weight_bits=3 +tmas=on`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from dllmquant_exp.config.quantized_model import COMPONENTS

_PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[A-Za-z_][\w.+-]*", re.IGNORECASE)


def to_words(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Settings as words of a command line."""
    return tuple(_each(settings, ""))


def _each(settings: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _each(value, f"{prefix}{key}.")
        else:
            plus = "+" if not prefix and key in COMPONENTS else ""
            yield f"{plus}{prefix}{key}={_text(value)}"


def _text(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    text = str(value)
    quoted = isinstance(value, str | Path) and not _PLAIN.fullmatch(text)
    return QuotedString(text, Quote.single).with_quotes() if quoted else text
