"""Figure 2: how far a quantized model is from the full-precision one, step by step.

The error of a step is the mean squared difference of the logits at all positions of the response.
It is measured twice:

- on the full-precision model's decode: both models see the same state at every step, so that
  nothing can be passed on, and growth comes from the states alone;
- on each model's own decode: the quantized model sees what it has decoded itself, as in use.

Their difference is the effect of feedback. A sum over steps (the paper's accumulated error) grows
whatever happens, so the errors of single steps are kept: claims are about them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.probes.decodes import Subject, cached_arrays, response_logits
from dllmquant_exp.probes.measurement import Measurement, mean, ratio, share_removed
from dllmquant_exp.probes.probe import Probe
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.run.prepare import prepare

SAME, OWN, DIFFER = "same_states", "own_states", "tokens_differ"
BITS, ROWS = catalog()["figure2"].bits, catalog()["figure2"].rows
Array = NDArray[np.float64]


def accumulated_error(subject: Subject) -> Measurement:
    """Every row at every bit width, one quantized model in memory at a time.

    Arrays, [variants, prompts, steps]: `same_states` and `own_states`, the squared error;
    `tokens_differ`, the share of the response where the two models' own states differ. Variants
    are `labels.bits` x `labels.rows`, bits first.
    """
    variants = [(bits, row) for bits in BITS for row in ROWS]
    errors = [
        _errors_of(subject, _experiment(subject.probe, bits, row), f"{bits} {row}")
        for bits, row in variants
    ]
    arrays = {name: np.stack([of[name] for of in errors]) for name in (SAME, OWN, DIFFER)}
    labels = {"bits": list(BITS), "rows": list(ROWS), "blocks": subject.probe.settings.blocks}
    return Measurement(arrays, labels, error_numbers(arrays, variants))


def variant_configs(probe: Probe) -> dict[str, Any]:
    """The resolved recipe of each variant: part of what names the recording."""
    return {
        f"{bits} {row}": _recipe(_experiment(probe, bits, row)) for bits in BITS for row in ROWS
    }


def _experiment(probe: Probe, bits: str, row: str) -> Experiment:
    return probe.row(*ROWS[row]["words"], *BITS[bits]["words"])


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

    return cached_arrays(subject.probe, "errors", key, make)


def logit_errors(subject: Subject, quantized: Transformer, title: str = "") -> dict[str, Array]:
    """The three arrays of one quantized model, each [prompts, steps]."""
    shape = (len(subject.trajectories), subject.decoding.steps)
    found = {name: np.zeros(shape) for name in (SAME, OWN, DIFFER)}
    own = torch.empty(0)
    for batch in subject.states(subject.logits_batch, title=title):
        own = batch.tokens.clone() if batch.step == 0 else own  # a new batch begins with its masks
        exact = response_logits(subject.model, batch)
        same = response_logits(quantized, batch)
        differ = (batch.tokens != own).sum(1) / subject.decoding.gen_length
        mine = response_logits(quantized, replace(batch, tokens=own)) if differ.any() else same
        place = (batch.place, batch.step)
        found[SAME][place] = squared_error(same, exact)
        found[OWN][place] = squared_error(mine, exact)
        found[DIFFER][place] = differ.cpu().numpy()
        after = subject.committed(mine, batch.of_response(own), batch.step)
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
    """Sums, first and last step, and shares removed, by panel and variant (`INT4 quarot`).

    `last_over_first` compares the last with the first step; `removed_of_quarot` is the share of
    QuaRot's summed error that is gone in a row.
    """
    numbers: dict[str, dict[str, object]] = {SAME: {}, OWN: {}, "feedback": {}}
    sums = {panel: arrays[panel].sum(2) for panel in (SAME, OWN)}  # [variants, prompts]
    for place, (bits, row) in enumerate(variants):
        name, other = f"{bits} {row}", (bits, ROWS[row].get("removed_of"))
        for panel, summed in sums.items():
            errors = arrays[panel][place]
            made: dict[str, object] = {
                "accumulated": mean(summed[place]),
                "first_step": mean(errors[:, 0]),
                "last_step": mean(errors[:, -1]),
                "last_over_first": ratio(errors[:, -1], errors[:, 0]),
            }
            if other in variants:
                before = summed[variants.index(other)]
                made[f"removed_of_{other[1]}"] = share_removed(summed[place], before)
            numbers[panel][name] = made
        numbers["feedback"][name] = {
            "own_over_same_states": ratio(sums[OWN][place], sums[SAME][place]),
            "tokens_differ_at_end": mean(arrays[DIFFER][place][:, -1]),
        }
    return numbers
