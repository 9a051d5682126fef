"""Confidence of the full-precision model in every token of a calibration state (CGQ's s_t)."""

from dataclasses import replace

import torch
from torch import Tensor

from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, batches
from dllmquant_exp.models.transformer import Transformer, TransformerConfig, at_least_float32
from dllmquant_exp.store.progress import tracked

LOGITS_AT_ONCE = 2**26  # a quarter of a gigabyte in float32; never fewer than one state's


@torch.no_grad()
def scored(model: Transformer, calibration_set: CalibrationSet, batch_size: int) -> CalibrationSet:
    """The same states with `confidence` and `top` filled in.

    confidence: the probability of the model's best token at a masked position, and of the token
    that stands there elsewhere. top: the highest probability, at every position. Both come from
    the plain model: without temperature, nucleus or guidance. (Dream predicts nothing for position
    0 of a sequence; its values there are computed from that position itself.)

    Args:
        model: in full precision.
        batch_size: states per forward pass, fewer where their logits would be too large.

    Raises:
        CalibrationError: a state that the model cannot read, or logits that are not finite.
    """
    config = model.config
    longest = _check(calibration_set, config)
    fit = max(1, LOGITS_AT_ONCE // (longest * config.vocab_size))
    device = next(model.parameters()).device
    done = {}
    at_once = min(batch_size, fit)
    found = batches(calibration_set, at_once, config.pad_token_id)
    count = -(-len(calibration_set.states) // at_once)
    for batch in tracked(found, "batches of calibration states scored", count):
        tokens = batch.tokens.to(device)
        logits = model(tokens, batch.attention_mask.to(device))
        own, top = (values.cpu() for values in token_probabilities(logits, tokens))
        for state, own_row, top_row in zip(batch.states, own, top, strict=True):
            length = len(state.tokens)
            best = top_row[:length].clone()
            if not (best.isfinite().all() and own_row[:length].isfinite().all()):
                raise CalibrationError(
                    "the model returned NaN or infinite logits for a calibration state; check its "
                    "weights and dtype"
                )
            confidence = torch.where(state.masked, best, own_row[:length])
            done[id(state)] = replace(state, confidence=confidence, top=best)
    states = tuple(done[id(state)] for state in calibration_set.states)
    return replace(calibration_set, states=states)


def _check(calibration_set: CalibrationSet, config: TransformerConfig) -> int:
    """Length of the longest state, when the model can read all of them."""
    longest = max(len(state.tokens) for state in calibration_set.states)
    largest = max(int(state.tokens.max()) for state in calibration_set.states)
    if longest > config.max_length:
        raise CalibrationError(
            f"calibration set {calibration_set.name!r} has a state of {longest} tokens and the "
            f"model has max_length = {config.max_length}; ask for shorter segments or prompts"
        )
    if largest >= config.vocab_size:
        raise CalibrationError(
            f"calibration set {calibration_set.name!r} has the token id {largest}, outside the "
            f"vocabulary of {config.vocab_size}; was it made with the model's own tokenizer?"
        )
    return longest


def token_probabilities(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of `tokens` [B, T] and of the best tokens, from logits [B, T, V]; float32."""
    logits = logits.to(at_least_float32(logits.dtype))
    norm = logits.logsumexp(-1)
    own = logits.gather(-1, tokens[..., None]).squeeze(-1)
    best = logits.amax(-1)
    return (own - norm).exp().float(), (best - norm).exp().float()
