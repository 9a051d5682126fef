"""Decodes of small random models, and what their states are without batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dllmquant_exp.diffusion.trajectory import states
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.probe import Probe

PROMPTS, STEPS, LENGTH = 3, 8, 8
GIVEN = {"prompts": PROMPTS, "gen_length": LENGTH, "steps": STEPS, "blocks": 2, "states": 2}


def every_state(one: Subject, number: int) -> list[Tensor]:
    """The tokens [1, T] of each step of one prompt, without a batch and without padding."""
    mask = one.model.config.mask_token_id
    found = states(one.trajectories[number], one.decoding, mask)
    return [torch.tensor([state.tokens]) for state in found]


def hooked(module: torch.nn.Module, run: Callable[[], Any]) -> list[Tensor]:
    """A module's outputs while something runs."""
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _m, _a, output: seen.append(output))
    run()
    hook.remove()
    return seen


def with_settings(probe: Probe, **changes: Any) -> Probe:
    return replace(probe, settings=replace(probe.settings, **changes))
