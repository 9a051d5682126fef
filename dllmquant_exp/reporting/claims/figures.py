"""The paper's claims about what goes on inside a decode, decided by recorded numbers.

Interval and p-value come from the values of each prompt, by the test in sign_flip.py. With several
seeds the prompts' values are averaged, and the spread of the seeds' own ratios is added to the
interval: seeds are a random sample, as in paired.SeededAverage.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dllmquant_exp.reporting.claims import (
    NO_EVENT,
    Claim,
    Found,
    Measured,
    Unmeasured,
    claims_data,
)
from dllmquant_exp.reporting.figures.recordings import FigureData, deciding
from dllmquant_exp.reporting.statistics import (
    Estimate,
    RatioTest,
    SeededAverage,
    alpha_of_limit,
    ratio_test,
    t_quantile,
)
from dllmquant_exp.store.schema import read

LEAST_PROMPTS = 6  # with fewer, no outcome of the test has p < 5%
Number = Mapping[str, Any]  # value, n and, per prompt, above and below; see probes/measurement.py


@dataclass(frozen=True, kw_only=True)
class RecordedRatio(Claim):
    """A number of a recorded figure lies above a threshold, or below it."""

    kind = "figures"
    figure: str
    number: tuple[str, ...]
    unit: str = "ratio"

    def measure(self, figures: Sequence[FigureData]) -> Found:
        """The number in the recordings that decide it, or what the claim needs.

        Only recordings with the model's own settings decide, see `recordings.deciding`.

        Args:
            figures: the recordings of one model, see `recordings.of_model`.
        """
        known = [data for data in figures if data.figure == self.figure]
        usual = [data for data in known if not data.changed]
        command = f"the command figures figure={self.figure.removeprefix('figure')}"
        if not usual:
            others = {", ".join(f"{k}={v}" for k, v in data.changed.items()) for data in known}
            more = f" (other settings: {'; '.join(sorted(others))})" if others else ""
            return Unmeasured(command + more)
        best = deciding(usual)
        folders = ", ".join(data.folder.name for data in best)
        try:
            numbers = [self.number_in(data) for data in best]
            prompts = min(number["n"] for number in numbers)
            comparable = any(any(number["below"]) for number in numbers)
        except (KeyError, IndexError, TypeError):
            lacks = f"what is recorded lacks the number; delete {folders}"
            return Unmeasured(f"{command} again ({lacks})")
        if prompts < LEAST_PROMPTS:
            return Unmeasured(f"{command} with at least {LEAST_PROMPTS} prompts")
        if not comparable:
            more = f"more than {prompts} prompts"
            return Unmeasured(f"{more}: in these nothing happened to compare it with", NO_EVENT)
        return self._tested(numbers, folders)

    def number_in(self, data: FigureData) -> Number:
        """The number in a recording.

        Raises:
            KeyError, IndexError, TypeError: the recording lacks it.
        """
        found: Any = data.numbers
        for key in self.number:
            if "{middle}" in key:
                layers = data.arrays["layers"]
                key = key.format(middle=int(layers[len(layers) // 2]))
            found = found[key]
        number: Number = found
        return number

    def _tested(self, numbers: Sequence[Number], what: str) -> Measured:
        """numbers: one per seed, from the same prompts."""
        above, below = (np.array([n[name] for n in numbers], float) for name in ("above", "below"))
        seeds, prompts = above.shape
        ratio = float(above.mean() / below.mean())
        test = ratio_test(above.mean(0), below.mean(0))
        covers = "other prompts of the same task"
        seed_error = 0.0
        if seeds > 1:
            # A seed's own ratio minus the mean's, to first order. The prompts' part in its
            # spread is not taken off: with two or three seeds the test would become too sure.
            spread = (above.mean(1) - ratio * below.mean(1)) / below.mean()
            seed_error = float(spread.std(ddof=1)) / math.sqrt(seeds)
            covers += f" and other seeds ({seeds} were run)"
        items, bounds = Estimate(ratio, *test.interval()), (test.floor, math.inf)
        threshold = self.threshold
        if self.unit == "share":
            items = Estimate(1 - ratio, 1 - items.high, 1 - items.low)
            bounds, threshold = (-math.inf, 1 - bounds[0]), 1 - threshold
        found = SeededAverage(items, seed_error, seeds, covers, bounds)
        p = _p_value(test, ratio, threshold, seed_error, seeds)
        return Measured(found, prompts, what, p, seeds=seeds)


def _p_value(
    test: RatioTest, ratio: float, threshold: float, seed_error: float, seeds: int
) -> float:
    """Two-sided p-value of "the ratio is the threshold": the alpha of the interval that just
    reaches it, which without a spread of seeds is the sign-flip test's own p."""

    def reached(alpha: float) -> bool:
        low, high = test.interval(1 - alpha)
        t = t_quantile(seeds - 1, alpha) * seed_error if seed_error else 0.0
        prompts = ratio - low if threshold < ratio else high - ratio
        return math.hypot(prompts, t) >= abs(ratio - threshold)

    return alpha_of_limit(reached, test.smallest, 1e-6)


@cache
def figure_claims() -> tuple[RecordedRatio, ...]:
    return tuple(_claims())


def _claims() -> Iterator[RecordedRatio]:
    """A claim per entry, or per combination of its `each`, whose words stand in for `{bits}`."""
    for entry in claims_data()["figures"]:
        axes = entry.get("each", {})
        for chosen in itertools.product(*(axis.items() for axis in axes.values())):
            words: dict[str, str] = {}
            for axis, (key, text) in zip(axes, chosen, strict=True):
                words |= {axis: key, f"{axis}_text": text}
            own = {key: _filled(value, words) for key, value in entry.items() if key != "each"}
            yield read(RecordedRatio, own, f"claims.yaml: {own['name']}")


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_filled(part, words) for part in value]
    return value.format(**words) if words and isinstance(value, str) else value
