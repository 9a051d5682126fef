"""Temporal-Mask Adaptive Sampling: the paper's Algorithm 1.

Prompts are decoded by the full-precision model. A state of a decode belongs to a cell: the block
being decided, and the interval m that r, the unmasked share, is in.

                     r:   [0, .2)   [.2, .5)   [.5, .8)   [.8, 1]
    block 0  quota           39        26         26         39       states are taken in the
    block 1                  39        26         26         39       order of prompts and steps
    ...                                                               until a cell is full

Algorithm 1 leaves some things open. They are settled here, or by a setting, as follows:

- The counter test C < p admits ceil(p) states where a quota p is fractional. 512 samples and four
  blocks give p = 38.4, 25.6, 25.6, 38.4, so 520 states (`rounding`).
- Line 15 stores x, which the algorithm never updates. Stored is the state that the model is given
  at step t, before the step commits anything.
- t descends, so the paper's blocks count from the end, and block B occurs where B does not divide
  T. Here blocks count from the first one decoded, in equal parts of the steps.
- r may be taken over the block being decided or over the whole response (`ratio_scope`). Over the
  response, each block sees a part of r's range only, and 182 of the 520 places can be filled; "512
  samples" needs the block.
- Filling greedily takes many neighbouring steps of a few prompts, while the text speaks of
  "specific intervals" (`stride`; 1 is the literal reading).
- Dream decodes one block. Its "blocks" are equal parts of the steps, and r is over the response.
  Most cells can then never be reached, which the report says.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Annotated, Any, Literal

import torch

from dllmquant_exp.calibration.sampler import (
    Count,
    DecodingSampler,
    Inputs,
    calibration_state,
)
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    sizes,
)
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.store.schema import Above, AtLeast, AtMost, describe

logger = logging.getLogger(__name__)
Cell = tuple[int, int]  # block, m


@dataclass(frozen=True, kw_only=True)
class Tmas(DecodingSampler):
    """A reading of Algorithm 1.

    Attributes:
        samples: states over all blocks, before quotas are rounded (the paper's 512).
        blocks: B.
        texts: training data sets that the prompts X are taken from.
        proportions: share of each interval of r in a block's states; they sum to 1.
        thresholds: where the intervals begin, without the first one's 0.
        ratio_scope: r over the `block` that is being decided, or over the whole `response`.
        stride: take every stride-th step of a decode; prompt i begins at step i mod stride.
        rounding: of fractional quotas.
    """

    samples: Count = 512
    blocks: Count = 4
    texts: tuple[str, ...]
    proportions: tuple[Annotated[float, AtLeast(0), AtMost(1)], ...] = (0.3, 0.2, 0.2, 0.3)
    thresholds: tuple[Annotated[float, Above(0)], ...] = (0.2, 0.5, 0.8)
    ratio_scope: Literal["block", "response"] = "block"
    stride: Count = 1
    rounding: Literal["ceil", "floor"] = "ceil"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def sample(self, inputs: Inputs) -> CalibrationSet:
        """Decode prompts in their order and keep the states that Algorithm 1 keeps.

        Decoding ends when all cells are full that this schedule can reach at all.

        Returns:
            A set whose report has `quotas` and `filled` [blocks][intervals], and `warnings`, which
            are logged too, about cells that stayed below their quota.
        """
        architecture = inputs.model.config.architecture
        # Algorithm 1's letters: prompts X, quotas p, counters C, collected states D. More prompts
        # than states are never needed.
        X = inputs.prompts(self.texts, self.samples)
        p = self.quotas
        C = [[0] * len(p) for _ in range(self.blocks)]
        D: list[CalibrationState] = []
        reachable = {(block, m) for block, m in self.visits(architecture) if p[m]}
        used = 0
        for used, (prompt_length, steps) in enumerate(self.decodes(inputs, X), start=1):
            for x in steps:
                if (x.step - (used - 1)) % self.stride:
                    continue
                r = x.block_ratio if self.ratio_scope == "block" else x.response_ratio
                block, m = self.block(x.step), self.interval(r)
                if C[block][m] < p[m]:
                    D.append(calibration_state(x, prompt_length, block, r))
                    C[block][m] += 1
            if all(C[block][m] >= p[m] for block, m in reachable):
                break
        report: dict[str, Any] = {
            **sizes(D),
            "seed": inputs.seed,
            "decoding": describe(self.decoding(architecture)),
            "prompts_used": used,
            "quotas": [list(p)] * self.blocks,
            "filled": C,
            "warnings": _shortfalls(C, p, reachable, used),
        }
        for warning in report["warnings"]:
            logger.warning("%s: %s", self.name, warning)
        return inputs.scored(CalibrationSet(self.name, tuple(D), report))

    @property
    def least_texts(self) -> int:
        return self.samples

    @property
    def passes(self) -> float:
        """Passes for about as many decodes as fill the cell that they visit least for its quota."""
        in_block = self.steps / self.blocks
        widths = [high - low for low, high in pairwise((0.0, *self.thresholds, 1.0))]
        visits = [max(1, int(width * in_block)) for width in widths]
        decodes = self.stride * max(p / n for p, n in zip(self.quotas, visits, strict=True))
        return min(decodes, self.samples) * self.steps / self.samples + 1

    @property
    def quotas(self) -> tuple[int, ...]:
        """p: states per interval, the same in every block."""
        n = self.samples // self.blocks
        rounded = ceil if self.rounding == "ceil" else floor
        return tuple(rounded(n * Fraction(str(share))) for share in self.proportions)

    def block(self, step: int) -> int:
        """The block that a step belongs to: the steps in equal parts."""
        return step * self.blocks // self.steps

    def interval(self, r: float) -> int:
        """Algorithm 1's ClassifyMaskRatio."""
        return sum(r >= threshold for threshold in self.thresholds)

    def visits(self, architecture: Architecture) -> Counter[Cell]:
        """Number of steps of a decode that fall into each cell.

        It counts masks as the schedule commits them, so it holds where every step commits what it
        should: a model that predicts the mask token itself may stray from it.
        """
        decoding = self.decoding(architecture)
        visits: Counter[Cell] = Counter()
        committed = 0
        for number, step in enumerate(steps_of(decoding)):
            left = step.reach - committed
            if left == 0:
                continue
            in_block = 1 - Fraction(left, decoding.block_length)
            in_response = Fraction(committed, decoding.gen_length)
            r = float(in_block if self.ratio_scope == "block" else in_response)
            visits[self.block(number), self.interval(r)] += 1
            committed += min(left, int(step.commits(torch.tensor([left]))))
        return visits


def _shortfalls(
    filled: list[list[int]], quotas: Sequence[int], reachable: set[Cell], prompts: int
) -> list[str]:
    """Warnings about cells below their quota, at most two."""
    short = [
        (block, m)
        for block, row in enumerate(filled)
        for m, count in enumerate(row)
        if count < quotas[m]
    ]
    missing = list(_listed(filled, quotas, [cell for cell in short if cell in reachable]))
    never = list(_listed(filled, quotas, [cell for cell in short if cell not in reachable]))
    warnings = []
    if missing:
        warnings.append(
            f"all {prompts} prompts were decoded and these cells are below their quota: "
            f"{', '.join(missing)}; give more prompts"
        )
    if never:
        warnings.append(
            "no step of this decoding schedule falls into these cells: "
            f"{', '.join(never)}; the set is smaller by that"
        )
    return warnings


def _listed(filled: list[list[int]], quotas: Sequence[int], cells: list[Cell]) -> Iterator[str]:
    for block, m in cells:
        yield f"block {block} interval {m} ({filled[block][m]}/{quotas[m]})"


def _check(tmas: Tmas) -> None:
    """Refuse settings that do not fit together (CalibrationError)."""
    shares, bounds = tmas.proportions, (0.0, *tmas.thresholds, 1.0)
    if abs(float(sum(Fraction(str(share)) for share in shares)) - 1) > 1e-9:
        raise CalibrationError(f"proportions = {shares} must sum to 1")
    if any(low >= high for low, high in pairwise(bounds)):
        raise CalibrationError(
            f"thresholds = {tmas.thresholds} must increase strictly between 0 and 1"
        )
    if len(bounds) != len(shares) + 1:
        raise CalibrationError(
            f"{len(tmas.thresholds)} thresholds make {len(bounds) - 1} intervals, and there are "
            f"{len(shares)} proportions"
        )
    if tmas.steps < tmas.blocks:
        raise CalibrationError(f"{tmas.steps} steps cannot be cut into {tmas.blocks} blocks")
    if not any(tmas.quotas):
        raise CalibrationError(
            f"samples = {tmas.samples} over {tmas.blocks} blocks leaves no state in any cell; ask "
            "for more samples"
        )
