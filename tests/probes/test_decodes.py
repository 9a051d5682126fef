"""Decodes are kept, and every batch of states is what each prompt alone goes through."""

from dataclasses import replace

import pytest
import torch
from made_probes import LENGTH, PROMPTS, STEPS, every_state
from torch import Tensor

from dllmquant_exp.diffusion.trajectory import trajectories
from dllmquant_exp.probes import decodes
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.decodes import Subject, load_subject, response_logits


def test_decodes_are_kept_and_read(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(decodes, "trajectories", refuse)
    again = load_subject(subject.probe)
    assert again.trajectories == subject.trajectories
    prompts = [decode.prompt for decode in subject.trajectories]
    seeds = [0] * len(prompts)
    alone = trajectories(subject.model, prompts, subject.decoding, seeds=seeds, batch_size=1)
    assert tuple(alone) == subject.trajectories


def test_batches_hold_every_state_in_its_place(subject: Subject) -> None:
    mask = subject.model.config.mask_token_id
    seen = set()
    for batch in subject.states(2):
        for row, number in enumerate(batch.prompts):
            keep = batch.attention_mask[row]
            tokens = every_state(subject, number)[batch.step][0]
            assert torch.equal(batch.tokens[row][keep], tokens)
            places = torch.arange(len(tokens))
            assert torch.equal(batch.response[row].nonzero()[:, 0], places[-LENGTH:])
            masks = tokens[-LENGTH:] == mask
            assert torch.equal(batch.of_response(batch.masked)[row], masks)
            seen.add((number, batch.step))
    assert seen == {(number, step) for number in range(PROMPTS) for step in range(STEPS)}


def test_logits_are_cut_to_the_response(subject: Subject) -> None:
    (batch,) = subject.states(PROMPTS, [1])
    logits = response_logits(subject.model, batch)
    for row, number in enumerate(batch.prompts):
        alone: Tensor = subject.model(every_state(subject, number)[1])[0, -LENGTH:]
        torch.testing.assert_close(logits[row], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_committing_step_by_step_is_the_decode(name: str, request: pytest.FixtureRequest) -> None:
    one: Subject = request.getfixturevalue(name)
    mask = one.model.config.mask_token_id
    for decode in one.trajectories:
        response = torch.full((1, LENGTH), mask)
        for step in range(STEPS):
            logits = one.model(torch.cat((torch.tensor([decode.prompt]), response), 1))[:, -LENGTH:]
            response = one.committed(logits, response, step)
        assert tuple(response[0].tolist()) == decode.response


def test_steps_with_nothing_to_decide_are_refused(subject: Subject) -> None:
    idle = replace(subject.trajectories[0], last_masked=(0,) * LENGTH)
    with pytest.raises(ProbeError, match="ask for fewer steps"):
        list(replace(subject, trajectories=(idle,)).states(1))
