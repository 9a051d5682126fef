"""Sampling and confidences, one distribution at a time, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from dllmquant_exp.diffusion import sampling
from dllmquant_exp.diffusion.sampling import (
    categorical,
    confidence_of,
    dream_logits,
    gumbel_argmax,
    most_confident,
)

LOGITS = torch.tensor([1.0, -0.5, 2.0, 0.3, -3.0, 1.2], dtype=torch.float64)


def p_value(tokens: Tensor, probabilities: Tensor) -> float:
    observed = torch.bincount(tokens, minlength=len(probabilities)).numpy()
    expected = probabilities.numpy() * len(tokens)
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_argmax_samples_softmax_at_the_temperature(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = gumbel_argmax(LOGITS.expand(20_000, -1), temperature, generator)
    assert p_value(tokens, (LOGITS / temperature).softmax(-1)) > 1e-3
    assert p_value(tokens, (LOGITS / (temperature * 1.2)).softmax(-1)) < 1e-3  # the test can fail


def test_gumbel_argmax_survives_logits_whose_exp_overflows() -> None:
    logits = LOGITS + 5000
    drawn = gumbel_argmax(logits.expand(20_000, -1), 1.0, torch.Generator().manual_seed(1))
    assert p_value(drawn, LOGITS.softmax(-1)) > 1e-3


def test_categorical_samples_softmax_and_never_a_token_outside_the_nucleus() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = categorical(LOGITS.expand(20_000, -1), generator)
    assert p_value(tokens, LOGITS.softmax(-1)) > 1e-3
    few = dream_logits(LOGITS.expand(5_000, -1), 1.0, 0.6)
    assert set(categorical(few, generator).tolist()) == {2, 5}


def test_categorical_skips_tokens_of_probability_zero_even_at_u_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zeros = torch.zeros(1, 1, dtype=torch.float64)
    monkeypatch.setattr(sampling, "uniform", lambda *_: zeros)
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0]])
    assert categorical(logits, torch.Generator()).tolist() == [1]


@given(
    logits=st.lists(st.floats(-4, 4), min_size=2, max_size=12, unique=True),
    top_p=st.floats(0.05, 0.99),
)
def test_nucleus_keeps_the_fewest_tokens_with_more_than_top_p(
    logits: list[float], top_p: float
) -> None:
    row = torch.tensor([logits], dtype=torch.float64)
    kept = dream_logits(row, 0.0, top_p)[0]
    p = row[0].softmax(-1)
    inside = kept.isfinite()
    assert torch.equal(kept[inside], row[0][inside])
    assert p[inside].min() >= (p[~inside].max() if (~inside).any() else 0)
    if inside.sum() > 1:  # without its last token the nucleus has at most top_p
        assert p[inside].sum() - p[inside].min() <= top_p + 1e-12
    if (~inside).any():
        assert p[inside].sum() > top_p - 1e-12


def test_a_token_stays_behind_exactly_top_p() -> None:
    kept = dream_logits(torch.tensor([[0.5, 0.25, 0.25]]).log(), 0.0, 0.5)[0]
    assert kept.isfinite().tolist() == [True, True, False]


def test_nucleus_of_the_whole_vocabulary_changes_nothing() -> None:
    assert torch.equal(dream_logits(LOGITS[None], 0.0, 1.0)[0], LOGITS)
    assert torch.equal(dream_logits(LOGITS[None], 0.5, 1.0)[0], LOGITS * 2)


def test_confidences_of_a_distribution_known_by_heart() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    token = torch.tensor([1])
    assert confidence_of(logits, token, "low_confidence").item() == pytest.approx(0.25)
    assert confidence_of(logits, token, "maskgit_plus").item() == pytest.approx(0.25)
    assert confidence_of(logits, token, "topk_margin").item() == pytest.approx(0.25)
    entropy = confidence_of(logits, token, "entropy").item()
    assert entropy == pytest.approx(-1.5 * math.log(2), abs=1e-9)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(0, 6)),
        min_size=1,
        max_size=5,
    )
)
def test_most_confident_breaks_ties_to_the_left(rows: list[tuple[list[int], int]]) -> None:
    confidence = torch.tensor([scores for scores, _ in rows], dtype=torch.float64)
    chosen = most_confident(confidence, torch.tensor([k for _, k in rows]))
    for (scores, k), taken in zip(rows, chosen.tolist(), strict=True):
        best = sorted(range(6), key=lambda i: (-scores[i], i))[:k]
        assert [i for i in range(6) if taken[i]] == sorted(best)
