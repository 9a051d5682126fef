"""Temporal-Mask Adaptive Sampling: the paper's Algorithm 1.

Prompts are decoded by the full-precision model. A state of a decode belongs to a cell: the block
being decided, and the interval that r, the unmasked share, is in.

                     r:   [0, .2)   [.2, .5)   [.5, .8)   [.8, 1]
    block 0  quota           39        26         26         39       states are taken in the
    block 1                  39        26         26         39       order of prompts and steps
    ...                                                               until a cell is full

How open readings are settled (../shared/facts/paper.md has why):
- stored is the state that the model is given, before the step
- blocks count from the first decoded one; the paper's descending t counts from the last
- Dream decodes one block, so its "blocks" are equal parts of the steps and r is the response's;
  then most cells can never be reached, which the report says
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any, Literal

import torch

from dllmquant_exp.calibration.sampling import calibration_state, prompt_seeds
from dllmquant_exp.calibration.scoring import scored
from dllmquant_exp.calibration.states import (
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    describe,
)
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.diffusion.settings import DecodingSettings
from dllmquant_exp.diffusion.trajectory import states, trajectories
from dllmquant_exp.models.transformer import Transformer

logger = logging.getLogger(__name__)
Cell = tuple[int, int]


@dataclass(frozen=True)
class TmasSettings:
    """How Algorithm 1 is read.

    Attributes:
        samples: states over all blocks, before quotas are rounded (the paper's 512).
        blocks: B.
        proportions: share of each interval of r in a block's states; they sum to 1.
        thresholds: where the intervals begin, without the first one's 0.
        ratio_scope: r over the `block` that is being decided, or over the whole `response`.
        stride: take every stride-th step of a decode; prompt i begins at step i mod stride. 1
            considers every step, which is the literal reading.
        rounding: of fractional quotas. `ceil` is what `C < p` admits (520 states at B = 4).
    """

    samples: int = 512
    blocks: int = 4
    proportions: tuple[float, ...] = (0.3, 0.2, 0.2, 0.3)
    thresholds: tuple[float, ...] = (0.2, 0.5, 0.8)
    ratio_scope: Literal["block", "response"] = "block"
    stride: int = 1
    rounding: Literal["ceil", "floor"] = "ceil"

    def __post_init__(self) -> None:
        for name in ("samples", "blocks", "stride"):
            if getattr(self, name) < 1:
                raise CalibrationError(f"tmas: {name} = {getattr(self, name)} must be at least 1")
        shares = [Fraction(str(share)) for share in self.proportions]
        if not shares or min(shares) < 0 or abs(float(sum(shares)) - 1) > 1e-9:
            raise CalibrationError(
                f"tmas: proportions = {self.proportions} must be 0 or more and sum to 1"
            )
        bounds = (0.0, *self.thresholds, 1.0)
        if any(low >= high for low, high in pairwise(bounds)):
            raise CalibrationError(
                f"tmas: thresholds = {self.thresholds} must increase strictly between 0 and 1"
            )
        if len(self.thresholds) + 1 != len(self.proportions):
            raise CalibrationError(
                f"tmas: {len(self.thresholds)} thresholds make {len(self.thresholds) + 1} "
                f"intervals, and there are {len(self.proportions)} proportions"
            )
        for name, known in (("ratio_scope", ("block", "response")), ("rounding", _ROUNDING)):
            if getattr(self, name) not in known:
                raise CalibrationError(
                    f"tmas: {name} = {getattr(self, name)!r} is not one of: {', '.join(known)}"
                )
        if not any(self.quotas):
            raise CalibrationError(
                f"tmas: samples = {self.samples} over {self.blocks} blocks leaves no state in any "
                "cell; ask for more samples"
            )

    @property
    def quotas(self) -> tuple[int, ...]:
        """States per interval, the same in every block."""
        in_block = self.samples // self.blocks
        rounded = _ROUNDING[self.rounding]
        return tuple(rounded(in_block * Fraction(str(share))) for share in self.proportions)

    def interval(self, ratio: float) -> int:
        """Algorithm 1's ClassifyMaskRatio."""
        return sum(ratio >= threshold for threshold in self.thresholds)


_ROUNDING = {"ceil": ceil, "floor": floor}


def tmas(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    decoding: DecodingSettings,
    settings: TmasSettings,
    *,
    seed: int,
    batch_size: int,
) -> CalibrationSet:
    """Decode the prompts in their order and keep the states that Algorithm 1 keeps, scored.

    Decoding ends when all cells are full that this schedule can reach at all.

    Args:
        model: in full precision.
        prompts: token ids, from a training split.
        decoding: LLaDA's must have as many blocks as `settings`.
        batch_size: prompts decoded, and states scored, at once; it changes no choice.

    Returns:
        A set whose report has `quotas` and `filled` [blocks][intervals], and `warnings`, which
        are logged too, about cells that stayed below their quota.

    Raises:
        CalibrationError: another number of blocks, or no state at all.
        DiffusionError: prompts or settings that the model cannot decode.
    """
    _check_blocks(decoding, settings)
    quotas = settings.quotas
    within_reach = {cell for cell in reachable(decoding, settings) if quotas[cell[1]]}
    filled = [[0] * len(quotas) for _ in range(settings.blocks)]
    chosen: list[CalibrationState] = []
    seeds = prompt_seeds(seed, len(prompts))
    decodes = trajectories(model, prompts, decoding, seeds=seeds, batch_size=batch_size)
    used = 0
    for used, trajectory in enumerate(decodes, start=1):
        for visited in states(trajectory, decoding, model.config.mask_token_id):
            if (visited.step - (used - 1)) % settings.stride:
                continue
            by_block = settings.ratio_scope == "block"
            ratio = visited.block_ratio if by_block else visited.response_ratio
            block = visited.step * settings.blocks // decoding.steps
            interval = settings.interval(ratio)
            if filled[block][interval] < quotas[interval]:
                filled[block][interval] += 1
                prompt_length = len(trajectory.prompt)
                chosen.append(calibration_state(visited, prompt_length, block, ratio))
        if all(filled[block][interval] >= quotas[interval] for block, interval in within_reach):
            break
    warnings = _shortfalls(filled, quotas, within_reach, used)
    for warning in warnings:
        logger.warning("tmas: %s", warning)
    report: dict[str, Any] = {
        **describe(chosen),
        "seed": seed,
        "settings": _plain(asdict(settings)),
        "decoding": asdict(decoding),
        "prompts_used": used,
        "quotas": [list(quotas)] * settings.blocks,
        "filled": filled,
        "warnings": warnings,
    }
    return scored(model, CalibrationSet("tmas", tuple(chosen), report), batch_size)


def reachable(decoding: DecodingSettings, settings: TmasSettings) -> set[Cell]:
    """The cells that some step of this schedule falls into; see `visits`."""
    return set(visits(decoding, settings))


def visits(decoding: DecodingSettings, settings: TmasSettings) -> Counter[Cell]:
    """How many steps of a decode fall into each cell.

    It counts masks as the schedule commits them, so it holds where every step commits what it
    should: a model that predicts the mask token itself, or Dream's `origin`, may stray from it.
    """
    found: Counter[Cell] = Counter()
    committed = 0
    for number, step in enumerate(steps_of(decoding)):
        left = step.reach - committed
        if left == 0:
            continue
        in_block = 1 - Fraction(left, decoding.block_length)
        in_response = Fraction(committed, decoding.gen_length)
        ratio = float(in_block if settings.ratio_scope == "block" else in_response)
        found[number * settings.blocks // decoding.steps, settings.interval(ratio)] += 1
        committed += min(left, int(step.commits(torch.tensor([left]))))
    return found


def _check_blocks(decoding: DecodingSettings, settings: TmasSettings) -> None:
    if decoding.architecture == "dream":
        if decoding.steps < settings.blocks:
            raise CalibrationError(
                f"tmas: {decoding.steps} steps cannot be cut into {settings.blocks} blocks"
            )
        return
    blocks = decoding.gen_length // decoding.block_length
    if blocks != settings.blocks:
        raise CalibrationError(
            f"tmas: blocks = {settings.blocks}, but gen_length = {decoding.gen_length} and "
            f"block_length = {decoding.block_length} decode {blocks}; set the block_length of the "
            f"calibration decode to gen_length / {settings.blocks}"
        )


def _shortfalls(
    filled: list[list[int]], quotas: Sequence[int], within_reach: set[Cell], prompts: int
) -> list[str]:
    """What to say about cells below their quota, in at most two sentences."""
    short = [
        (block, interval)
        for block, row in enumerate(filled)
        for interval, count in enumerate(row)
        if count < quotas[interval]
    ]
    missing = list(_listed(filled, quotas, [cell for cell in short if cell in within_reach]))
    never = list(_listed(filled, quotas, [cell for cell in short if cell not in within_reach]))
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
    for block, interval in cells:
        count = f"{filled[block][interval]}/{quotas[interval]}"
        yield f"block {block} interval {interval} ({count})"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
