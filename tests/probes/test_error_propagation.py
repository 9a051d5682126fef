"""Figure 4: the grid against each state, noise against a second decode."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_probes import LENGTH, PROMPTS, STEPS, every_state, with_settings
from torch import Tensor

from dllmquant_exp.diffusion.schedule import llada_steps, steps_of
from dllmquant_exp.diffusion.trajectory import trajectories
from dllmquant_exp.probes import error_propagation
from dllmquant_exp.probes.arguments import ProbeError
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.error_propagation import (
    GROUPS,
    decode_and_noise,
    noisy_steps,
    positions_of_groups,
    propagation,
    status_grid,
)
from dllmquant_exp.reporting.figures.maps import KEPT, MASKED, NEW


def test_the_grid_says_what_each_state_and_its_successor_say(subject: Subject) -> None:
    decode = subject.trajectories[0]
    mask = subject.model.config.mask_token_id
    masked = [tokens[0, -LENGTH:] == mask for tokens in every_state(subject, 0)]
    masked.append(torch.tensor(decode.response) == mask)
    expected = np.array([
        [KEPT if not now[i] else MASKED if then[i] else NEW for i in range(LENGTH)]
        for now, then in itertools.pairwise(masked)
    ])  # fmt: skip
    assert np.array_equal(status_grid(decode.last_masked, STEPS), expected)


def test_scores_are_probabilities_of_best_and_standing_tokens(subject: Subject) -> None:
    found = decode_and_noise(subject)
    mask = subject.model.config.mask_token_id
    for step, tokens in enumerate(every_state(subject, 0)):
        p = subject.model(tokens)[0, -LENGTH:].softmax(-1)
        standing = tokens[0, -LENGTH:]
        own = p[torch.arange(LENGTH), standing]
        score = torch.where(standing == mask, p.amax(-1), own)
        assert found.arrays["scores"][step] == pytest.approx(score.numpy(), abs=1e-5)
    assert len(found.labels["tokens"]) == LENGTH


@pytest.mark.parametrize("name", ["subject", "dream"])
def test_noise_spreads_from_the_first_block_and_not_from_the_last(
    name: str, request: pytest.FixtureRequest
) -> None:
    found = propagation(request.getfixturevalue(name))
    change, final = found.arrays["logit_change"], found.arrays["final_changed"]
    assert found.arrays["layers"].tolist() == [0, 1, 2]
    assert change.shape == final.shape == (3, len(GROUPS), PROMPTS)
    assert not change[-1].any() and not final[-1, GROUPS.index("unmasked")].any()
    assert (change[:2] > 0).all()
    assert (final >= 0).all() and (final <= 1).all()


def test_noise_at_committed_positions_is_what_a_second_decode_shows(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a noisy decode against `generate`'s own loop, with a hook in that one step."""
    loud = replace(subject, probe=with_settings(subject.probe, noise=10.0))
    monkeypatch.setattr(error_propagation, "noisy_steps", lambda *_: [2])
    found = propagation(loud).arrays["final_changed"]
    model, mask = subject.model, subject.model.config.mask_token_id
    for number, decode in enumerate(subject.trajectories):
        new = torch.tensor(decode.last_masked) == 2

        calls = [0]

        def add(
            _m: Any, _a: Any, output: Tensor, new: Tensor = new, n: int = number, c: Any = calls
        ) -> Tensor:
            if c[0] != 3:  # calls are counted from 1
                return output
            vectors = torch.randn(
                int(new.sum()), 32, generator=torch.Generator().manual_seed(2**20 * n + 2)
            )
            changed = output.clone()
            changed[0, -LENGTH:][new] += 10 * output.square().mean().sqrt() * vectors
            return changed

        counter = model.register_forward_pre_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))  # type: ignore[misc]
        hook = model.blocks[1].register_forward_hook(add)
        (ended,) = trajectories(model, [decode.prompt], subject.decoding, seeds=[0], batch_size=1)
        hook.remove()
        counter.remove()
        assert mask not in ended.response
        wrong = np.mean(np.array(ended.response) != np.array(decode.response))
        assert found[1, 0, number] == pytest.approx(wrong)


def test_groups_are_equally_large_and_disjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(4, 10, 7, generator=generator)
    masked = torch.zeros(4, 10, dtype=torch.bool)
    masked[:, 3:] = True
    committed = torch.zeros_like(masked)
    committed[:, 4:6] = True
    high, low, unmasked = positions_of_groups(exact, masked, committed, seed=0)
    assert torch.equal(high, committed)
    for group in (low, unmasked):
        assert group.sum(1).tolist() == [2] * 4
    assert not (unmasked & masked).any() and not (low & ~masked).any() and not (low & high).any()
    score = exact.softmax(-1).amax(-1)
    for row in range(4):
        rest = score[row][masked[row] & ~high[row] & ~low[row]]
        assert score[row][low[row]].max() <= rest.min()


def test_noisy_steps_are_the_middle_of_each_block(subject: Subject) -> None:
    assert noisy_steps(steps_of(subject.decoding), LENGTH, 2) == [2]  # two masks are left in step 7
    assert noisy_steps(llada_steps(32, 8, 32), 32, 4) == [4, 12, 20, 28]
    with pytest.raises(ProbeError, match="longer response"):
        noisy_steps(steps_of(subject.decoding)[:1], LENGTH, 1)
