"""The random masks of both estimators: counts, probabilities, weights, and what they depend on."""

from fractions import Fraction
from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dllmquant_exp.diffusion import LikelihoodSettings
from dllmquant_exp.diffusion.masking import draw_masks, dream_masks, llada_masks


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=50)
@given(
    L=st.integers(1, 40), b=st.integers(1, 33), batches=st.integers(1, 3), seed=st.integers(0, 999)
)
def test_llada_masks_exactly_x_tokens_and_weighs_them_by_length_over_x(
    L: int, b: int, batches: int, seed: int
) -> None:
    masks = llada_masks(L, b, batches, seeded(seed))
    counts = masks.masked.sum(1)
    assert masks.masked.shape == (batches * b, L)
    expected = L / counts.double() / (batches * b)
    assert torch.allclose(masks.weights, expected, rtol=1e-14, atol=0)
    # every batch is the published progression for some k, halves rounded up
    half = Fraction(1, 2)
    progressions = [
        [(floor(k + Fraction(i * L, b) + half) - 1) % L + 1 for i in range(b)]
        for k in range(1, L + 1)
    ]
    for batch in counts.reshape(batches, b).tolist():
        assert batch in progressions


@pytest.mark.parametrize(("L", "b"), [(2, 4), (4, 8), (3, 2), (5, 4)])
def test_every_llada_sample_has_a_uniform_count_and_uniform_positions(L: int, b: int) -> None:
    """Rounding halves to even fails this at (2, 4) and (4, 8): some samples never mask one."""
    many = 3000
    masks = llada_masks(L, b, many, seeded(L)).masked.reshape(many, b, L)
    for sample in range(b):
        counts = torch.bincount(masks[:, sample].sum(1), minlength=L + 1)[1:]
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    by_position = masks.float().mean((0, 1))
    assert torch.allclose(by_position, torch.full((L,), (L + 1) / (2 * L)), atol=0.02)


@pytest.mark.parametrize(("L", "counts"), [(2, [6, 10]), (4, [4, 12, 4, 12])])
def test_halves_to_even_gives_the_published_codes_counts(L: int, counts: list[int]) -> None:
    """Of batches of 8, one for every k, as the published line draws them."""
    published = []
    for k in range(1, L + 1):
        x = torch.round(torch.linspace(float(k), k + 7 * (L / 8), steps=8)).long()
        published.append(((x - 1) % L + 1).tolist())
    drawn = llada_masks(L, 8, 400, seeded(0), "halves_to_even").masked.sum(1).reshape(-1, 8)
    assert {tuple(batch) for batch in drawn.tolist()} == {tuple(batch) for batch in published}
    flat = [x for batch in published for x in batch]
    assert [flat.count(x) for x in range(1, L + 1)] == counts


def test_counts_of_one_batch_are_spread_over_the_whole_range() -> None:
    for seed in range(20):
        counts = llada_masks(8, 8, 1, seeded(seed)).masked.sum(1)
        assert sorted(counts.tolist()) == list(range(1, 9))


def test_dream_weights_are_one_over_a_stratified_probability() -> None:
    b, batches = 8, 400
    masks = dream_masks(6, b, batches, seeded(0), first_visible=False)
    p = 1 / (masks.weights * b * batches)
    t = ((p - 1e-3) / 0.999).reshape(batches, b)
    assert t.min() >= 0 and t.max() < 1
    for row in t.sort(1).values:  # one t in each eighth of [0, 1), equally far apart
        assert torch.allclose(row - row[0], torch.arange(b).double() / b, rtol=0, atol=1e-12)
        assert row[0] < 1 / b
    # a sample with probability p masks each of 6 tokens with it
    hits = masks.masked.sum(1).double()
    z = (hits - 6 * p).sum() / (6 * p * (1 - p)).sum().sqrt()
    assert abs(z) < 4
    assert abs(((hits - 6 * p) * p).sum() / (6 * p**3 * (1 - p)).sum().sqrt()) < 4


def test_dream_keeps_the_first_position_of_a_sequence_visible() -> None:
    masks = dream_masks(5, 8, 10, seeded(0), first_visible=True)
    assert not masks.masked[:, 0].any()
    assert masks.masked[:, 1:].any(0).all()


@pytest.mark.parametrize("estimator", ["llada", "dream", "dream_whole"])
def test_masks_depend_on_seed_and_length_alone(estimator: str) -> None:
    asked = LikelihoodSettings(8, 4, estimator=estimator)
    first = draw_masks(asked, 7, 5, first_visible=False)
    torch.manual_seed(123)  # the global generator plays no part
    again = draw_masks(asked, 7, 5, first_visible=False)
    other = draw_masks(asked, 7, 6, first_visible=False)
    assert torch.equal(first.masked, again.masked) and torch.equal(first.weights, again.weights)
    assert not torch.equal(first.masked, other.masked)


def test_a_single_token_is_masked_once_where_that_is_exact() -> None:
    for estimator in ("llada", "dream_whole"):
        masks = draw_masks(
            LikelihoodSettings(128, 32, estimator=estimator), 1, 0, first_visible=False
        )
        assert masks.masked.tolist() == [[True]] and masks.weights.tolist() == [1.0]
    dream = draw_masks(LikelihoodSettings(128, 32, estimator="dream"), 1, 0, first_visible=False)
    assert dream.masked.shape == (128, 1)
    assert 0 < dream.masked.sum() < 128
    # nothing predicts the first position of a sequence in Dream, so even one token stays visible
    whole = LikelihoodSettings(128, 32, estimator="dream_whole")
    assert not draw_masks(whole, 1, 0, first_visible=True).masked.any()
