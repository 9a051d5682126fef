"""A tiny random model, prompts, a toy tokenizer, and a log of what really went through a model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import small_model

from dllmquant_exp.calibration.sampler import Inputs
from dllmquant_exp.calibration.sources import CalibrationText
from dllmquant_exp.calibration.states import CalibrationSet, CalibrationState, unscored_state
from dllmquant_exp.models.transformer import Architecture, Transformer

VOCAB, EOS, MASK = 40, 37, 39


def _tiny_model(architecture: Architecture = "llada", *, eos_logit: float = -50.0) -> Transformer:
    """It never predicts the mask, nor (by default) an end of text."""
    model = small_model(
        architecture, torch.float64, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, d_ffn=24,
        vocab_size=VOCAB,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data.normal_(
                0, 1.0 if name == "embedding.weight" else 0.5, generator=generator
            )
    shift = torch.zeros(VOCAB, dtype=torch.float64)
    shift[MASK], shift[EOS] = -50.0, eos_logit
    model.head.register_forward_hook(lambda _module, _inputs, logits: logits + shift)
    return model.requires_grad_(False)


@pytest.fixture
def tiny_model() -> Callable[..., Transformer]:
    return _tiny_model


@pytest.fixture
def seen() -> Callable[[Transformer], list[list[int]]]:
    """The rows that go through a model from now on, without their padding."""

    def watch(model: Transformer) -> list[list[int]]:
        rows: list[list[int]] = []

        def note(_model: Any, args: tuple[Any, ...]) -> None:
            rows.extend(row[real].tolist() for row, real in zip(*args[:2], strict=True))

        model.register_forward_pre_hook(note)
        return rows

    return watch


@pytest.fixture
def prompts() -> list[list[int]]:
    """30 prompts of 1 to 6 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 7, (30,), generator=generator).tolist()
    return [torch.randint(0, 37, (n,), generator=generator).tolist() for n in lengths]


class ToyTokenizer:
    """One token per letter; the last three ids are special."""

    all_special_ids = (EOS, EOS + 1, MASK)

    def __call__(self, text: str | list[str], add_special_tokens: bool) -> dict[str, list[Any]]:
        assert not add_special_tokens
        if isinstance(text, list):
            return {"input_ids": [self(one, False)["input_ids"] for one in text]}
        return {"input_ids": [ord(letter) % EOS for letter in text]}

    def __len__(self) -> int:
        return VOCAB


@pytest.fixture
def tokenizer() -> ToyTokenizer:
    return ToyTokenizer()


@pytest.fixture
def inputs(tokenizer: Any, prompts: list[list[int]]) -> Callable[..., Inputs]:
    """`inputs(model, prompts, seed, batch_size)`: texts that the toy tokenizer encodes as these."""

    def make(
        model: Transformer, given: Sequence[Sequence[int]] = prompts, seed: int = 0, size: int = 8
    ) -> Inputs:
        words = ["".join(chr(EOS + token) for token in prompt) for prompt in given]
        texts = [CalibrationText(word, "", ()) for word in words]
        return Inputs(model, tokenizer, lambda _names, count: texts[:count], seed, size)

    return make


@pytest.fixture
def state() -> Callable[..., CalibrationState]:
    """A state with confidences: `state(tokens, masked, confidence, top, prompt_length)`."""

    def make(
        tokens: Sequence[int],
        masked: Sequence[int] | None = None,
        confidence: Sequence[float] | None = None,
        top: Sequence[float] | None = None,
        prompt_length: int = 0,
    ) -> CalibrationState:
        scores = list(confidence or [0.5] * len(tokens))
        bare = unscored_state(
            tokens, [bool(m) for m in masked or [0] * len(tokens)], prompt_length, block=1, step=2,
            ratio=0.25,
        )  # fmt: skip
        return replace(bare, confidence=torch.tensor(scores), top=torch.tensor(top or scores))

    return make


@pytest.fixture
def three(state: Callable[..., CalibrationState]) -> CalibrationSet:
    states = (
        state([1, 2, 39], [0, 0, 1], [0.1, 0.2, 0.3], [0.4, 0.5, 0.3], prompt_length=1),
        state([4], [0], [0.25]),
        state([5, 39, 39, 7], [0, 1, 1, 0], [0.5, 0.6, 0.7, 0.8]),
    )
    return CalibrationSet("three", states, {"seed": 0, "filled": [[1, 2]]})
