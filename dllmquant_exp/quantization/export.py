"""Quantized models for other programs: compressed-tensors folders that transformers reads.

LLaDA's blocks are Llama's and Dream's are Qwen2's, so that the folder says LlamaForCausalLM or
Qwen2ForCausalLM, with `is_causal` false: both attend in both directions. The reader has to decode
by diffusion. Dream's logits come from its own head, one position to the left of ours.

Weights are the same as here, number by number and scale by scale (in bfloat16 the reader rounds
scales too). Activations are rounded by the same rule: per token, 0 always in the range. The reader
multiplies values and not whole numbers, so that outputs agree to floating-point rounding, and where
that moves a later activation across the middle between two numbers, to one step of its grid. With
symmetric activations a token's largest value, where it is negative, always lies there.

Settings that compressed-tensors cannot express are refused, never left out: rotations that are
applied while the model runs, quantized attention, clip ratios of dynamic ranges, ranges per request
or per group.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.formats import joined, tensor_names
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import OFF, QuantizationError
from dllmquant_exp.quantization.saved_files import SHARD_BYTES, write_folder

FORMAT = "pack-quantized"  # 32-bit words of whole numbers; W4A4 would default to a byte per weight
MADE = "dllmquant_exp"  # the key of config.json that says how the model was made
_CLASSES = {"llada": ("LlamaForCausalLM", "llama"), "dream": ("Qwen2ForCausalLM", "qwen2")}


def unsupported(method: Method, quant: QuantSettings, iaaq: Iaaq | None) -> list[str]:
    """The settings that compressed-tensors cannot hold, each with a way out; empty if none."""
    problems = []
    if method.online:
        problems.append(
            f"method={method.name} changes inputs while the model runs (as rotations do), and no "
            "linear there does; choose a method that works on weights alone, or save=... without "
            "export"
        )
    attention = quant.attention
    if iaaq is not None or (
        attention is not None and {attention.p_bits, attention.v_bits, attention.k_bits} != {OFF}
    ):
        problems.append(
            "the softmax output, V or K are quantized (quant.attention, iaaq), which is not part "
            "of a linear; set quant.attention=null, without iaaq"
        )
    if quant.weight_bits == OFF:
        problems.append("quant.weight_bits = 16 leaves no weights to pack; use 2..8")
    dynamic = quant.activation_bits != OFF and not quant.static
    if dynamic and quant.activation_granularity != "per_token":
        problems.append(
            f"dynamic ranges {quant.activation_granularity.replace('_', ' ')} would be measured "
            "over whole batches or not at all; use activation_granularity=per_token"
        )
    if dynamic and quant.activation_clip_ratio != 1:
        problems.append(
            f"quant.activation_clip_ratio = {quant.activation_clip_ratio} clips dynamic ranges, "
            "which are always whole there; set it to 1"
        )
    return problems


def export_compressed_tensors(
    model: Transformer,
    folder: str | Path,
    *,
    method: Method,
    quant: QuantSettings,
    iaaq: Iaaq | None = None,
    made: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase,
    max_shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a quantized model, fake or packed, as compressed-tensors; completely or not at all.

    `AutoModelForCausalLM.from_pretrained(folder)` reads it. A rounded embedding is written as the
    values it has. For vLLM, which takes no zero points of 4-bit activations, quantize with
    `activation_symmetric`.

    Args:
        method, quant, iaaq: what `quantize` was given.
        made: how it was made, kept in config.json with the files' hashes.

    Raises:
        QuantizationError: see `unsupported`, or the package compressed-tensors is missing.
        CheckpointError: the folder is taken or cannot be written (a full disk).
    """
    problems = unsupported(method, quant, iaaq)
    if problems:
        raise QuantizationError(joined("compressed-tensors cannot hold this model", problems))
    tensors = _tensors(model, quant, _packer())
    config = _config_json(model.config, model.final_norm.weight.dtype)
    config |= {"quantization_config": quantization_config(quant), MADE: dict(made or {})}
    folder = Path(folder).expanduser()
    write_folder(folder, tensors, tokenizer, config, MADE, max_shard_bytes)
    return folder


def quantization_config(quant: QuantSettings) -> dict[str, Any]:
    """The settings in compressed-tensors' words."""
    assert quant.weight is not None
    group, activation, inputs = quant.weight.group_size, quant.activation, None
    if activation is not None:
        inputs = _scheme(activation.bits, "tensor" if quant.static else "token")
        inputs |= {"symmetric": activation.symmetric, "dynamic": not quant.static}
    weights = _scheme(quant.weight_bits, "channel" if group is None else "group", group)
    has_head = quant.head_bits != OFF
    groups = {"group_0": _group("re:.*_proj$" if has_head else "Linear", weights, inputs)}
    if has_head:
        groups["group_1"] = _group("re:.*lm_head$", _scheme(quant.head_bits, "channel"), None)
    return {
        "quant_method": "compressed-tensors",
        "format": FORMAT,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [] if has_head else ["lm_head"],
    }


def _group(target: str, weights: dict[str, Any], inputs: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "targets": [target],
        "weights": weights,
        "input_activations": inputs,
        "format": FORMAT,
    }


def _scheme(bits: int, strategy: str, group: int | None = None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": strategy,
        "group_size": group,
        "dynamic": False,
    }


def _config_json(config: TransformerConfig, dtype: torch.dtype) -> dict[str, Any]:
    name, kind = _CLASSES[config.architecture]
    return {
        "architectures": [name],
        "model_type": kind,
        "is_causal": False,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ffn,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_cache": False,
        "dtype": str(dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "mask_token_id": config.mask_token_id,
    }


def _tensors(
    model: Transformer, quant: QuantSettings, pack: Callable[[Tensor, int], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    # Dream's official names are Qwen2's, which are Llama's too.
    names = tensor_names(replace(model.config, architecture="dream"))
    for official, (ours, _) in names.items():
        owner, _, leaf = ours.rpartition(".")
        module = model.get_submodule(owner)
        if leaf == "bias" and not model.config.qkv_bias:
            continue
        weight = getattr(module, "rounded", None) if leaf == "weight" else None
        if weight is None or owner == "embedding":
            yield official, getattr(module, leaf).detach()
            continue
        stem = official.removesuffix(".weight")
        bits = quant.head_bits if owner == "head" else quant.weight_bits
        yield f"{stem}.weight_packed", pack(weight.numbers.to("cpu", torch.int8), bits)
        yield f"{stem}.weight_scale", weight.scale
        yield f"{stem}.weight_shape", torch.tensor(weight.numbers.shape)
        if owner != "head" and quant.static:
            yield from _static(stem, module, quant)


def _static(stem: str, module: nn.Module, quant: QuantSettings) -> Iterator[tuple[str, Tensor]]:
    scale, zero = module.activation_scale, module.activation_zero
    assert isinstance(scale, Tensor) and isinstance(zero, Tensor)
    yield f"{stem}.input_scale", scale.reshape(1)
    if not quant.activation_symmetric:  # numbers there are signed
        signed = zero.reshape(1) - 2 ** (quant.activation_bits - 1)
        yield f"{stem}.input_zero_point", signed.to(torch.int8)


def _packer() -> Callable[[Tensor, int], Tensor]:
    try:
        from compressed_tensors.compressors import pack_to_int32
    except ImportError as error:
        raise QuantizationError(
            "export=compressed-tensors needs the package compressed-tensors; pip install "
            "'dllmquant-exp[export]'"
        ) from error
    packer: Callable[[Tensor, int], Tensor] = pack_to_int32
    return packer
