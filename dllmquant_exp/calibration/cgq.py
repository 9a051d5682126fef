"""Certainty-Guided Quantization: what every calibration token weighs (Eq. 10's coefficients).

A token's weight w_t is made of its indicator i (1 where it is masked, 0.7 elsewhere) and of its
score s (the full-precision model's confidence):

    squared_sum   w = (i + sqrt(s))^2     Eq. 10 as printed, H = sum_t w_t x_t x_t^T
    product       w = i^2 * s
    sum           w = i + s

Table 3's ablations: without scores w = i^2 (`sum`: i); without masks the indicator is dropped,
w = s, or set to one.
"""

import logging
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dllmquant_exp.calibration.states import (
    CalibrationBatch,
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    padded,
)

logger = logging.getLogger(__name__)
Formula = Literal["squared_sum", "product", "sum"]
UnmaskedScore = Literal["own", "max", "zero", "one"]
MaskOff = Literal["drop", "one"]


@dataclass(frozen=True)
class CgqSettings:
    """How Eq. 10 is read.

    Attributes:
        formula: squared_sum | product | sum, see above.
        masked, unmasked: the indicator's two values.
        score: whether confidences count.
        mask: whether masked and unmasked tokens differ.
        unmasked_score: s of prompt and decoded tokens, which the paper leaves open: the
            probability of the token that stands there (own), of the model's best one (max), 0, 1.
        mask_off: with `mask` off, drop the indicator or set it to one.

    Raises:
        CalibrationError: at construction, for unknown values and for settings without effect.
    """

    formula: Formula = "squared_sum"
    masked: float = 1.0
    unmasked: float = 0.7
    score: bool = True
    mask: bool = True
    unmasked_score: UnmaskedScore = "own"
    mask_off: MaskOff = "drop"

    def __post_init__(self) -> None:
        choices = {"formula": Formula, "unmasked_score": UnmaskedScore, "mask_off": MaskOff}
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                known = ", ".join(get_args(choice))
                raise CalibrationError(
                    f"cgq: {name} = {getattr(self, name)!r} is not one of: {known}"
                )
        if not (0 <= self.masked < float("inf") and 0 <= self.unmasked < float("inf")):
            raise CalibrationError(
                f"cgq: masked = {self.masked} and unmasked = {self.unmasked} must be 0 or more"
            )
        if not (self.score or self.mask):
            raise CalibrationError("cgq: with score and mask both off it has no effect; leave it")
        idle = {"score": ("unmasked_score",), "mask": ("masked", "unmasked")}
        defaults = {field.name: field.default for field in fields(self)}
        for switch, names in idle.items():
            for name in names:
                if not getattr(self, switch) and getattr(self, name) != defaults[name]:
                    raise CalibrationError(f"cgq: {name} has no effect with {switch} off")
        if self.mask and self.mask_off != "drop":
            raise CalibrationError("cgq: mask_off has no effect with mask on")
        if not self.mask and self.mask_off == "one" and self.formula == "product":
            raise CalibrationError("cgq: a product is the same with mask_off one and drop")


def token_weights(state: CalibrationState, settings: CgqSettings) -> Tensor:
    """w_t of every token of a state, [T] float32, 0 or more.

    Raises:
        CalibrationError: scores are asked for and the state has none, or they are no probabilities.
    """
    indicator = torch.where(state.masked, settings.masked, settings.unmasked).double()
    if not settings.score:
        return (indicator if settings.formula == "sum" else indicator.square()).float()
    score = _scores(state, settings.unmasked_score)
    if not settings.mask:
        if settings.mask_off == "drop":
            return score.float()
        indicator = torch.ones_like(score)
    if settings.formula == "squared_sum":
        weights = (indicator + score.sqrt()).square()
    elif settings.formula == "product":
        weights = indicator.square() * score
    else:
        weights = indicator + score
    return weights.float()


def _scores(state: CalibrationState, unmasked_score: UnmaskedScore) -> Tensor:
    if not state.is_scored:
        raise CalibrationError(
            "cgq needs confidences and this calibration state has none; call `scored` with the "
            "full-precision model first"
        )
    unmasked = {
        "own": state.confidence,
        "max": state.top,
        "zero": torch.zeros_like(state.confidence),
        "one": torch.ones_like(state.confidence),
    }[unmasked_score]
    score = torch.where(state.masked, state.confidence, unmasked).double()
    if not bool(((score >= 0) & (score <= 1 + 1e-5)).all()):  # softmax in float32 may exceed 1
        raise CalibrationError(
            f"confidences from {float(score.min())} to {float(score.max())} are no probabilities"
        )
    return score


def batch_weights(batch: CalibrationBatch, settings: CgqSettings | None) -> Tensor:
    """[B, T] float32 as a `BlockBatch` wants them: 0 at padding; without settings 1 elsewhere."""
    if settings is None:
        return batch.attention_mask.float()
    return padded([token_weights(state, settings) for state in batch.states], 0.0)


def weight_report(calibration_set: CalibrationSet, settings: CgqSettings) -> dict[str, Any]:
    """How many tokens of each class there are and what they weigh on average, for the result.

    Classes: masked; decoded (committed tokens of the response); prompt (all of a plain text).
    `constant` says whether all tokens weigh the same, which makes CGQ plain GPTQ; it is logged as
    a warning.

    Raises:
        CalibrationError: all tokens weigh nothing.
    """
    weights = torch.cat([token_weights(state, settings) for state in calibration_set.states])
    masked = torch.cat([state.masked for state in calibration_set.states])
    prompt = torch.cat(
        [torch.arange(len(s.tokens)) < s.prompt_length for s in calibration_set.states]
    )
    if float(weights.max()) == 0:
        raise CalibrationError(
            f"cgq gives every token of {calibration_set.name!r} the weight 0; these settings need "
            "calibration states with masks"
        )
    constant = bool(weights.max() == weights.min())
    warnings = []
    if constant:
        warnings.append(
            f"cgq gives every token of {calibration_set.name!r} the same weight, so it changes "
            "nothing; calibrate on masked states (tmas, uniform_time) or turn the score on"
        )
        logger.warning("%s", warnings[0])
    return {
        "settings": asdict(settings),
        "masked": _mean(weights, masked),
        "unmasked": _mean(weights, ~masked),
        "decoded": _mean(weights, ~masked & ~prompt),
        "prompt": _mean(weights, ~masked & prompt),
        "least": float(weights.min()),
        "largest": float(weights.max()),
        "constant": constant,
        "warnings": warnings,
    }


def _mean(weights: Tensor, where: Tensor) -> dict[str, float | int | None]:
    """Count and mean weight of some tokens; None where there are none."""
    chosen = weights[where]
    mean = float(chosen.double().mean()) if len(chosen) else None
    return {"tokens": len(chosen), "mean_weight": mean}
