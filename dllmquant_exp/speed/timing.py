"""Times of several variants side by side in one process.

In each round every variant runs once, in random order, so that whatever else the machine does hits
all of them. Ratios are taken within a round, medians and quartiles over the rounds.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

SHORTEST = 5e-3  # seconds of one sample; shorter calls are repeated within it


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median over rounds, and the quartiles around it."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {"median": median, "low": low, "high": high}


def interleaved(
    variants: Mapping[str, Callable[[], float]], rounds: int, seed: int
) -> dict[str, list[float]]:
    """The seconds of each variant in each round.

    Args:
        variants: each runs once and returns its seconds.
        seed: of the order within the rounds.
    """
    order, times = random.Random(seed), {name: [] for name in variants}  # type: ignore[var-annotated]
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            times[name].append(variants[name]())
    return times


def seconds(run: Callable[[], Any], calls: int = 1) -> float:
    """Wall time of one call, averaged over `calls`."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def sampled(run: Callable[[], Any]) -> Callable[[], float]:
    """A sample long enough to be timed; the warm-up is done here."""
    run()
    calls = max(1, round(SHORTEST / seconds(run)))
    return lambda: seconds(run, calls)


class Stopwatch:
    """Seconds spent in some modules while `running`; modules inside each other count twice."""

    def __init__(self) -> None:
        self.total = 0.0
        self._started: list[float] = []

    @contextmanager
    def running(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        hooks = [m.register_forward_pre_hook(self._start) for m in modules]
        hooks += [m.register_forward_hook(self._stop) for m in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _start(self, *_: object) -> None:
        self._started.append(time.perf_counter())

    def _stop(self, *_: object) -> None:
        self.total += time.perf_counter() - self._started.pop()
