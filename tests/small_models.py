"""Random models of a few thousand weights, and the padded batches that go through them."""

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.models.checkpoints import random_model
from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig
from dllmquant_exp.quantization.blockwise import TokenBatch

VOCABULARY = 61


def small_model(
    architecture: Architecture = "dream", dtype: torch.dtype = torch.float32, **changes: Any
) -> Transformer:
    """Two blocks, with biases and shared heads of keys in a Dream; `changes` of its shape."""
    seed = changes.pop("seed", 0)
    shape: dict[str, Any] = dict(
        d_model=32, n_layers=2, n_heads=4, n_kv_heads=4 if architecture == "llada" else 2, d_ffn=48,
        vocab_size=VOCABULARY, max_length=64, rope_theta=1e4, norm_eps=1e-6,
    )  # fmt: skip
    shape |= changes
    last = shape["vocab_size"] - 1
    ids = {"mask_token_id": last, "eos_token_id": last - 2, "pad_token_id": last - 2}
    config = TransformerConfig(architecture=architecture, **shape, **ids)
    return random_model(config, seed=seed).to(dtype).eval()


def padded_tokens(lengths: tuple[int, ...] = (9, 4, 6), seed: int = 5) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] and their mask, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(VOCABULARY - 3, mask.shape, generator=generator)
    return tokens.masked_fill(~mask, VOCABULARY - 3), mask


def calibration(cgq: bool = False, seed: int = 5) -> list[TokenBatch]:
    """Two padded batches; weights of 1, or of 0.5 to 3 as CGQ might give."""
    found = []
    for n, lengths in enumerate(((12, 9, 12, 5), (8, 8, 3))):
        tokens, mask = padded_tokens(lengths, seed + n)
        generator = torch.Generator().manual_seed(seed + n)
        weights = torch.rand(mask.shape, generator=generator) * 2.5 + 0.5 if cgq else 1.0
        found.append(TokenBatch(tokens, mask, mask * weights))
    return found


def toy_tokenizer(size: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """The words w0, w1, ... in their order."""
    words = WordLevel({f"w{n}": n for n in range(size)}, unk_token="w0")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), eos_token=f"w{size - 3}", pad_token=f"w{size - 3}"
    )
