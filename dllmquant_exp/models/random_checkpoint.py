"""Small random checkpoints in exactly the official layouts, to try the real code path offline.

They hold noise: scores are at chance by construction. Tests use them, and so does
`python -m dllmquant_exp random-checkpoint architecture=dream folder=DIR`.
"""

import json
import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.models.storage import (
    load_config,
    load_tokenizer,
    resolve_checkpoint,
    save_checkpoint,
)
from dllmquant_exp.models.transformer import Architecture, Transformer, TransformerConfig

# Frequent English words become single tokens, so that real prompts stay a few times shorter than
# their bytes; everything else falls back to bytes.
_WORDS = """
the of and a to in is was he for it with as his on be at by had not are but from or have an they
which one you were her all she there would their we him been has when who will more no if out so
said what up its about into than them can only other new some could time these two may then do
first any my now such like our over man me even most made after also did many before must through
back years where much your way well down should because each just those people how too little
state good very make world still own see men work long here get both between life being under
never day same another know while last might us great old year off come since against go came
right used take three house use during without again place around however home small found thought
number question answer following correct following statement true false
"""
_LLADA_SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
_VOCABULARY_FIELDS = ("mask_token_id", "eos_token_id", "pad_token_id", "vocab_size")
_DREAM_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
_LLADA_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
_DREAM_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def random_checkpoint(
    architecture: Architecture,
    folder: str | Path,
    *,
    seed: int = 0,
    tokenizer_from: str | None = None,
    d_model: int = 64,
    n_layers: int = 2,
    max_length: int = 2048,
    dtype: torch.dtype = torch.bfloat16,
    max_shard_bytes: int = 5_000_000_000,
) -> Path:
    """Write a random model with a tokenizer; the same arguments give the same bytes.

    Args:
        architecture: llada (tokenizer.json) or dream (Qwen2's vocab.json and merges.txt, two
            key-value heads for four heads, q/k/v biases).
        tokenizer_from: another checkpoint whose tokenizer and special token ids to take; None for
            a small byte-level one.
        d_model: hidden size, a multiple of 8; the FFN is twice as wide.
        dtype, max_shard_bytes: see `save_checkpoint`. The official hub files hold bfloat16.

    Raises:
        CheckpointError: an unknown architecture, an impossible size, or a folder that is taken.
    """
    if architecture not in ("llada", "dream"):
        raise CheckpointError(f"architecture {architecture!r} is not one of: llada, dream")
    if tokenizer_from is None:
        tokenizer = _small_tokenizer(architecture)
        eos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
        ids = {
            "mask_token_id": tokenizer.convert_tokens_to_ids(_special_tokens(architecture)[-1]),
            "eos_token_id": eos,
            "pad_token_id": eos,
            "vocab_size": -(-len(tokenizer) // 64) * 64,  # official embeddings are padded too
        }
    else:
        tokenizer = load_tokenizer(tokenizer_from)
        source = load_config(resolve_checkpoint(tokenizer_from))
        ids = {name: getattr(source, name) for name in _VOCABULARY_FIELDS}
    config = _small_config(architecture, ids, d_model, n_layers, max_length)
    return save_checkpoint(
        random_model(config, seed=seed),
        folder,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        tokenizer=tokenizer,
    )


def random_model(config: TransformerConfig, *, seed: int = 0) -> Transformer:
    """A float32 model in eval mode: weights N(0, 1/fan_in), norms about 1, biases about 0.

    Unlike a training start, neither norms nor biases are trivial, so that a test which ignores one
    of them fails.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = Transformer(config)
    for name, parameter in list(model.named_parameters()):
        value = torch.randn(parameter.shape, generator=generator)
        if value.dim() == 2 and name != "embedding.weight":
            value /= parameter.shape[1] ** 0.5
        elif value.dim() == 1:
            value = value * 0.1 + (1.0 if "norm" in name else 0.0)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return model.eval()


def _small_config(
    architecture: Architecture, ids: dict[str, int], d_model: int, n_layers: int, max_length: int
) -> TransformerConfig:
    try:
        return TransformerConfig(
            architecture=architecture,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=4,
            n_kv_heads=4 if architecture == "llada" else 2,
            d_ffn=2 * d_model,
            max_length=max_length,
            rope_theta=500_000.0 if architecture == "llada" else 1_000_000.0,
            norm_eps=1e-5 if architecture == "llada" else 1e-6,
            **ids,
        )
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _special_tokens(architecture: Architecture) -> tuple[str, ...]:
    """The added tokens in order; the mask is the last one."""
    return _LLADA_SPECIAL if architecture == "llada" else _DREAM_SPECIAL


def _small_tokenizer(architecture: Architecture) -> PreTrainedTokenizerBase:
    vocabulary, merges = _byte_level_words()
    added = [AddedToken(t, special=True, normalized=False) for t in _special_tokens(architecture)]
    if architecture == "llada":
        backend = Tokenizer(BPE(vocabulary, merges))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(added)
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            bos_token="<|startoftext|>",
            eos_token="<|endoftext|>",
            pad_token="<|endoftext|>",
            chat_template=_LLADA_CHAT,
            clean_up_tokenization_spaces=False,
        )
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        (files / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
        (files / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        tokenizer = Qwen2Tokenizer.from_pretrained(
            files,
            added_tokens_decoder={len(vocabulary) + i: token for i, token in enumerate(added)},
            bos_token="<|endoftext|>",
            mask_token="<|mask|>",
            chat_template=_DREAM_CHAT,
            clean_up_tokenization_spaces=False,
            local_files_only=True,
        )
    return tokenizer


def _byte_level_words() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A BPE vocabulary of all bytes and of " word" for each frequent word, merged left to right."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in _WORDS.split():
        for end in range(1, len(word) + 1):
            left, right = "Ġ" + word[: end - 1], word[end - 1]  # Ġ stands for a space
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
    return vocabulary, merges
