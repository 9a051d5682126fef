"""Calibration states and sets of them: what every sampler makes and every method measures.

prompt ........ | response: committed and masked tokens
0         prompt_length                              T
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dllmquant_exp.errors import Refusal

PLAIN_TEXT = -1  # block and step of a state that no decode went through


class CalibrationError(Refusal):
    """Calibration data or settings that cannot be used as asked."""


@dataclass(frozen=True, eq=False)
class CalibrationState:
    """One input of the model, as it is given to it.

    Attributes:
        tokens: [T] int64, masks included.
        masked: [T] bool, the positions that were still to be decided.
        prompt_length: tokens before the response; T for plain text.
        confidence: [T] float32, the probability that the full-precision model gives the token at
            each position: its own best one where it is masked. NaN before `scored`.
        top: [T] float32, the highest probability at each position. NaN before `scored`.
        block, step: where in the decode, from 0; PLAIN_TEXT where there was none.
        ratio: unmasked share of the block or of the response (the paper's r); 1 for plain text.
    """

    tokens: Tensor
    masked: Tensor
    prompt_length: int
    confidence: Tensor
    top: Tensor
    block: int
    step: int
    ratio: float

    def __post_init__(self) -> None:
        types = {
            "tokens": torch.int64,
            "masked": torch.bool,
            "confidence": torch.float32,
            "top": torch.float32,
        }
        for name, dtype in types.items():
            tensor = getattr(self, name)
            if tensor.dtype != dtype or tensor.shape != (len(self.tokens),):
                raise CalibrationError(
                    f"{name} must be {dtype} of shape [{len(self.tokens)}], as many as tokens; it "
                    f"is {tensor.dtype} of shape {list(tensor.shape)}"
                )
        if not 0 <= self.prompt_length <= len(self.tokens) or len(self.tokens) == 0:
            raise CalibrationError(
                f"a state of {len(self.tokens)} tokens cannot have a prompt of {self.prompt_length}"
            )

    @property
    def is_scored(self) -> bool:
        """Whether confidences are known at every token."""
        return not bool(self.confidence.isnan().any() or self.top.isnan().any())


def unscored_state(
    tokens: Sequence[int],
    masked: Sequence[bool],
    prompt_length: int,
    *,
    block: int = PLAIN_TEXT,
    step: int = PLAIN_TEXT,
    ratio: float = 1.0,
) -> CalibrationState:
    """A state whose confidences are not known yet; see `confidence.scored`."""
    unknown = torch.full((len(tokens),), torch.nan, dtype=torch.float32)
    return CalibrationState(
        tokens=torch.tensor(tokens, dtype=torch.int64),
        masked=torch.tensor(masked, dtype=torch.bool),
        prompt_length=prompt_length,
        confidence=unknown,
        top=unknown,
        block=block,
        step=step,
        ratio=ratio,
    )


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """States from one sampler.

    Attributes:
        name: of the sampler.
        states: at least one.
        report: what the sampler did, as JSON-able values, for the result file.
    """

    name: str
    states: tuple[CalibrationState, ...]
    report: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.states:
            raise CalibrationError(
                f"calibration set {self.name!r} is empty: give the sampler more texts or prompts, "
                "or ask for more samples"
            )

    @property
    def tokens(self) -> int:
        """Tokens of all states, prompts included."""
        return sum(len(state.tokens) for state in self.states)

    @property
    def is_scored(self) -> bool:
        """Whether all states carry confidences."""
        return all(state.is_scored for state in self.states)

    @cached_property
    def digest(self) -> str:
        """sha256 of the states, in their order: every tensor and every number.

        Confidences are part of it, so another batch size or thread count may change it through
        their last bits. Name and report are not.
        """
        digest = hashlib.sha256()
        for state in self.states:
            numbers = (len(state.tokens), state.prompt_length, state.block, state.step, state.ratio)
            digest.update(repr(numbers).encode())
            for tensor in (state.tokens, state.masked, state.confidence, state.top):
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def with_report(self, **entries: Any) -> "CalibrationSet":
        return replace(self, report={**self.report, **entries})


def sizes(states: Sequence[CalibrationState]) -> dict[str, int]:
    """Counts and lengths of states: the beginning of every set's report."""
    return {
        "states": len(states),
        "tokens": sum(len(state.tokens) for state in states),
        "masked_tokens": sum(int(state.masked.sum()) for state in states),
        "shortest": min((len(state.tokens) for state in states), default=0),
        "longest": max((len(state.tokens) for state in states), default=0),
    }


@dataclass(frozen=True, eq=False)
class CalibrationBatch:
    """Right-padded states. tokens: [B, T] int64; attention_mask: [B, T] bool, True at real ones."""

    tokens: Tensor
    attention_mask: Tensor
    states: tuple[CalibrationState, ...]


def batches(
    calibration_set: CalibrationSet, batch_size: int, pad_id: int
) -> list[CalibrationBatch]:
    """The states in batches of similar length, longest first, so that memory peaks at the start.

    States of one length keep their order.
    """
    ordered = sorted(calibration_set.states, key=lambda state: -len(state.tokens))
    return [
        _batch(tuple(ordered[start : start + batch_size]), pad_id)
        for start in range(0, len(ordered), batch_size)
    ]


def _batch(states: tuple[CalibrationState, ...], pad_id: int) -> CalibrationBatch:
    tokens = padded([state.tokens for state in states], pad_id)
    real = padded([torch.ones_like(state.masked) for state in states], False)
    return CalibrationBatch(tokens, real, states)


def padded(rows: Sequence[Tensor], value: float) -> Tensor:
    """Rows [T_i] as one tensor [B, max T_i], filled up on the right."""
    return pad_sequence(list(rows), batch_first=True, padding_value=value)
