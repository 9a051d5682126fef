"""Operations and memory of forward passes, in full precision or quantized.

Counted are matrix products, and passes over tensors: how often an element is read or written by
the operations of `models.transformer`, `quantization.linear` and `quantization.attention`. A fused
attention keeps the softmax output to itself; a quantized one writes it (and is counted so on the
CPU too, where its kernel does not: there the plan is a little too high).
"""

from dataclasses import dataclass
from functools import cache

from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.hadamard import factors
from dllmquant_exp.run.plan.shapes import all_parameters, block_parameters
from dllmquant_exp.run.plan.work import Work

WIDE = 4  # bytes of a number in float32
PASSES = 40  # per token and channel of the stream: norms, rotary angles, residual sums
PASSES_FFN = 6  # silu(gate) * up
PASSES_INPUT = 14  # of a quantized linear's input: its range, division, rounding, clamp, zero point
PASSES_OUTPUT = 6  # of its output: two scales and a cast
PASSES_PROBABILITIES = 14  # of a quantized softmax output
PASSES_LOGITS = 10  # float32, check, softmax, best token
LAUNCHES_BLOCK, LAUNCHES_QUANTIZED, LAUNCHES_ATTENTION, LAUNCHES_STEP = 45, 18, 35, 80
PACKED_SPEED = 1.4  # of int4 kernels against float32 products, at the embedded models' sizes
PACKED_SPEED_WIDE = 2.5  # and for d_model of 512 and more
PACKED_PASSES = 0.3  # of the passes of a fake-quantized linear: the kernel rounds on its way


@dataclass(frozen=True)
class Load:
    """Forward passes of a model. All counts are sums over them.

    Attributes:
        calls: forward calls, each of a batch.
        rows: sequences.
        tokens: of all rows.
        squares: sum over rows of their length squared.
        asked: positions whose logits are computed.
        longest: tokens of the longest row.
        batch: rows per call.
        asked_at_once: positions whose logits are computed in one call, at most.
    """

    calls: float = 0.0
    rows: float = 0.0
    tokens: float = 0.0
    squares: float = 0.0
    asked: float = 0.0
    longest: float = 0.0
    batch: float = 0.0
    asked_at_once: float = 0.0


@dataclass(frozen=True)
class Precision:
    """What of a model's forward pass is quantized.

    Attributes:
        itemsize: bytes of the model's numbers.
        linears: inputs and weights of the block linears are on grids.
        attention: the softmax output or the values are.
        alphas: products with the values per attention, more than 1 with IA-AQ's online search.
        rotated: o and down rotate their inputs.
        packed: linears are multiplied in integers, 4 bits stored.
    """

    itemsize: int
    linears: bool = False
    attention: bool = False
    alphas: int = 1
    rotated: bool = False
    packed: bool = False


def forward_work(config: TransformerConfig, how: Precision, load: Load) -> Work:
    """Of the whole model, logits at the asked positions included."""
    blocks = block_work(config, how, load) * config.n_layers
    head = Work(
        flops=2 * load.asked * config.d_model * config.vocab_size,
        moved=load.asked * config.vocab_size * WIDE * PASSES_LOGITS,
        launches=load.calls * LAUNCHES_STEP,
    )
    return blocks + head


def block_work(config: TransformerConfig, how: Precision, load: Load) -> Work:
    """Of one block."""
    d, f, heads = config.d_model, config.d_ffn, config.n_heads
    linear = 2.0 * load.tokens * block_parameters(config)
    attended = 2.0 * d * load.squares
    moved = load.tokens * (PASSES * d + PASSES_FFN * f) * how.itemsize
    launches = load.calls * LAUNCHES_BLOCK
    if how.packed:
        linear /= PACKED_SPEED_WIDE if d >= 512 else PACKED_SPEED
    if how.linears:
        share = PACKED_PASSES if how.packed else 1.0
        moved += share * WIDE * load.tokens * quantized_passes(config)
        launches += load.calls * 7 * LAUNCHES_QUANTIZED * share
    if how.attention:
        moved += WIDE * PASSES_PROBABILITIES * heads * load.squares
        launches += load.calls * LAUNCHES_ATTENTION * how.alphas
    work = Work(
        flops=linear + attended * (1 + (how.alphas if how.alphas == 1 else how.alphas + 1)),
        moved=moved,
        launches=launches,
    )
    return work + (_online_rotation(config, load) if how.rotated else Work())


def quantized_passes(config: TransformerConfig) -> float:
    """Elements read or written per token by rounding the inputs of a block's seven linears."""
    d, f, kv = config.d_model, config.d_ffn, config.n_kv_heads * config.head_dim
    return PASSES_INPUT * (6 * d + f) + PASSES_OUTPUT * (3 * d + 2 * kv + 2 * f)


def _online_rotation(config: TransformerConfig, load: Load) -> Work:
    """In front of o (across heads) and of down."""
    flops = moved = 0.0
    for size, width in ((config.n_heads, config.d_model), (config.d_ffn, config.d_ffn)):
        flops += 2.0 * load.tokens * width * _factor_sizes(size)
        moved += 6.0 * load.tokens * width * WIDE
    return Work(flops=flops, moved=moved, launches=20 * load.calls)


@cache
def _factor_sizes(size: int) -> int:
    """Of the small matrices that an online rotation multiplies with, added up."""
    return sum(len(factor) for factor in factors(size))


def weight_bytes(config: TransformerConfig, how: Precision) -> float:
    """Of the model as it is evaluated."""
    blocks = block_parameters(config) * config.n_layers
    rest = all_parameters(config) - blocks
    return blocks * (0.5 if how.packed else how.itemsize) + rest * how.itemsize


def activation_bytes(config: TransformerConfig, how: Precision, load: Load) -> float:
    """At the peak of one forward call: a block's tensors, or the logits."""
    tokens = load.batch * load.longest
    wide = WIDE if how.linears else how.itemsize
    block = tokens * (8 * config.d_model + 4 * config.d_ffn) * wide
    logits = load.asked_at_once * config.vocab_size * (how.itemsize + 3 * WIDE)
    return max(block, logits) + tokens * config.d_model * how.itemsize
