"""Certainty-Guided Quantization: a token's weight from its mask and confidence (Eq. 10).

    H = sum_t w_t x_t x_t^T       w_t = (i_t + sqrt(s_t))^2

The indicator i is 1 where a token is masked and 0.7 elsewhere; the score s is the full-precision
model's confidence. Table 3's ablations: without scores w = i^2; without masks the indicator is
dropped, w = s, or set to one.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from torch import Tensor

from dllmquant_exp.calibration.states import CalibrationError, CalibrationState
from dllmquant_exp.calibration.weighting import TokenWeighting
from dllmquant_exp.store.schema import AtLeast, AtMost

Indicator = Annotated[float, AtLeast(0), AtMost(1e6)]


@dataclass(frozen=True, kw_only=True)
class Cgq(TokenWeighting):
    """A reading of Eq. 10.

    Attributes:
        formula: squared_sum (i + sqrt(s))^2 as printed; product i^2 * s; sum i + s.
        masked, unmasked: the indicator's two values.
        score: whether confidences count.
        mask: whether masked and unmasked tokens differ.
        unmasked_score: s of prompt and decoded tokens, which the paper leaves open: the
            probability of the token that stands there (own), of the model's best one (max), 0, 1.
        mask_off: with `mask` off, drop the indicator or set it to one.
    """

    formula: Literal["squared_sum", "product", "sum"] = "squared_sum"
    masked: Indicator = 1.0
    unmasked: Indicator = 0.7
    score: bool = True
    mask: bool = True
    unmasked_score: Literal["own", "max", "zero", "one"] = "own"
    mask_off: Literal["drop", "one"] = "drop"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    @property
    def needs_scores(self) -> bool:
        return self.score

    def weights(self, state: CalibrationState) -> Tensor:
        """w_t of every token of a state, [T] float32.

        Raises:
            CalibrationError: the state lacks the scores, or they are no probabilities.
        """
        i = torch.where(state.masked, self.masked, self.unmasked).double()
        if not self.score:
            return (i if self.formula == "sum" else i.square()).float()
        s = self._scores(state)
        if not self.mask:
            if self.mask_off == "drop":
                return s.float()
            i = torch.ones_like(s)
        w = {"squared_sum": (i + s.sqrt()).square(), "product": i.square() * s, "sum": i + s}
        return w[self.formula].float()

    def _scores(self, state: CalibrationState) -> Tensor:
        if not state.is_scored:
            raise CalibrationError(
                f"{self.name} needs confidences and this calibration state has none; call `scored` "
                "with the full-precision model first"
            )
        unmasked = {
            "own": state.confidence,
            "max": state.top,
            "zero": torch.zeros_like(state.confidence),
            "one": torch.ones_like(state.confidence),
        }[self.unmasked_score]
        s = torch.where(state.masked, state.confidence, unmasked).double()
        if not bool(((s >= 0) & (s <= 1 + 1e-5)).all()):  # softmax in float32 may exceed 1
            raise CalibrationError(
                f"confidences from {float(s.min())} to {float(s.max())} are no probabilities"
            )
        return s


def _check(cgq: Cgq) -> None:
    """Refuse settings that would change nothing (CalibrationError)."""
    if not (cgq.score or cgq.mask):
        raise CalibrationError("score and mask are both off, so it has no effect; leave it out")
    idle = {"score": ("unmasked_score",), "mask": ("masked", "unmasked")}
    defaults = {field.name: field.default for field in fields(cgq)}
    for switch, names in idle.items():
        for name in names:
            if not getattr(cgq, switch) and getattr(cgq, name) != defaults[name]:
                raise CalibrationError(f"{name} has no effect with {switch} off")
    if cgq.mask and cgq.mask_off != "drop":
        raise CalibrationError("mask_off has no effect with mask on")
    if not cgq.mask and cgq.mask_off == "one" and cgq.formula == "product":
        raise CalibrationError("a product is the same with mask_off one and drop")
