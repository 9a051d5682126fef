"""From a sampler to its calibration set: texts, states, the store that cells share."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.sampler import Inputs, Sampler
from dllmquant_exp.calibration.sources import text_source
from dllmquant_exp.calibration.states import CalibrationError, CalibrationSet, sizes
from dllmquant_exp.calibration.storage import cached
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.store.schema import describe


def collect(
    sampler: Sampler,
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    *,
    model_key: str,
    embedded: bool,
    data_root: Path | None,
    seed: int,
    batch_size: int,
    needs_scores: bool,
    folder: Path,
) -> CalibrationSet:
    """The set of a sampler, collected by the full-precision `model` or read from `folder`.

    Args:
        model_key: changes with the model's weights and with what else decides its outputs.
        embedded: texts are the micro-world's, not the official training splits.
        needs_scores: confidences are wanted, also from samplers that do without the model.
        folder: of stored sets, shared by all cells of all sweeps.
    """
    key: Mapping[str, Any] = {
        "name": sampler.name,
        "sampler": describe(sampler),
        "model": model_key,
        "embedded": embedded,
        "data_root": None if data_root is None or embedded else str(data_root),
        "seed": seed,
        "batch_size": batch_size,
    }

    inputs = Inputs(model, tokenizer, text_source(embedded, data_root, seed), seed, batch_size)

    def make() -> CalibrationSet:
        made = sampler.sample(inputs)
        return made if sampler.tokens is None else equal_tokens(made, sampler.tokens, seed=seed)

    found = cached(folder, key, make)
    if found.is_scored or not needs_scores:
        return found
    return cached(folder, {**key, "scores": True}, lambda: inputs.scored(found))


def equal_tokens(calibration_set: CalibrationSet, tokens: int, *, seed: int) -> CalibrationSet:
    """A random part of a set that has as many whole states as fit into `tokens`, in their order.

    States are drawn in random order until the next one does not fit. The report says how many
    tokens there really are.

    Raises:
        CalibrationError: the set has fewer tokens than that, or no state is that short.
    """
    if calibration_set.tokens < tokens:
        raise CalibrationError(
            f"calibration set {calibration_set.name!r} has {calibration_set.tokens} tokens, fewer "
            f"than {tokens}: make it larger first"
        )
    count = len(calibration_set.states)
    room, kept = tokens, []
    for i in random.Random(f"equal tokens {seed}").sample(range(count), count):
        room -= len(calibration_set.states[i].tokens)
        if room < 0:
            break
        kept.append(i)
    chosen = tuple(calibration_set.states[i] for i in sorted(kept))
    if not chosen:
        raise CalibrationError(
            f"no state of {calibration_set.name!r} is as short as {tokens} tokens: allow more"
        )
    part = replace(calibration_set, states=chosen)
    return part.with_report(**sizes(chosen), tokens_asked_for=tokens, states_before=count)
