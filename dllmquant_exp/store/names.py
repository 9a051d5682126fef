"""Names that become parts of folders and tables: one check, wherever a name comes from."""

import re
from typing import Any

from dllmquant_exp.errors import ConfigError

AVERAGE = "Avg."  # column of the averages over tasks: no task has this label
LONGEST_NAME = 100  # bytes
LONGEST_FOLDER = 255  # bytes that file systems take
_NAME = re.compile(r"\w[\w.+-]*")
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\de.,%±\s\[\]()+-]*$)")  # numbers have signs too
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def check_name(name: Any, where: str, longest: int = LONGEST_NAME) -> str:
    """`name`, which is one plain word and fits in the name of a folder.

    Args:
        where: the setting or file that it comes from, for the message.

    Raises:
        ConfigError: separators, control characters or anything else that no name needs; too long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where} = {name!r:.200} must be a plain folder name (letters, digits, . _ + -)"
        )
    size = len(name.encode())
    if size > longest:
        raise ConfigError(
            f"{where} = {name[:20]}...: name too long ({size} bytes, and folders are called by "
            f"it); take at most {longest}"
        )
    return name


def spreadsheet_text(value: Any) -> Any:
    """A cell of a CSV file: text that a spreadsheet would run as a formula gets a quote."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def markdown_text(text: str) -> str:
    """Markdown without HTML: where a tag would begin stands a plain sign."""
    return _TAG.sub("&lt;", text)
