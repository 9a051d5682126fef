"""The paper's claims about what goes on inside a decode (claims.yaml), decided by recorded numbers.

Interval and p-value come from the values of each prompt, by the test in sign_flip.py. With several
seeds the prompts' values are averaged, and the spread of the seeds' own ratios is added to the
interval: seeds are a random sample, as in comparisons.SeededAverage.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from typing import Any

import numpy as np
import yaml

from dllmquant_exp.reporting.claims import Measured
from dllmquant_exp.reporting.figures.recordings import FigureData, deciding
from dllmquant_exp.reporting.statistics import (
    Estimate,
    RatioTest,
    SeededAverage,
    ratio_test,
    t_quantile,
)

LEAST_PROMPTS = 6  # with fewer, no outcome of the test has p < 5%
Number = Mapping[str, Any]  # value, n and, per prompt, above and below; see probes/measurement.py


@dataclass(frozen=True)
class FigureClaim:
    """A recorded number lies above `threshold` (or below it); claims.yaml explains the fields."""

    name: str
    sentence: str
    figure: str
    number: tuple[str, ...]
    threshold: float
    below: bool
    unit: str = "ratio"

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


@dataclass(frozen=True)
class NoEvent:
    """The effect has nothing to be compared with: its ratio has no value."""

    prompts: int

    def __str__(self) -> str:
        return f"more than {self.prompts} prompts: in these nothing happened to compare it with"


def _claims() -> Iterator[FigureClaim]:
    text = files(__package__).joinpath("claims.yaml").read_text(encoding="utf-8")
    for entry in yaml.safe_load(text):
        axes = entry.pop("each", {})
        for chosen in itertools.product(*(axis.items() for axis in axes.values())):
            words: dict[str, str] = {}
            for axis, (key, its_text) in zip(axes, chosen, strict=True):
                words |= {axis: key, f"{axis}_text": its_text}
            yield _claim(entry, words)


def _claim(entry: Mapping[str, Any], words: Mapping[str, str]) -> FigureClaim:
    def filled(text: str) -> str:
        return text.format(**words) if words else text

    return FigureClaim(
        name=filled(entry["name"]),
        sentence=filled(entry["sentence"]),
        figure=entry["figure"],
        number=tuple(map(filled, entry["number"])),
        threshold=float(Fraction(str(entry["below" if "below" in entry else "above"]))),
        below="below" in entry,
        unit=entry.get("unit", "ratio"),
    )


FIGURE_CLAIMS = tuple(_claims())


def measure(claim: FigureClaim, figures: Iterable[FigureData]) -> Measured | NoEvent | str:
    """The claim's number from the recordings that decide it, or a text that says what it needs.

    Only recordings with the model's own settings decide, see `recordings.deciding`.

    Args:
        figures: the recordings of one model, see `recordings.of_model`.
    """
    known = [data for data in figures if data.figure == claim.figure]
    usual = [data for data in known if not data.changed]
    command = f"the command figures figure={claim.figure.removeprefix('figure')}"
    if not usual:
        others = sorted({", ".join(f"{k}={v}" for k, v in data.changed.items()) for data in known})
        return command + (f" (other settings: {'; '.join(others)})" if others else "")
    best = deciding(usual)
    try:
        numbers = [claim.number_in(data) for data in best]
        prompts = min(number["n"] for number in numbers)
        comparable = any(any(number["below"]) for number in numbers)
    except (KeyError, IndexError, TypeError):
        folders = ", ".join(data.folder.name for data in best)
        return f"{command} again (what is recorded lacks the number; delete {folders})"
    if prompts < LEAST_PROMPTS:
        return f"{command} with at least {LEAST_PROMPTS} prompts"
    if not comparable:
        return NoEvent(prompts)
    return _tested(numbers, claim, ", ".join(data.folder.name for data in best))


def _tested(numbers: Sequence[Number], claim: FigureClaim, what: str) -> Measured:
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
    threshold = claim.threshold
    if claim.unit == "share":
        items = Estimate(1 - ratio, 1 - items.high, 1 - items.low)
        bounds, threshold = (-math.inf, 1 - bounds[0]), 1 - threshold
    found = SeededAverage(items, seed_error, seeds, covers, bounds)
    return Measured(found, prompts, what, _p_value(test, ratio, threshold, seed_error, seeds))


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

    least, most = math.log(test.smallest), 0.0
    while most - least > 1e-6:
        middle = (least + most) / 2
        least, most = (middle, most) if reached(math.exp(middle)) else (least, middle)
    return math.exp(most)
