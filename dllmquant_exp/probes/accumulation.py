"""Figure 2: how far a quantized model is from the full-precision one, step by step.

The error of a step is the mean squared difference of the logits at all positions of the response.
It is measured twice:

- on the full-precision model's decode: both models see the same state at every step, so that
  nothing can be passed on, and what grows does so because states differ;
- on each model's own decode: the quantized model sees what it has decoded itself, as in use.

Their difference is what feedback adds. A sum over steps (the paper's accumulated error) grows
whatever happens, so the errors of single steps are kept: claims are about them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.diffusion.schedule import steps_of
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.probes import numbers
from dllmquant_exp.probes.greedy import commit
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.progress import watched
from dllmquant_exp.probes.settings import Probe
from dllmquant_exp.probes.subject import (
    Subject,
    cached_arrays,
    device_of,
    response_logits,
    state_batches,
)
from dllmquant_exp.run.prepare import prepare

BITS = {"INT8": "w8a8", "INT4": "w4a4"}
STAR = "quarot*"  # P V stays in full precision
ROWS: dict[str, tuple[str, ...]] = {
    "rtn": ("row=rtn",),
    "quarot": ("row=quarot",),
    STAR: ("row=quarot", "quant.attention=null"),
    "dllmquant_plusplus": ("row=dllmquant_plusplus",),
}
SAME, OWN = "same_states", "own_states"
Array = NDArray[np.float64]


def accumulated_error(subject: Subject) -> Measured:
    """Every row at every bit width, one quantized model in memory at a time.

    Arrays, [variants, prompts, steps]: `same_states` and `own_states`, the squared error;
    `tokens_differ`, the share of the response where the two models' own states differ. Variants
    are `labels.bits` x `labels.rows`, bits first.
    """
    found: dict[str, list[Array]] = {SAME: [], OWN: [], "tokens_differ": []}
    variants = [(bits, row) for bits in BITS for row in ROWS]
    for bits, row in variants:
        errors = _errors_of(subject, _experiment(subject.probe, bits, row), f"{bits} {row}")
        for name, values in found.items():
            values.append(errors[name])
    arrays = {name: np.stack(values) for name, values in found.items()}
    labels = {"bits": list(BITS), "rows": list(ROWS), "blocks": subject.probe.settings.blocks}
    return Measured(arrays, labels, error_numbers(arrays, variants))


def variant_configs(probe: Probe) -> dict[str, Any]:
    """What makes each variant, resolved: part of what names the recorded figure."""
    return {
        f"{bits} {row}": _recipe(_experiment(probe, bits, row)) for bits in BITS for row in ROWS
    }


def _experiment(probe: Probe, bits: str, row: str) -> Experiment:
    return probe.row(*ROWS[row], f"quant={BITS[bits]}")


def _recipe(experiment: Experiment) -> dict[str, Any]:
    cell = experiment.cell_config(experiment.tasks[0])
    parts = ("method", "quant", "calibration", "cgq", "iaaq", "execution")
    return {name: cell[name] for name in parts}


def _errors_of(subject: Subject, experiment: Experiment, title: str) -> dict[str, Array]:
    """Measured once for each variant, so that a killed figure goes on behind the last one; and
    once for all seeds where nothing is calibrated."""
    seed = None if experiment.calibration is None else experiment.common.seed
    key = subject.probe.key() | _recipe(experiment) | {"seed": seed}

    def make() -> dict[str, Array]:
        return logit_errors(subject, prepare(experiment).model, title)

    return cached_arrays(subject.probe.runs_dir, "errors", key, make)


def logit_errors(subject: Subject, quantized: Transformer, title: str = "") -> dict[str, Array]:
    """The three arrays of one quantized model, each [prompts, steps]."""
    decodes, decoding = subject.trajectories, subject.decoding
    config, rows = subject.model.config, subject.logits_batch
    names = (SAME, OWN, "tokens_differ")
    found = {name: np.zeros((len(decodes), decoding.steps)) for name in names}
    device = device_of(subject.model)
    made = state_batches(config, decodes, decoding, rows, device=device)
    total = -(-len(decodes) // rows) * decoding.steps
    own = torch.empty(0)
    for batch in watched(made, title, total):
        own = batch.tokens.clone() if batch.step == 0 else own  # a new batch begins with its masks
        exact = response_logits(subject.model, batch)
        same = response_logits(quantized, batch)
        differ = (batch.tokens != own).sum(1) / decoding.gen_length
        mine = response_logits(quantized, replace(batch, tokens=own)) if differ.any() else same
        place = (slice(batch.prompts.start, batch.prompts.stop), batch.step)
        found[SAME][place] = squared_error(same, exact)
        found[OWN][place] = squared_error(mine, exact)
        found["tokens_differ"][place] = differ.cpu().numpy()
        response = own[batch.response].view(len(own), -1)
        step = steps_of(decoding)[batch.step]
        after = commit(mine, response, config.mask_token_id, step, decoding.remasking)
        own[batch.response] = after.flatten()
    return found


def squared_error(logits: Tensor, exact: Tensor) -> Array:
    """Mean squared difference of each request: [B, positions, vocab] twice -> [B]."""
    difference = (logits - exact).square_().mean((1, 2), dtype=torch.float64)
    found: Array = difference.cpu().numpy()
    return found


def error_numbers(
    arrays: dict[str, Array], variants: list[tuple[str, str]]
) -> dict[str, dict[str, object]]:
    """By panel and variant (`INT4 quarot`): sums, first and last step, and shares removed.

    `last_over_first` compares the last with the first step; `removed_of_quarot` is the share of
    QuaRot's summed error that is gone in a row.
    """
    found: dict[str, dict[str, object]] = {}
    for panel in (SAME, OWN):
        by_variant = dict(zip(variants, arrays[panel], strict=True))
        for (bits, row), errors in by_variant.items():
            made: dict[str, object] = {
                "accumulated": numbers.mean(errors.sum(1)),
                "first_step": numbers.mean(errors[:, 0]),
                "last_step": numbers.mean(errors[:, -1]),
                "last_over_first": numbers.ratio(errors[:, -1], errors[:, 0]),
            }
            if row in (STAR, "dllmquant_plusplus") and (bits, "quarot") in by_variant:
                quarot = by_variant[bits, "quarot"].sum(1)
                made["removed_of_quarot"] = numbers.share_removed(errors.sum(1), quarot)
            found.setdefault(panel, {})[f"{bits} {row}"] = made
    feedback: dict[str, object] = {}
    for place, (bits, row) in enumerate(variants):
        own, same = (arrays[panel][place].sum(1) for panel in (OWN, SAME))
        feedback[f"{bits} {row}"] = {
            "own_over_same_states": numbers.ratio(own, same),
            "tokens_differ_at_end": numbers.mean(arrays["tokens_differ"][place][:, -1]),
        }
    return found | {"feedback": feedback}
