"""Figure 2: errors of quantized models against single states, and what is measured once."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_probes import GIVEN, LENGTH, PROMPTS, STEPS, every_state

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.diffusion.trajectory import trajectories
from dllmquant_exp.probes import logit_error
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.logit_error import OWN, SAME, error_numbers, logit_errors
from dllmquant_exp.probes.probe import read_probe
from dllmquant_exp.run import prepare as preparation
from dllmquant_exp.run.prepare import Prepared


def test_an_unquantized_copy_has_no_error(subject: Subject) -> None:
    found = logit_errors(subject, copy.deepcopy(subject.model))
    assert all(values.shape == (PROMPTS, STEPS) and not values.any() for values in found.values())


def test_errors_are_those_of_each_state_alone(subject: Subject) -> None:
    other = copy.deepcopy(subject.model)
    with torch.no_grad():
        for block in other.blocks:
            block.up_proj.weight *= 1.5  # type: ignore[operator, union-attr]
    found = logit_errors(subject, other)
    prompts = [decode.prompt for decode in subject.trajectories]
    own = tuple(
        trajectories(other, prompts, subject.decoding, seeds=[0] * PROMPTS, batch_size=PROMPTS)
    )
    assert own != subject.trajectories  # else the two panels could not be told apart
    changed = replace(subject, trajectories=own)
    for number in range(PROMPTS):
        pairs = zip(every_state(subject, number), every_state(changed, number), strict=True)
        for step, (same, mine) in enumerate(pairs):
            exact = subject.model(same)[0, -LENGTH:]
            for name, state in ((SAME, same), (OWN, mine)):
                error = float(torch.nn.functional.mse_loss(other(state)[0, -LENGTH:], exact))
                assert found[name][number, step] == pytest.approx(error, rel=1e-3, abs=1e-9)
            differ = float((same != mine).sum()) / LENGTH
            assert found["tokens_differ"][number, step] == pytest.approx(differ)


def test_error_numbers_are_ratios_of_sums() -> None:
    variants = [("INT4", "quarot"), ("INT4", "quarot*")]
    rising = np.tile(np.arange(1.0, 5), (5, 1))
    values = np.stack([rising, 0.25 * rising])
    arrays = {SAME: values, OWN: 2 * values, "tokens_differ": np.zeros_like(values)}
    found = error_numbers(arrays, variants)
    star = found[SAME]["INT4 quarot*"]
    assert isinstance(star, dict)
    assert star["removed_of_quarot"]["value"] == 0.75
    assert star["removed_of_quarot"]["above"] == [2.5] * 5  # what is left, prompt by prompt
    assert star["removed_of_quarot"]["below"] == [10.0] * 5
    assert star["last_over_first"]["value"] == 4
    assert star["accumulated"]["value"] == 2.5
    feedback = found["feedback"]["INT4 quarot*"]
    assert isinstance(feedback, dict) and feedback["own_over_same_states"]["value"] == 2


def test_what_is_not_calibrated_is_measured_once_for_all_seeds(
    subject: Subject, words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RTN has no calibration set: its errors do not depend on the seed."""
    monkeypatch.setattr(logit_error, "BITS", {"INT4": logit_error.BITS["INT4"]})
    rows = {name: logit_error.ROWS[name] for name in ("rtn", "quarot")}
    monkeypatch.setattr(logit_error, "ROWS", rows)
    prepared = []

    def prepare(experiment: Experiment) -> Prepared:
        prepared.append((experiment.row.name, experiment.common.seed))
        return replace(unquantized, model=copy.deepcopy(subject.model))

    unquantized = preparation.prepare(subject.probe.experiment)
    monkeypatch.setattr(logit_error, "prepare", prepare)
    for seed in (0, 1):
        probe = read_probe(GIVEN, [*words(name="once"), f"seed={seed}"])
        logit_error.accumulated_error(replace(subject, probe=probe))
    assert prepared == [("rtn", 0), ("quarot", 0), ("quarot", 1)]
