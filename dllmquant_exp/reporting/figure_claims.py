"""The paper's claims about what goes on inside a decode, decided by numbers recorded with figures.

Where the paper gives no number ("a main source", "do not propagate") our reading of it is a
threshold here, and the effect with its interval stands beside the verdict.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.figure_data import FigureData, most_prompts
from dllmquant_exp.reporting.statistics import Estimate

MAIN_SOURCE = 1 / 3  # of QuaRot's error, that goes when the post-softmax product is not quantized
PROPAGATES = 0.1  # of what the same noise does at positions that are decoded next
Number = Mapping[str, Any]  # value, low, high, n


@dataclass(frozen=True)
class FigureClaim:
    """A recorded number lies above `threshold` (or below it).

    Attributes:
        number: takes it from a figure.
        unit: what it is, for a reader.
    """

    name: str
    sentence: str
    figure: str  # figure1, ...
    number: Callable[[FigureData], Number]
    threshold: float
    unit: str = "ratio"
    below: bool = False


@dataclass(frozen=True)
class Measured:
    """An effect, what it is of (rows, or a recorded figure), and over how many items."""

    found: SeededAverage
    n: int
    what: str
    p: float | None = None  # of the claim's own test; None = that of `found`
    logarithm: bool = False  # whether `found` and the threshold are logarithms of what is shown

    @property
    def effect(self) -> Estimate:
        of = self.found.estimate
        return Estimate(self.shown(of.value), self.shown(of.low), self.shown(of.high))

    def shown(self, value: float) -> float:
        """A value of `found` as it is shown."""
        return math.exp(value) if self.logarithm else value


def _growth(bits: str, row: str) -> Callable[[FigureData], Number]:
    def number(data: FigureData) -> Number:
        found: Number = data.numbers["own_states"][f"{bits} {row}"]["last_over_first"]
        return found

    return number


def _noise(measure: str, group: str) -> Callable[[FigureData], Number]:
    """Noise behind the middle one of the blocks that were tried: behind the last, nothing mixes
    positions any more."""

    def number(data: FigureData) -> Number:
        layers = data.arrays["layers"]
        middle = int(layers[len(layers) // 2])
        found: Number = data.numbers[f"{measure}, block {middle}"][f"{group} over high score"]
        return found

    return number


def _propagation() -> Iterable[FigureClaim]:
    for group, text in (("unmasked", "unmasked"), ("low score", "low-score")):
        short = group.replace(" ", "_")
        yield FigureClaim(
            f"{short}_errors_do_not_propagate",
            f"errors at {text} positions do not propagate: in the same step they change other "
            "positions at most a tenth as much as errors at positions decoded next",
            "figure4",
            _noise("logit_change", group),
            PROPAGATES,
            below=True,
        )
        yield FigureClaim(
            f"{short}_errors_matter_less",
            f"errors at {text} positions change fewer tokens of the final response than errors at "
            "positions decoded next",
            "figure4",
            _noise("final_changed", group),
            1.0,
            below=True,
        )


FIGURE_CLAIMS = (
    *(
        FigureClaim(
            f"error_grows_{bits.lower()}_{row}",
            f"the error of {bits} {name} grows from the first to the last decoding step",
            "figure2",
            _growth(bits, row),
            1.0,
        )
        for bits in ("INT8", "INT4")
        for row, name in (("rtn", "RTN"), ("quarot", "QuaRot"))
    ),
    FigureClaim(
        "post_softmax_product_is_a_main_source",
        "the post-softmax product is a main source of accumulated error (at least a third of INT4 "
        "QuaRot's goes without its quantization)",
        "figure2",
        lambda data: data.numbers["own_states"]["INT4 quarot*"]["removed_of_quarot"],
        MAIN_SOURCE,
        unit="share",
    ),
    FigureClaim(
        "early_and_late_states_differ",
        "activations of the first and the last step differ, by more than halves of one step do",
        "figure6",
        lambda data: data.numbers["first_to_last_over_chance"],
        1.0,
    ),
    FigureClaim(
        "adjacent_states_are_alike",
        "activations of adjacent steps differ less than those of the first and the last step",
        "figure1",
        lambda data: data.numbers["first_to_last_over_neighbours"],
        1.0,
    ),
    *_propagation(),
)


def measure(claim: FigureClaim, figures: Iterable[FigureData]) -> Measured | str:
    """The claim's number from the figure with most prompts, the newest of these; or what it needs.

    Args:
        figures: recorded ones of one model.
    """
    known = [data for data in figures if data.figure == claim.figure]
    command = f"the command figures figure={claim.figure.removeprefix('figure')}"
    if not known:
        return command
    best = most_prompts(known)
    number = claim.number(best)
    if number["value"] is None or number["low"] is None:
        return f"{command} with more prompts"
    estimate = Estimate(number["value"], number["low"], number["high"])
    found = SeededAverage(estimate, covers="other prompts of the same task")
    return Measured(found, int(number["n"]), best.folder.name)


def of_model(figures: Iterable[FigureData], model: str) -> list[FigureData]:
    """The figures of one model, by its name."""
    return [data for data in figures if data.info["model"]["name"] == model]
