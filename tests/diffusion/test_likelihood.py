"""Likelihoods against plain loops and full enumeration, and what they cost."""

import math
from statistics import fmean, pvariance
from typing import Any

import pytest
import torch
from official_algorithms import dream_bound, halves_to_even, llada_bound, masked_log_p, subsets

from dllmquant_exp.diffusion import (
    DiffusionError,
    LikelihoodRequest,
    LikelihoodSettings,
    likelihood,
    log_likelihoods,
)
from dllmquant_exp.diffusion.masking import draw_masks

EOS, MASK = 37, 39
SETTINGS = {
    "llada": LikelihoodSettings(8, 4),
    "llada_guided": LikelihoodSettings(6, 3, guidance=1.5),
    "dream": LikelihoodSettings(8, 4, estimator="dream"),
    "dream_whole": LikelihoodSettings(8, 8, estimator="dream_whole"),
}
each_estimator = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())


def requests_of(random_prompts: Any, n: int = 9, seed: int = 0) -> list[LikelihoodRequest]:
    contexts, targets = random_prompts(n, seed), random_prompts(n, seed + 100, longest=5)
    targets[0] = targets[0][:1]  # at least one single token
    return [
        LikelihoodRequest(tuple(context), tuple(target), seed=i % 4)
        for i, (context, target) in enumerate(zip(contexts, targets, strict=True))
    ]


# ---------------------------------------------------------------- plain references


def plain_estimate(model: Any, request: LikelihoodRequest, settings: LikelihoodSettings) -> float:
    """One forward per Monte-Carlo sample, whatever repeats."""
    masks = draw_masks(
        settings, len(request.target), request.seed, first_visible=not request.context
    )
    total = 0.0
    for row, weight in zip(masks.masked.tolist(), masks.weights.tolist(), strict=True):
        masked = [i for i, is_masked in enumerate(row) if is_masked]
        total += weight * masked_log_p(model, request, masked, settings)
    return total


# ---------------------------------------------------------------- values


@each_estimator
def test_agrees_with_one_plain_forward_per_sample(
    settings: LikelihoodSettings, tiny_model: Any, random_prompts: Any
) -> None:
    model, requests = tiny_model(settings.architecture, seed=1), requests_of(random_prompts)
    result = log_likelihoods(model, requests, settings, batch_size=4)
    expected = [plain_estimate(model, request, settings) for request in requests]
    assert result.values == pytest.approx(expected, rel=1e-11)
    assert len({round(value, 6) for value in expected}) > 5


@each_estimator
def test_a_request_does_not_depend_on_its_batch(
    settings: LikelihoodSettings, tiny_model: Any, random_prompts: Any
) -> None:
    model, requests = tiny_model(settings.architecture, seed=2), requests_of(random_prompts)
    together = log_likelihoods(model, requests, settings, batch_size=32)
    for batch_size in (1, 5):
        other = log_likelihoods(model, requests, settings, batch_size=batch_size)
        assert other.values == pytest.approx(together.values, rel=1e-12)
        assert (other.forwards, other.token_forwards) == (
            together.forwards,
            together.token_forwards,
        )
    alone = [log_likelihoods(model, [r], settings, batch_size=7).values[0] for r in requests]
    assert alone == pytest.approx(together.values, rel=1e-12)
    backwards = log_likelihoods(model, requests[::-1], settings, batch_size=5)
    assert backwards.values[::-1] == pytest.approx(together.values, rel=1e-12)


MANY = 2000  # seeds; they share the few distinct masked inputs, so this is cheap
TARGET = (8, 9, 21, 11, 30, 2)


def seeds_of(context: tuple[int, ...], target: tuple[int, ...]) -> list[LikelihoodRequest]:
    return [LikelihoodRequest(context, target, seed) for seed in range(MANY)]


def estimates(model: Any, length: int, settings: LikelihoodSettings) -> tuple[Any, Any, int]:
    """The request, its estimates over many seeds, and the forward passes of all."""
    requests = seeds_of((5, 6, 7), TARGET[:length])
    result = log_likelihoods(model, requests, settings, batch_size=16)
    return requests[0], torch.tensor(result.values, dtype=torch.float64), result.forwards


def standard_error(values: Any) -> float:
    return float(values.std()) / math.sqrt(MANY)


@pytest.mark.parametrize(
    ("length", "mc_num", "b", "guidance"),
    [
        (2, 4, 4, 0.0),
        (3, 1, 1, 0.0),
        (4, 8, 8, 0.0),
        (3, 6, 2, 0.0),
        (2, 2, 2, 1.0),
        (5, 8, 8, 0.5),
        (6, 8, 8, 0.0),
        (6, 4, 4, 2.0),
    ],
)
def test_llada_is_unbiased(
    length: int, mc_num: int, b: int, guidance: float, tiny_model: Any
) -> None:
    model, settings = tiny_model(seed=3), LikelihoodSettings(mc_num, b, guidance=guidance)
    request, values, forwards = estimates(model, length, settings)
    error = float(values.mean()) - llada_bound(model, request, settings)
    assert values.std() > 0.01  # a constant would prove nothing
    assert abs(error) < 3 * standard_error(values)
    # thousands of requests, and no masked input went through the model twice
    assert forwards == (2**length - 1) * (2 if guidance else 1)


@pytest.mark.parametrize("length", [2, 4])
def test_halves_to_even_has_the_published_bias(length: int, tiny_model: Any) -> None:
    """It is what the published rounding expects, and not what equally likely counts do."""
    model = tiny_model(seed=3)
    settings = LikelihoodSettings(8, 8, mask_counts="halves_to_even")
    request, values, _ = estimates(model, length, settings)
    biased = llada_bound(model, request, settings, halves_to_even(length, 8))
    assert abs(float(values.mean()) - biased) < 3 * standard_error(values)
    uniform = llada_bound(model, request, settings)
    assert abs(float(values.mean()) - uniform) > 3 * standard_error(values)


@pytest.mark.parametrize(
    ("length", "mc_num", "b"), [(1, 4, 4), (2, 4, 4), (3, 4, 1), (4, 8, 8), (5, 8, 8), (6, 8, 4)]
)
def test_dream_is_unbiased(length: int, mc_num: int, b: int, tiny_model: Any) -> None:
    model, settings = tiny_model("dream", seed=3), LikelihoodSettings(mc_num, b, estimator="dream")
    request, values, _ = estimates(model, length, settings)
    error = float(values.mean()) - dream_bound(model, request, settings)
    assert abs(error) < 3 * standard_error(values)


def test_variance_is_that_of_the_enumeration_and_falls_with_samples_and_stratification(
    tiny_model: Any,
) -> None:
    model, requests = tiny_model(seed=4), seeds_of((5, 6, 7), (8, 9, 21, 11))
    L = 4

    def variance(mc_num: int, b: int) -> float:
        settings = LikelihoodSettings(mc_num, b)
        values = log_likelihoods(model, requests, settings, batch_size=16).values
        return float(torch.tensor(values, dtype=torch.float64).var())

    single = LikelihoodSettings(1, 1)
    by_count: dict[int, list[float]] = {x: [] for x in range(1, L + 1)}
    for S in subsets(L):
        estimate = L / len(S) * masked_log_p(model, requests[0], list(S), single)
        by_count[len(S)].append(estimate)
    within = sum(pvariance(estimates) for estimates in by_count.values()) / L
    between = pvariance([fmean(estimates) for estimates in by_count.values()])
    assert variance(1, 1) == pytest.approx(within + between, rel=0.15)
    assert variance(4, 1) == pytest.approx((within + between) / 4, rel=0.15)
    # four samples spread over x = 1, 2, 3, 4: which x it was no longer adds to the variance
    assert variance(4, 4) == pytest.approx(within / 4, rel=0.1)


def test_one_token_is_exact_whatever_the_seed(tiny_model: Any) -> None:
    for architecture, estimator in (("llada", "llada"), ("dream", "dream_whole")):
        model = tiny_model(architecture, seed=5)
        settings = LikelihoodSettings(128, 32, estimator=estimator)
        requests = [LikelihoodRequest((1, 2, 3), (9,), seed) for seed in range(5)]
        result = log_likelihoods(model, requests, settings, batch_size=8)
        expected = masked_log_p(model, requests[0], [0], settings)
        assert result.values == pytest.approx([expected] * 5, rel=1e-12)
        assert result.forwards == 1


def test_dream_whole_is_dream_for_longer_answers(tiny_model: Any) -> None:
    model, requests = tiny_model("dream"), [LikelihoodRequest((1, 2), (3, 4, 5), 7)]
    whole, plain = (
        log_likelihoods(model, requests, LikelihoodSettings(8, 4, estimator=name), batch_size=4)
        for name in ("dream_whole", "dream")
    )
    assert whole == plain


def test_guidance_is_not_ignored(tiny_model: Any, random_prompts: Any) -> None:
    model, requests = tiny_model(seed=6), requests_of(random_prompts)
    plain = log_likelihoods(model, requests, LikelihoodSettings(4, 4), batch_size=8)
    guided = log_likelihoods(model, requests, LikelihoodSettings(4, 4, guidance=1.0), batch_size=8)
    assert all(abs(a - b) > 1e-3 for a, b in zip(plain.values, guided.values, strict=True))
    assert guided.token_forwards == 2 * plain.token_forwards


def test_narrow_models_are_scored_in_float32(tiny_model: Any, random_prompts: Any) -> None:
    """Same 16-bit logits, but the logarithm of the softmax is taken in float32."""
    requests = [LikelihoodRequest((1, 2, 3), (token,), 0) for token in range(37)]
    model = tiny_model(dtype=torch.bfloat16, seed=8)
    values = log_likelihoods(model, requests, LikelihoodSettings(1, 1), batch_size=1).values
    with torch.inference_mode():
        logits = model(torch.tensor([[1, 2, 3, MASK]]))[0, -1].float()
    assert values == pytest.approx(logits.log_softmax(-1)[:37].tolist(), abs=1e-5)


# ---------------------------------------------------------------- what goes through the model


def test_four_lettered_options_are_one_forward(tiny_model: Any, call_log: Any) -> None:
    for architecture, estimator, end in (("llada", "llada", []), ("dream", "dream_whole", [EOS])):
        model = tiny_model(architecture)
        log = call_log(model)
        options = [LikelihoodRequest((4, 5, 6), (letter,), seed=3) for letter in (10, 11, 12, 13)]
        settings = LikelihoodSettings(128, 32, estimator=estimator)
        result = log_likelihoods(model, options, settings, batch_size=32)
        assert log.rows == [[4, 5, 6, MASK, *end]]
        assert (result.forwards, result.token_forwards) == (1, 4 + len(end))
        assert len(set(result.values)) == 4


@each_estimator
def test_no_row_is_computed_twice_and_the_counts_are_true(
    settings: LikelihoodSettings, tiny_model: Any, call_log: Any, random_prompts: Any
) -> None:
    model = tiny_model(settings.architecture)
    log = call_log(model)
    requests = [
        LikelihoodRequest(tuple(context), (a, b), seed=i)
        for i, context in enumerate(random_prompts(4))
        for a in (1, 2)
        for b in (3, 4)
    ]
    result = log_likelihoods(model, requests, settings, batch_size=3)
    assert (result.forwards, result.token_forwards) == (len(log.rows), log.tokens)
    conditional = {tuple(row) for row in log.rows if row[0] != MASK}
    assert len(conditional) == len(log.rows) // (2 if settings.guidance else 1)
    expected = set()
    for request in requests:
        end = () if settings.estimator == "llada" else (EOS,)
        for row in draw_masks(settings, 2, request.seed, first_visible=False).masked.tolist():
            noisy = [MASK if m else t for m, t in zip(row, request.target, strict=True)]
            if any(row):
                expected.add((*request.context, *noisy, *end))
    assert conditional == expected
    assert len(expected) < len(requests) * 3  # options of a question share inputs


def test_options_of_a_question_see_the_same_masks(tiny_model: Any, call_log: Any) -> None:
    def patterns(target: tuple[int, ...], seed: int) -> set[tuple[bool, ...]]:
        model = tiny_model()
        log = call_log(model)
        request = LikelihoodRequest((1, 2, 3), target, seed)
        log_likelihoods(model, [request], LikelihoodSettings(4, 4), batch_size=8)
        return {tuple(token == MASK for token in row[3:]) for row in log.rows}

    assert patterns((4, 5, 6, 7, 8), seed=9) == patterns((14, 15, 16, 17, 18), seed=9)
    assert patterns((4, 5, 6, 7, 8), seed=9) != patterns((4, 5, 6, 7, 8), seed=10)


def test_dream_appends_a_visible_end_and_never_masks_the_first_position(
    tiny_model: Any, call_log: Any
) -> None:
    model = tiny_model("dream")
    log = call_log(model)
    request = LikelihoodRequest((), (4, 5, 6), seed=0)
    result = log_likelihoods(model, [request], SETTINGS["dream"], batch_size=4)
    assert result.values == pytest.approx([plain_estimate(model, request, SETTINGS["dream"])])
    assert log.rows and all(row[0] == 4 and row[-1] == EOS and len(row) == 4 for row in log.rows)


def test_samples_without_a_mask_cost_nothing(tiny_model: Any) -> None:
    settings = LikelihoodSettings(1, 1, estimator="dream")
    requests = [LikelihoodRequest((1, 2), (3,), seed) for seed in range(30)]
    empty = [
        not draw_masks(settings, 1, request.seed, first_visible=False).masked.any()
        for request in requests
    ]
    counts: list[float] = []
    result = log_likelihoods(
        tiny_model("dream"), requests, settings, batch_size=4, progress=counts.append
    )
    assert [value == 0 for value in result.values] == empty
    assert 0 < sum(empty) < 30 and result.forwards == 1
    only_empty = [r for r, is_empty in zip(requests, empty, strict=True) if is_empty][:1]
    result = log_likelihoods(
        tiny_model("dream"), only_empty, settings, batch_size=4, progress=counts.append
    )
    assert (result.values, result.forwards) == ([0.0], 0) and sum(counts) == pytest.approx(31)


def test_masked_inputs_are_made_as_the_model_needs_them(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, drawn, ahead = tiny_model(), [0], []
    real = draw_masks

    def counting(*args: Any, **kwargs: Any) -> Any:
        drawn[0] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(likelihood, "draw_masks", counting)
    model.register_forward_pre_hook(lambda *_: ahead.append(drawn[0]))
    requests = [LikelihoodRequest((1, i), (2, 3, 4), 0) for i in range(37)]
    log_likelihoods(model, requests, LikelihoodSettings(4, 4), batch_size=2)
    assert drawn[0] == 37
    assert ahead[0] == 1 and len(ahead) > 37


def test_progress_counts_every_request_once(tiny_model: Any, random_prompts: Any) -> None:
    counts: list[float] = []
    log_likelihoods(
        tiny_model(),
        requests_of(random_prompts),
        SETTINGS["llada"],
        batch_size=3,
        progress=counts.append,
    )
    assert sum(counts) == pytest.approx(9) and all(count > -1e-9 for count in counts)
    counts.clear()
    questions = [LikelihoodRequest((1, q), (option,), 0) for q in range(3) for option in range(4)]
    log_likelihoods(
        tiny_model(), questions, SETTINGS["llada"], batch_size=1, progress=counts.append
    )
    assert counts == pytest.approx([4, 4, 4, 0])  # as each question is done, not at the end
    counts.clear()
    long = [LikelihoodRequest((1,), (2, 3, 4, 5, 6, 7), 0)]
    log_likelihoods(tiny_model(), long, SETTINGS["llada"], batch_size=1, progress=counts.append)
    assert sum(counts) == pytest.approx(1) and len(counts) > 4  # and with each of its samples


# ---------------------------------------------------------------- edges and refusals


def test_no_requests(tiny_model: Any) -> None:
    result = log_likelihoods(tiny_model(), [], LikelihoodSettings(4, 4), batch_size=4)
    assert (result.values, result.forwards) == ([], 0)


@pytest.mark.parametrize(
    ("architecture", "request_", "settings", "message"),
    [
        ("llada", LikelihoodRequest((1,), (), 0), SETTINGS["llada"], "request 0 has an empty"),
        (
            "llada",
            LikelihoodRequest((1,) * 60, (2,) * 5, 0),
            SETTINGS["llada"],
            "request 0 needs 65 positions and the model has max_length = 64",
        ),
        (
            "dream",
            LikelihoodRequest((1,) * 60, (2,) * 4, 0),
            SETTINGS["dream"],
            "request 0 needs 65 positions",  # the appended end-of-text
        ),
        ("llada", LikelihoodRequest((-1,), (2,), 0), SETTINGS["llada"], "from -1 to 2"),
        ("dream", LikelihoodRequest((1,), (2,), 0), SETTINGS["llada"], "not belong to a dream"),
    ],
)
def test_bad_requests_are_refused_before_any_forward(
    architecture: str,
    request_: LikelihoodRequest,
    settings: LikelihoodSettings,
    message: str,
    tiny_model: Any,
    call_log: Any,
) -> None:
    model = tiny_model(architecture)
    log = call_log(model)
    with pytest.raises(DiffusionError, match=message):
        log_likelihoods(model, [request_], settings, batch_size=2)
    assert log.calls == 0


@pytest.mark.parametrize("name", ["llada_guided", "dream"])
def test_every_tensor_is_made_where_the_model_is(
    name: str, tiny_model: Any, random_prompts: Any
) -> None:
    """A tensor made on the default device would not mix with the model's; on a GPU likewise."""
    settings = SETTINGS[name]
    model, requests = tiny_model(settings.architecture), requests_of(random_prompts, 3)
    expected = log_likelihoods(model, requests, settings, batch_size=2)
    with torch.device("meta"):
        assert log_likelihoods(model, requests, settings, batch_size=2) == expected
