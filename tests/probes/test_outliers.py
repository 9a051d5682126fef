"""Figure 10: statistics of made-up tensors and of a small model, against loops over tokens."""

import numpy as np
import pytest
import torch
from made_probes import STEPS, every_state
from torch import Tensor

from dllmquant_exp.models.invariance import blocks_of
from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.outliers import (
    GROUPS,
    KINDS,
    STATISTICS,
    Tally,
    outliers,
)


def rounded(values: list[float]) -> list[float]:
    """One token on 16 levels between its extremes and 0."""
    low, high = min(0.0, *values), max(0.0, *values)
    scale = (high - low) / 15
    zero = round(-low / scale)
    levels = [min(15, max(0, round(value / scale) + zero)) for value in values]
    return [(level - zero) * scale for level in levels]


def naive(tokens: list[list[float]]) -> list[float]:
    """The statistics by their definitions, token by token."""
    peaks = [max(abs(token[i]) for token in tokens) for i in range(len(tokens[0]))]
    errors = [
        sum((a - b) ** 2 for a, b in zip(rounded(token), token, strict=True)) for token in tokens
    ]
    energies = [sum(value**2 for value in token) for token in tokens]
    sizes = [(energy / len(tokens[0])) ** 0.5 for energy in energies]
    largest = [max(map(abs, token)) for token in tokens]
    return [
        max(peaks) / lower_median(peaks),
        lower_median([a / b for a, b in zip(largest, sizes, strict=True)]),
        sum(errors) / sum(energies),
        lower_median([a / b for a, b in zip(errors, energies, strict=True)]),
        max(sizes) / lower_median(sizes),
    ]


def lower_median(values: list[float]) -> float:
    """The middle value; the lower one of two, as torch takes it."""
    return sorted(values)[(len(values) - 1) // 2]


def test_statistics_are_those_of_their_definitions() -> None:
    x = torch.randn(11, 12, generator=torch.Generator().manual_seed(0))
    x[:, 3] += 8  # a large channel
    x[5] *= 20  # a massive token
    tally = Tally()
    tally.add(x[:4], torch.zeros(4, dtype=torch.int64))
    tally.add(x[4:], torch.ones(7, dtype=torch.int64))
    assert tally.statistics() == pytest.approx(naive(x.tolist()), rel=1e-4)
    error, energy = tally.lost(2)
    assert energy == pytest.approx([float(part.pow(2).sum()) for part in (x[:4], x[4:])])
    assert error.sum() / energy.sum() == pytest.approx(tally.statistics()[2])
    channel, token, *_, spread = tally.statistics()
    assert channel > 2 and 2 < token < 12**0.5 and spread > 10


def test_tokens_of_zeros_and_no_tokens() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    tally, with_zeros = Tally(), Tally()
    tally.add(x, torch.zeros(6, dtype=torch.int64))
    with_zeros.add(torch.cat((x, torch.zeros(3, 4))), torch.zeros(9, dtype=torch.int64))
    assert with_zeros.statistics() == tally.statistics()
    assert np.isnan(Tally().statistics()).all()


@pytest.mark.parametrize("architecture", ["llada", "dream"])
def test_a_models_statistics_are_those_of_its_states_one_by_one(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    one: Subject = request.getfixturevalue({"llada": "subject"}.get(architecture, architecture))
    found = outliers(one)
    config = one.model.config
    statistics = found.arrays["statistics"]
    assert statistics.shape == (len(GROUPS), len(KINDS), config.n_layers, len(STATISTICS))
    assert found.labels["steps"] == [0, STEPS // 2]
    assert found.numbers["error"]["values"]["n"] == len(one.trajectories)
    layer, block = 1, list(blocks_of(one.model))[1]
    seen: dict[str, list[Tensor]] = {"v_proj": [], "down_proj": []}
    hooks = [
        block.v_proj.register_forward_hook(lambda _m, _i, y: seen["v_proj"].append(y[0])),
        block.down_proj.register_forward_hook(lambda _m, i, _y: seen["down_proj"].append(i[0][0])),
    ]
    masked = []
    with torch.inference_mode():
        for number in range(len(one.trajectories)):
            for step in (0, STEPS // 2):
                tokens = every_state(one, number)[step]
                masked.append(tokens[0] == config.mask_token_id)
                one.model.hidden(tokens)
    for hook in hooks:
        hook.remove()
    chosen = torch.cat(masked)
    for kind, name in (("values", "v_proj"), ("input of down", "down_proj")):
        x, place = torch.cat(seen[name]), list(KINDS).index(kind)
        for group, where in zip(GROUPS, (chosen, ~chosen), strict=True):
            expected = naive(x[where].tolist())
            own = statistics[GROUPS.index(group), place, layer]
            assert own == pytest.approx(expected, rel=1e-3)
