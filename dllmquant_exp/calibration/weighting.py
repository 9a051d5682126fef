"""The protocol of token weightings: how much every token of a calibration state counts.

GPTQ's Hessian and AWQ's loss are sums over tokens t, here weighted by w_t. A user's own weighting
derives from `TokenWeighting`, and a YAML in the group `cgq` names its class by `_target_`.
"""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dllmquant_exp.calibration.states import (
    CalibrationBatch,
    CalibrationError,
    CalibrationSet,
    CalibrationState,
    padded,
)
from dllmquant_exp.store.schema import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TokenWeighting(Settings, ABC):
    """Says what tokens weigh.

    Attributes:
        name: stands in results and labels.
    """

    name: str

    @property
    def needs_scores(self) -> bool:
        """Whether `weights` reads the confidences of a state."""
        return False

    @abstractmethod
    def weights(self, state: CalibrationState) -> Tensor:
        """w_t of every token of a state, [T] float32, 0 or more."""

    def report(self, calibration_set: CalibrationSet) -> dict[str, Any]:
        """Count the tokens of each class, and average their weights, for the result.

        Classes: masked; decoded (committed tokens of the response); prompt (all of a plain text).
        `constant` says whether all tokens weigh the same, which changes nothing; it is logged as a
        warning.

        Raises:
            CalibrationError: all tokens weigh nothing.
        """
        states = calibration_set.states
        weights = torch.cat([self.weights(state) for state in states])
        masked = torch.cat([state.masked for state in states])
        prompt = torch.cat([torch.arange(len(s.tokens)) < s.prompt_length for s in states])
        if float(weights.max()) == 0:
            raise CalibrationError(
                f"{self.name} gives every token of {calibration_set.name!r} the weight 0; these "
                "settings need calibration states with masks"
            )
        constant = bool(weights.max() == weights.min())
        warnings = []
        if constant:
            warnings.append(
                f"{self.name} gives every token of {calibration_set.name!r} the same weight, so it "
                "changes nothing; calibrate on masked states (tmas, uniform_time) or turn the "
                "score on"
            )
            logger.warning("%s", warnings[0])
        return {
            "masked": _mean(weights, masked),
            "unmasked": _mean(weights, ~masked),
            "decoded": _mean(weights, ~masked & ~prompt),
            "prompt": _mean(weights, ~masked & prompt),
            "least": float(weights.min()),
            "largest": float(weights.max()),
            "constant": constant,
            "warnings": warnings,
        }


def batch_weights(batch: CalibrationBatch, weighting: TokenWeighting | None) -> Tensor:
    """[B, T] float32: 0 at padding; without a weighting 1 elsewhere.

    Raises:
        CalibrationError: weights that are negative or no numbers.
    """
    if weighting is None:
        return batch.attention_mask.float()
    weights = padded([weighting.weights(state) for state in batch.states], 0.0)
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise CalibrationError(
            f"{weighting.name} gives tokens weights that are negative or not finite; a weighting "
            "that reads confidences must say so by `needs_scores`"
        )
    return weights


def _mean(weights: Tensor, where: Tensor) -> dict[str, float | int | None]:
    """Count and mean weight of some tokens; None where there are none."""
    chosen = weights[where]
    mean = float(chosen.double().mean()) if len(chosen) else None
    return {"tokens": len(chosen), "mean_weight": mean}
