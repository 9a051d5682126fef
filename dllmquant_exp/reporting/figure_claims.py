"""The paper's claims about what goes on inside a decode, decided by numbers recorded with figures.

Where the paper gives no number ("a main source", "do not propagate") our reading of it is a
threshold here, and the effect with its interval stands beside the verdict. Interval and p-value
come from the values of each prompt, by the test in sign_flip.py. Of several seeds the prompts'
values are averaged, and the spread of the seeds' own ratios is added to the interval: seeds are a
random sample, as in comparisons.SeededAverage.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dllmquant_exp.reporting.comparisons import SeededAverage
from dllmquant_exp.reporting.figure_data import FigureData, deciding
from dllmquant_exp.reporting.measured import Measured
from dllmquant_exp.reporting.sign_flip import RatioTest, ratio_test
from dllmquant_exp.reporting.statistics import Estimate, t_quantile

MAIN_SOURCE = 1 / 3  # of QuaRot's error, that goes when the post-softmax product is not quantized
PROPAGATES = 0.1  # of what the same noise does at positions that are decoded next
LEAST_PROMPTS = 6  # of fewer, no outcome of the test has p < 5%
PANELS = {  # of Figure 2: what the models are given at each step
    "own_states": "each model on its own states",
    "same_states": "both models on the full-precision model's states",
}
Number = Mapping[str, Any]  # value and, per prompt, above and below; see probes/numbers.py


@dataclass(frozen=True)
class FigureClaim:
    """A recorded number lies above `threshold` (or below it).

    Attributes:
        number: takes it from a figure.
        unit: `ratio`, or `share` for what a ratio leaves of 1.
    """

    name: str
    sentence: str
    figure: str  # figure1, ...
    number: Callable[[FigureData], Number]
    threshold: float
    unit: str = "ratio"
    below: bool = False


def _error(panel: str, variant: str, name: str) -> Callable[[FigureData], Number]:
    def number(data: FigureData) -> Number:
        found: Number = data.numbers[panel][variant][name]
        return found

    return number


def _accumulation() -> Iterator[FigureClaim]:
    """Once where a quantized model's own errors come back to it, and once where they cannot."""
    for panel, text in PANELS.items():
        for bits in ("INT8", "INT4"):
            for row, name in (("rtn", "RTN"), ("quarot", "QuaRot")):
                yield FigureClaim(
                    f"error_grows_{bits.lower()}_{row}_{panel}",
                    f"the error of {bits} {name} grows from the first to the last decoding step, "
                    f"{text}",
                    "figure2",
                    _error(panel, f"{bits} {row}", "last_over_first"),
                    1.0,
                )
    for panel, text in PANELS.items():
        for bits in ("INT8", "INT4"):  # the paper shows INT8
            yield FigureClaim(
                f"post_softmax_product_is_a_main_source_{bits.lower()}_{panel}",
                "the post-softmax product is a main source of accumulated error (at least a third "
                f"of {bits} QuaRot's goes without its quantization), {text}",
                "figure2",
                _error(panel, f"{bits} quarot*", "removed_of_quarot"),
                MAIN_SOURCE,
                unit="share",
            )


def _noise(measure: str, group: str) -> Callable[[FigureData], Number]:
    """Noise behind the middle one of the blocks that were tried: behind the last, nothing mixes
    positions any more."""

    def number(data: FigureData) -> Number:
        layers = data.arrays["layers"]
        middle = int(layers[len(layers) // 2])
        found: Number = data.numbers[f"{measure}, block {middle}"][f"{group} over high score"]
        return found

    return number


def _propagation() -> Iterator[FigureClaim]:
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
    *_accumulation(),
    FigureClaim(
        "early_and_late_states_differ",
        "activations of the first and the last step differ, by more than those of the first step "
        "do among themselves",
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


@dataclass(frozen=True)
class NoEvent:
    """What the effect would be compared to never happened: its ratio has no value."""

    prompts: int

    def __str__(self) -> str:
        return f"more than {self.prompts} prompts: in these nothing happened to compare it with"


def measure(claim: FigureClaim, figures: Iterable[FigureData]) -> Measured | NoEvent | str:
    """The claim's number from the recordings that decide, or what it needs.

    Of those with the model's own settings, see `figure_data.deciding`.

    Args:
        figures: recorded ones of one model, see `of_model`.
    """
    known = [data for data in figures if data.figure == claim.figure]
    usual = [data for data in known if not data.changed]
    command = f"the command figures figure={claim.figure.removeprefix('figure')}"
    if not usual:
        others = sorted({", ".join(f"{k}={v}" for k, v in data.changed.items()) for data in known})
        return command + (f" (other settings: {'; '.join(others)})" if others else "")
    best = deciding(usual)
    try:
        numbers = [claim.number(data) for data in best]
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
    """numbers: one per seed, of the same prompts."""
    above, below = (np.array([n[name] for n in numbers], float) for name in ("above", "below"))
    seeds, prompts = above.shape
    ratio = float(above.mean() / below.mean())
    test = ratio_test(above.mean(0), below.mean(0))
    covers = "other prompts of the same task"
    seed_error = 0.0
    if seeds > 1:
        # What a seed's own ratio adds to the mean's, to first order. What prompts add to its spread
        # is not taken off: of two or three seeds that would make the test too sure.
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


def that_decide(figures: Sequence[FigureData]) -> list[FigureData]:
    """Of one model's recordings those that claims are decided by."""
    usual = [data for data in figures if not data.changed]
    names = sorted({data.figure for data in usual})
    return [one for name in names for one in deciding(d for d in usual if d.figure == name)]


def of_model(
    figures: Iterable[FigureData], model: str, checkpoints: Collection[str] = ()
) -> list[FigureData]:
    """The figures of one model, by its name.

    Args:
        checkpoints: digests of those that the sweep's results are of. A figure of another one is
            kept as one with other settings. Empty, or a figure without digest: not known.
    """
    found = [data for data in figures if data.info["model"]["name"] == model]
    return [_of_checkpoint(data, checkpoints) for data in found]


def _of_checkpoint(data: FigureData, checkpoints: Collection[str]) -> FigureData:
    digest = data.info["config"]["checkpoint_digest"]
    if not checkpoints or digest is None or digest in checkpoints:
        return data
    changed = {**data.changed, "checkpoint": "another than the results'"}
    return replace(data, info={**data.info, "changed": changed})
