"""Operations, memory and disk of loading a checkpoint and of quantizing it."""

from dataclasses import dataclass

from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.quantization.awq import RATIOS
from dllmquant_exp.quantization.awq_clip import CLIP_RATIOS as AWQ_CLIPS
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import CLIP_RATIOS
from dllmquant_exp.run.plan.forwards import (
    PASSES_INPUT,
    WIDE,
    Load,
    Precision,
    block_work,
)
from dllmquant_exp.run.plan.shapes import all_parameters, block_parameters
from dllmquant_exp.run.plan.work import Work

FLOAT64 = 8
STRIP = 256  # columns of a second moment that are summed together
PASSES_CLIP = 12  # per weight and candidate of a clip search, beside its power
PASSES_ROTATION = 30  # per weight: to float64, two fast products, back
PASSES_ROUND = 20  # per weight: range, rounding, packing, error
READ_RATE = 1e9  # bytes of a checkpoint read per second
HOST_OUTLIERS = 0.8  # seconds to find an embedded model's principal components


@dataclass(frozen=True)
class _Group:
    """Linears of a block that share an input; `before` is the share of a block run to reach it."""

    inputs: int
    outputs: int
    linears: int
    before: float


def _groups(config: TransformerConfig) -> list[_Group]:
    d, f, kv = config.d_model, config.d_ffn, config.n_kv_heads * config.head_dim
    total = block_parameters(config)
    qkv, o, up = d * d + 2 * d * kv, d * d, 2 * d * f
    return [
        _Group(d, d + 2 * kv, 3, 0.05),
        _Group(d, d, 1, qkv / total),
        _Group(d, 2 * f, 2, (qkv + o) / total),
        _Group(f, d, 1, (qkv + o + up) / total),
    ]


def load_work(config: TransformerConfig, itemsize: int, outliers: bool) -> Work:
    """Reading a checkpoint and, for an embedded model, putting outlier channels in."""
    host = all_parameters(config) * 2 / READ_RATE + (HOST_OUTLIERS if outliers else 0.0)
    return Work(moved=all_parameters(config) * (2 + 4 * itemsize), host=host)


def quantize_work(
    config: TransformerConfig,
    method: Method,
    quant: QuantSettings,
    how: Precision,
    states: Load | None,
) -> Work:
    """Of `quantization.pipeline.quantize`.

    Args:
        states: one forward pass over the calibration set, or None where nothing is measured.
    """
    weights = block_parameters(config)
    work = Work(moved=weights * PASSES_ROUND * WIDE, launches=7 * 60)
    if "rotation" in method.steps:
        work += Work(moved=weights * PASSES_ROTATION * FLOAT64, launches=300)
    if quant.weight is not None and quant.weight.clip_search is not None:
        d, kv = config.d_model, config.n_kv_heads * config.head_dim
        searched = (
            d * d + d * kv if "awq" in method.steps else weights
        )  # AWQ searches q's and k's only
        work += _clip_search(searched)
    if states is None:
        return work * config.n_layers
    full = Precision(how.itemsize, rotated=how.rotated)
    if quant.weight is not None and "awq" in method.steps:
        work += _awq(config, full, quant, states)
    if quant.weight is not None and "gptq" in method.steps:
        for group in _groups(config):
            work += block_work(config, full, states) * group.before
            work += _gptq(group, states.tokens)
    return (work + block_work(config, full, states)) * config.n_layers


def _clip_search(weights: float) -> Work:
    tried = weights * len(CLIP_RATIOS)
    tiles = max(1.0, weights / 2**20)
    return Work(powers=tried, moved=tried * PASSES_CLIP * WIDE,
                launches=8 * len(CLIP_RATIOS) * max(7.0, tiles))  # fmt: skip


def _gptq(group: _Group, tokens: float) -> Work:
    """Second moments, one factorization, and the recursion over the columns."""
    n, rows = group.inputs, group.outputs
    products = _second_moment(n, tokens) + n**3 / 3 + rows * n**2
    moved = WIDE * (3 * tokens * n + 12 * n * n + n * rows * (64 + 12))
    return Work(wide_flops=products, moved=moved, launches=8 * n + 200)


def _second_moment(features: int, tokens: float) -> float:
    """Flops of one, whose strips reach as far as the diagonal; see quantization.hessian."""
    ends = [min(low + STRIP, features) for low in range(0, features, STRIP)]
    return sum(2.0 * tokens * (end - low) * end for low, end in zip([0, *ends], ends, strict=False))


def _awq(config: TransformerConfig, how: Precision, quant: QuantSettings, states: Load) -> Work:
    """Scales by trying every ratio on every state, then clips from second moments."""
    whole = block_work(config, how, states)
    d, kv = config.d_model, config.n_kv_heads * config.head_dim
    work = Work()
    tried = len(RATIOS) + 1  # and once as it is
    for number, group in enumerate(_groups(config)):
        n, rows = group.inputs, group.outputs
        judged = rows * n
        judged += {0: d * d, 2: d * config.d_ffn}.get(number, 0)  # o behind q, k, v; down
        if number != 1 or kv == d:
            passes = PASSES_INPUT * group.linears * n + 8 * rows + 6 * d + 4 * n
            each = Work(
                flops=2 * states.tokens * judged + (4 * d * states.squares if number == 0 else 0),
                moved=WIDE * (states.tokens * passes + 25 * rows * n),
                launches=states.calls * (20 * group.linears + 30),
            )
            work += whole * group.before + each * tried
        moments = _second_moment(n, states.tokens) + 2 * states.tokens * n * (n + rows)
        products = 4.0 * len(AWQ_CLIPS) * rows * n * n
        work += whole * group.before + Work(
            wide_flops=moments + products,
            moved=WIDE * (states.tokens * (25 * n + 4 * rows) + len(AWQ_CLIPS) * 30 * rows * n),
            launches=states.calls * 40 + 60 * len(AWQ_CLIPS),
        )
    return work


def quantize_bytes(
    config: TransformerConfig, method: Method, how: Precision, states: Load | None
) -> float:
    """Memory beside the model: states on their way, second moments, copies of a block's weights."""
    weights = block_parameters(config)
    if states is None:
        return 6.0 * WIDE * weights / 3
    d, f = config.d_model, config.d_ffn
    hidden = 2 * states.tokens * d * how.itemsize
    call = states.batch * states.longest * (8 * d + 6 * f) * WIDE
    found = hidden + call
    if "gptq" in method.steps:
        widest = max(d, f)
        found = max(found, hidden + WIDE * (6 * widest**2 + 6 * 2 * d * f))
    if "awq" in method.steps:
        judged = states.tokens * (f + 2 * f) * how.itemsize  # inputs and outputs of one group
        found = max(found, hidden + judged + call + WIDE * 4 * f * f)
    return found


def weights_disk(config: TransformerConfig, quant: QuantSettings) -> float:
    """Rounded blocks: one byte per weight, scales, norms."""
    groups = 1 if quant.group_size is None else config.d_model / quant.group_size
    scales = (4 * config.d_model + 3 * config.d_ffn) * groups * WIDE
    return config.n_layers * (block_parameters(config) + scales + 4000)
