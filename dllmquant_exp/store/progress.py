"""Progress of long work: a bar on a terminal, elsewhere a line of the log at least every minute.

with within("micro_gsm8k (3 of 9)"), progress("answers", 200) as advance:
    advance(0.5)  # parts of one count too

micro_gsm8k (3 of 9), answers: 43 of 200 (22%) in 05:10, about 18:50 left
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS = 60.0  # between two lines of the log
FORMAT = "  {desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} [{elapsed}<{remaining}]"
logger = logging.getLogger(__name__)
_titles: list[str] = []  # of the work around


@contextmanager
def within(title: str) -> Iterator[None]:
    """Name the work around whatever tells its progress while the block runs."""
    _titles.append(title)
    try:
        yield
    finally:
        _titles.pop()


def around() -> tuple[str, ...]:
    """The names of the work around, the outermost first."""
    return tuple(_titles)


@contextmanager
def progress(title: str, total: float, done: float = 0) -> Iterator[Callable[[float], None]]:
    """Show the progress of some work while the block runs.

    Args:
        total: counts of the whole work.
        done: of these, before it begins.

    Returns:
        A function to be told of each count, or part of one, that is done.
    """
    desc, start, over = ", ".join([*_titles, title]), time.monotonic(), threading.Event()
    hidden, count = not sys.stderr.isatty(), [done]
    bar = tqdm(total=total, initial=done, desc=desc, bar_format=FORMAT, leave=False, disable=hidden)

    def advance(more: float) -> None:
        count[0] += more
        bar.update(more)

    def speak() -> None:
        while not over.wait(SECONDS):
            logger.info("  %s", told(desc, count[0], total, done, time.monotonic() - start))

    if hidden:
        threading.Thread(target=speak, daemon=True).start()
    try:
        yield advance
    finally:
        over.set()
        bar.close()


def told(desc: str, count: float, total: float, done: float, elapsed: float) -> str:
    """One line about work, `done` of whose counts were there at its beginning."""
    left = ""
    if count > done:
        left = f", about {duration(elapsed / (count - done) * (total - count))} left"
    share = count / total if total else 1.0
    return f"{desc}: {count:.0f} of {total:.0f} ({share:.0%}) in {duration(elapsed)}{left}"


def duration(seconds: float) -> str:
    """`05:10`, or `1:05:10`."""
    return str(tqdm.format_interval(seconds))


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """The items, with progress as they are asked for."""
    with progress(title, total) as advance:
        for item in items:
            yield item
            advance(1)
