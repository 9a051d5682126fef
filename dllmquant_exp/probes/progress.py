"""Bars for long measurements: on a terminal only, and never among the paths on standard output."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")


def watched(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """The items, with a bar while they are worked through."""
    hidden = not sys.stderr.isatty()
    console = Console(stderr=True)
    return track(items, title, total, console=console, transient=True, disable=hidden)
