"""A tiny random model whose predictions depend strongly on what it sees."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dllmquant_exp.models.transformer import Transformer, TransformerConfig

VOCAB = 40
EOS, PAD, MASK = 37, 38, 39


def _tiny_model(
    architecture: str = "llada",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    never_mask: bool = True,
    eos_logit: float = 0.0,
) -> Transformer:
    """d_model 32, 2 layers, vocabulary 40, random weights, float64 unless asked otherwise.

    never_mask: the model gives the mask token a very low logit, as a trained one does.
    eos_logit: added to the logit of end-of-text.
    """
    config = TransformerConfig(
        architecture=architecture,  # type: ignore[arg-type]
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=4 if architecture == "llada" else 2,
        d_ffn=48,
        vocab_size=VOCAB,
        max_length=64,
        rope_theta=1e4,
        norm_eps=1e-6,
        mask_token_id=MASK,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config).to(dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            scale = 1.0 if name == "embedding.weight" else 0.4
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise * scale)
    head = model.head
    shift = torch.zeros(VOCAB, dtype=dtype)
    shift[EOS] = eos_logit
    if never_mask:
        shift[MASK] = -50.0
    head.register_forward_hook(lambda _module, _inputs, logits: logits + shift)
    return model


@pytest.fixture
def tiny_model() -> Callable[..., Transformer]:
    return _tiny_model


class CallLog:
    """What really went through a model, seen from outside: one entry per row of each call."""

    def __init__(self, model: Transformer) -> None:
        self.rows: list[list[int]] = []
        self.calls = 0
        self.predicted = 0
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = ("tokens", "attention_mask", "positions")
        given = dict(zip(names, args, strict=False)) | kwargs
        tokens: Tensor = given["tokens"]
        mask: Tensor | None = given.get("attention_mask")
        positions: Tensor | None = given.get("positions")
        self.calls += 1
        self.predicted += tokens.numel() if positions is None else int(positions.sum())
        for i, row in enumerate(tokens):
            self.rows.append((row if mask is None else row[mask[i]]).tolist())

    @property
    def tokens(self) -> int:
        return sum(len(row) for row in self.rows)


@pytest.fixture
def call_log() -> Callable[[Transformer], CallLog]:
    return CallLog


def _prompts(n: int, seed: int = 0, longest: int = 9) -> list[list[int]]:
    """n random prompts of 1 to `longest` ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator).tolist()
    return [torch.randint(0, EOS, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture
def random_prompts() -> Callable[..., list[list[int]]]:
    return _prompts
