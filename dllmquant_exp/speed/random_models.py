"""Models of a given shape: random weights in full precision, or random 4-bit numbers.

How long a decode takes depends on the shape and on what is computed, not on the weights' values.
Low-bit models are made block by block from random whole numbers, so that no weight ever stands
there in full precision: one of LLaDA-8B's shape needs 5.6 GB (5.2 GiB) instead of 32.
"""

import math

import torch
from torch import nn

from dllmquant_exp.models.transformer import Block, RMSNorm, Transformer, TransformerConfig
from dllmquant_exp.quantization.attention import QuantizedAttention, set_attention
from dllmquant_exp.quantization.embeddings import QuantizedRows, ends
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.linear import Padding
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizedWeight, Quantizer
from dllmquant_exp.speed.half_ends import HALF


def random_full(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """A module made on the meta device, with weights N(0, 1 / inputs), norms 1 and biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in list(module.named_parameters()):
        value = torch.empty(parameter.shape, dtype=dtype)
        if value.dim() == 2:
            deviation = 1 / math.sqrt(parameter.shape[1])
            value.normal_(0, deviation, generator=generator)
        else:
            value.fill_(0 if name.endswith("bias") else 1)
        owner, _, leaf = name.rpartition(".")
        parent = module.get_submodule(owner)
        setattr(parent, leaf, nn.Parameter(value, requires_grad=False))
    return module.eval()


def random_packed_block(
    config: TransformerConfig,
    settings: QuantSettings,
    method: Method,
    iaaq: Iaaq | None,
    generator: torch.Generator,
) -> Block:
    """A block as `quantize` and `pack_model` make it: the same modules, with random numbers, and
    norms and biases in 16 bits.

    Raises:
        QuantizationError: a size without a Hadamard matrix, or settings that cannot be packed.
    """
    with torch.device("meta"):
        block = Block(config)
    for norm in (block.attention_norm, block.ffn_norm):
        _set_norm(norm)
    activation, padding = settings.activation, None
    assert activation is not None and settings.weight is not None
    if activation.granularity == "per_request":
        padding = Padding()
        block.register_forward_pre_hook(padding.read)
    method.restore(block, torch.device("cpu"))
    for name in BLOCK_LINEARS:
        linear = block.get_submodule(name)
        assert isinstance(linear.weight, torch.Tensor)
        rows, inputs = linear.weight.shape
        weight = _random_numbers(rows, inputs, settings.weight, generator)
        bias = None if linear.bias is None else torch.zeros(rows, dtype=HALF)
        rotation = getattr(linear, "rotation", None)
        setattr(block, name, PackedLinear(weight, bias, activation, padding, rotation=rotation))
    if settings.attention is not None:
        set_attention(block, QuantizedAttention(settings.attention, iaaq))
    return block.eval()


def random_packed(
    config: TransformerConfig,
    settings: QuantSettings,
    method: Method,
    iaaq: Iaaq | None,
    seed: int,
) -> Transformer:
    """A whole packed model; see `random_packed_block`. What is not in low bits is in 16."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = Transformer(config)
    for n in range(config.n_layers):
        made = random_packed_block(config, settings, method, iaaq, generator)
        model.blocks[n] = made
    _set_norm(model.final_norm)
    for name, made_rows, quantizer in ends(settings):
        rows = _random_numbers(config.vocab_size, config.d_model, quantizer, generator)
        model.set_submodule(name, made_rows(rows, HALF))
    for end in (model.embedding, model.head):
        if not isinstance(end, QuantizedRows):
            random_full(end, HALF, seed)
    return model.eval()


def _random_numbers(
    rows: int, inputs: int, quantizer: Quantizer, generator: torch.Generator
) -> QuantizedWeight:
    """Whole numbers of the quantizer's grid, all alike likely, of rows with the length 1."""
    numbers = torch.randint(
        quantizer.lowest, quantizer.highest + 1, (rows, inputs), dtype=torch.int8,
        generator=generator,
    )  # fmt: skip
    deviation = (quantizer.highest - quantizer.lowest + 1) / math.sqrt(12)
    return QuantizedWeight(numbers, torch.full((rows, 1), 1 / (deviation * math.sqrt(inputs))))


def _set_norm(norm: RMSNorm) -> None:
    norm.weight = nn.Parameter(torch.ones(norm.weight.shape, dtype=HALF), requires_grad=False)
