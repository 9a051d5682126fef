"""The packed model, loaded or random, whose embedding, head, norms and biases have 16 bits.

The model that is timed is the one whose bytes are counted: what is not in low bits is held in 16,
whatever type the blocks compute in. Blocks compute in the type that the embedding gives them.

A random model is made block by block from random whole numbers, so that no weight ever stands
there in full precision: one of LLaDA-8B's shape needs 5.6 GB (5.2 GiB) instead of 32.
"""

import copy
import math
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, RMSNorm, Transformer, TransformerConfig
from dllmquant_exp.quantization.attention import QuantizedAttention, set_attention
from dllmquant_exp.quantization.embeddings import QuantizedRows, ends, linear_by_rows
from dllmquant_exp.quantization.linear import Padding
from dllmquant_exp.quantization.packed import PackedLinear, pack_model
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS, quantize
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizedWeight, Quantizer
from dllmquant_exp.speed.full_precision import random_weights
from dllmquant_exp.speed.machine import native_bfloat16
from dllmquant_exp.speed.memory import weight_bytes
from dllmquant_exp.speed.workload import Workload
from dllmquant_exp.store.process_memory import available_bytes

Module = TypeVar("Module", bound=nn.Module)
HALF = torch.bfloat16
MEMORY_SHARE = 0.7  # of what the system can give, for a whole model; the rest is for its work


def low_model(workload: Workload, dtype: torch.dtype) -> Transformer:
    """The model quantized and packed, computing in `dtype`; a random one has a single block where
    the whole does not fit into memory."""
    assert workload.quant is not None
    if workload.load is not None:
        model = workload.load(dtype)
        quantize(model, workload.runtime_method, workload.quant, iaaq=workload.iaaq)
        pack_model(model)
        return with_half_ends(model, dtype)
    free = available_bytes()
    fits = free is None or low_bytes(workload.config, workload.quant) <= MEMORY_SHARE * free
    return with_half_ends(random_model(workload, workload.config.n_layers if fits else 1), dtype)


def low_bytes(config: TransformerConfig, quant: QuantSettings) -> int:
    """Bytes of a low-bit model's weights, whatever type it computes in; see memory.weight_bytes."""
    head, embedding = (min(max(bits, 8), 16) for bits in (quant.head_bits, quant.embedding_bits))
    return weight_bytes(config, 4, head, embedding)


def with_bits(module: Module, bits: int) -> Module:
    """The same module, sharing its tensors, with activations of other bits."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    other = copy.deepcopy(module, shared)
    for layer in other.modules():
        if isinstance(layer, PackedLinear):
            layer.activation = replace(layer.activation, bits=bits)
    return other


class HalfHead(nn.Module):
    """A language-model head in 16 bits. It multiplies in them where the processor does; elsewhere
    some rows at a time are converted to the type of its input.

    Args:
        weight: parameter [vocab_size, d_model], bfloat16.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_model] -> [..., vocab_size], in the type of x."""
        if native_bfloat16():
            return F.linear(x.to(HALF), self.weight).to(x.dtype)
        y = x.new_empty(*x.shape[:-1], len(self.weight))
        for rows, part in linear_by_rows(x, self.weight):
            y[..., rows] = part
        return y


def with_half_ends(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Put everything of a packed model that is not in low bits into 16; blocks compute in `dtype`.

    Changes the model. An embedding or a head of 8 bits stays as it is.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(HALF)
    for layer in model.modules():
        if isinstance(layer, PackedLinear) and layer.bias is not None:
            layer.bias = layer.bias.to(HALF)
    # Rows are converted as they are looked up, and so decide the type that the blocks compute in.
    model.embedding.register_forward_hook(lambda _module, _tokens, rows: rows.to(dtype))
    if isinstance(model.head, nn.Linear):
        model.set_submodule("head", HalfHead(model.head.weight))
    return model


def random_block(workload: Workload, generator: torch.Generator) -> Block:
    """A block as `quantize` and `pack_model` make it: the same modules, with random numbers, and
    norms and biases in 16 bits. It computes in the type of its input.

    Raises:
        QuantizationError: a size without a Hadamard matrix, or settings that cannot be packed.
    """
    quant = workload.quant
    assert quant is not None and quant.activation is not None and quant.weight is not None
    with torch.device("meta"):
        block = Block(workload.config)
    _set_norms(block.attention_norm, block.ffn_norm)
    padding = None
    if quant.activation.granularity == "per_request":
        padding = Padding()
        block.register_forward_pre_hook(padding.read)
    workload.method.restore(block, torch.device("cpu"))
    for name in BLOCK_LINEARS:
        linear = block.get_submodule(name)
        assert isinstance(linear.weight, Tensor)
        rows, inputs = linear.weight.shape
        weight = _random_numbers(rows, inputs, quant.weight, generator)
        bias = None if linear.bias is None else torch.zeros(rows, dtype=HALF)
        rotation = getattr(linear, "rotation", None)
        packed = PackedLinear(weight, bias, quant.activation, padding, rotation=rotation)
        setattr(block, name, packed)
    if quant.attention is not None:
        set_attention(block, QuantizedAttention(quant.attention, workload.iaaq))
    return block.eval()


def random_model(workload: Workload, layers: int) -> Transformer:
    """A whole packed model of `random_block`s; what is not in low bits is in 16."""
    config, quant = workload.with_layers(layers), workload.quant
    assert quant is not None
    generator = torch.Generator().manual_seed(workload.seed)
    with torch.device("meta"):
        model = Transformer(config)
    for n in range(layers):
        model.blocks[n] = random_block(workload, generator)
    _set_norms(model.final_norm)
    for name, rounded, quantizer in ends(quant):
        rows = _random_numbers(config.vocab_size, config.d_model, quantizer, generator)
        model.set_submodule(name, rounded(rows, HALF))
    for end in (model.embedding, model.head):
        if not isinstance(end, QuantizedRows):
            random_weights(end, HALF, workload.seed)
    return model.eval()


def _random_numbers(
    rows: int, inputs: int, quantizer: Quantizer, generator: torch.Generator
) -> QuantizedWeight:
    """Whole numbers of the quantizer's grid, all alike likely; every row has about length 1."""
    numbers = torch.randint(
        quantizer.lowest, quantizer.highest + 1, (rows, inputs), dtype=torch.int8,
        generator=generator,
    )  # fmt: skip
    deviation = (quantizer.highest - quantizer.lowest + 1) / math.sqrt(12)
    return QuantizedWeight(numbers, torch.full((rows, 1), 1 / (deviation * math.sqrt(inputs))))


def _set_norms(*norms: RMSNorm) -> None:
    for norm in norms:
        norm.weight = nn.Parameter(torch.ones(norm.weight.shape, dtype=HALF), requires_grad=False)
