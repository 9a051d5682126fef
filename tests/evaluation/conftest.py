"""A tiny model of each architecture and a byte-level tokenizer, made on the spot."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig

END, MASK, BEGIN = "<|endoftext|>", "<|mask|>", "<|begin|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte: ids 0 to 255 are bytes, then end, mask and begin of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([END, MASK, BEGIN])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, pad_token=END, mask_token=MASK, bos_token=BEGIN
    )
    assert tokenizer.convert_tokens_to_ids([END, MASK, BEGIN]) == [256, 257, 258]
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(
    architecture: Architecture = "llada", dtype: torch.dtype = torch.float32, max_length: int = 256
) -> Transformer:
    """Two layers of 32 channels with fixed random weights, over the byte vocabulary."""
    config = TransformerConfig(
        architecture=architecture,
        d_model=32,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        d_ffn=48,
        vocab_size=259,
        max_length=max_length,
        rope_theta=10000.0,
        norm_eps=1e-5,
        mask_token_id=257,
        eos_token_id=256,
        pad_token_id=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Transformer(config)
    model.head.weight.data.mul_(8)  # confident enough that options differ clearly
    model.head.weight.data[94:256] = 0  # it says printable ASCII, whose texts tell tokens apart
    return model.to(dtype).eval().requires_grad_(False)


def real_data() -> Path | None:
    """The folder of official splits, where there is one."""
    beside = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    folder = Path(os.environ.get("DLLMQUANT_DATA_ROOT", beside))
    return folder if (folder / "gsm8k_test.jsonl.gz").is_file() else None


@pytest.fixture(scope="session")
def data_root() -> Path:
    folder = real_data()
    if folder is None:
        pytest.skip("no official evaluation data: set DLLMQUANT_DATA_ROOT to a folder of splits")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def llada() -> Transformer:
    return tiny_model("llada")


@pytest.fixture(scope="session")
def dream() -> Transformer:
    return tiny_model("dream")
