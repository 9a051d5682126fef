"""QuaRot's rotations: the same function in a basis without outlier channels.

    embedding -> x Q                                        residual stream: x becomes x Q
    q, k, gate, up, head:   W <- W Q                        readers of the stream
    v:                      W <- H_d^T W Q, b <- b H_d      each key-value head on its own
    o:                      W <- Q^T W (H_heads (x) H_d)    its input is rotated by H_heads online
    down:                   W <- Q^T W H_ffn                its input is rotated by H_ffn online

A linear is y = x W^T with rows x, and Q = diag(s) H with random signs s: the signs come first, as
in QuaRot's code (behind H they would only flip rotated channels). Norms must be fused before,
since an RMSNorm commutes with a rotation only when its weight is 1. The embedding's mean is NOT
subtracted (that is for LayerNorm; here it would change the function). The biases of q and k are
added behind the rotation's reach and stay. With grouped-query attention a value head feeds several
query heads, each of which then carries the same H_d.

Left to be done while the model runs are the rotations in front of o and down (`RotatedLinear`), and
of q and k after RoPE if keys are to be quantized (`RotatedAttention`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dllmquant_exp.models.invariance import (
    blocks_of,
    change_inputs,
    change_outputs,
    fuse_norms,
    rotate_residual,
)
from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
from dllmquant_exp.quantization.attention import RotatedAttention
from dllmquant_exp.quantization.hadamard import OnlineHadamard, split
from dllmquant_exp.quantization.linear import RotatedLinear
from dllmquant_exp.quantization.method import ModelStep, Report
from dllmquant_exp.quantization.quantizers import QuantizationError


@dataclass(frozen=True)
class Rotation(ModelStep):
    """The step, and its settings.

    Attributes:
        seed: of the random signs of the residual rotation.
        keys: rotate q and k per head after RoPE, for quantized keys.
    """

    seed: int = 0
    keys: bool = False

    def check_shape(self, config: TransformerConfig) -> None:
        _sizes(config)

    def transform(self, model: Transformer) -> Report:
        return asdict(rotate(model, self.seed, keys=self.keys))

    def restore(self, block: Block, device: torch.device) -> None:
        for name, rotation in online_rotations(block).items():
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            _set(block, name, RotatedLinear(linear.weight, linear.bias, rotation.to(device)))
        if self.keys:
            block.attention = RotatedAttention(block.attention, block.head_dim).to(device)


@dataclass(frozen=True)
class RotationReport:
    """The work of `rotate`.

    Attributes:
        seed: of the signs of Q.
        sizes: each Hadamard matrix by its use, as (power of two, Paley order).
        online: names of the linears that rotate their input at run time.
        keys: whether q and k are rotated after RoPE.
        weight_dtype: type the rotated weights are stored in. Each step rounds to it once; below
            float32 the model's function moves visibly.
    """

    seed: int
    sizes: dict[str, tuple[int, int]]
    online: tuple[str, ...]
    keys: bool
    weight_dtype: str


def rotate(model: Transformer, seed: int, *, keys: bool = False) -> RotationReport:
    """Rotate a full-precision model in place; its outputs stay the same up to rounding.

    Norms are fused first. Weights are converted to float64 some rows at a time.

    Args:
        model: on any device, in any floating-point type; fusing is done in float64.
        seed: of the signs of Q; the same seed gives the same bytes.
        keys: rotate q and k per head after RoPE, which helps only if keys are quantized.

    Raises:
        QuantizationError: a size without a Hadamard matrix, or a model that is rotated already.
            The model is then untouched.
    """
    sizes = _sizes(model.config)
    _check(model)
    fuse_norms(model)
    with torch.no_grad():
        rotate_residual(model, _signed_hadamard(model, seed))
        for block in blocks_of(model):
            _rotate_heads(block)
            _rotate_down(block)
            if keys:
                block.attention = RotatedAttention(block.attention, block.head_dim)
    return RotationReport(
        seed=seed,
        sizes=sizes,
        online=tuple(n for n, m in model.named_modules() if isinstance(m, RotatedLinear)),
        keys=keys,
        weight_dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
    )


def _sizes(config: TransformerConfig) -> dict[str, tuple[int, int]]:
    return {
        name: split(getattr(config, name), name)
        for name in ("d_model", "n_heads", "head_dim", "d_ffn")
    }


def _check(model: Transformer) -> None:
    for n, block in enumerate(blocks_of(model)):
        for name, module in block.named_children():
            if name.endswith("_proj") and not isinstance(module, nn.Linear):
                raise QuantizationError(
                    f"blocks.{n}.{name} is a {type(module).__name__}; rotate a model in full "
                    "precision, once"
                )


def _signed_hadamard(model: Transformer, seed: int) -> Callable[[Tensor], Tensor]:
    """x -> x Q on rows of d_model, Q = diag(s) H."""
    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.weight.device
    d = model.config.d_model
    signs = torch.randint(2, (d,), generator=generator).to(device, torch.float64) * 2 - 1
    hadamard = OnlineHadamard(d, name="d_model").to(device)
    return lambda rows: hadamard(rows * signs)


def online_rotations(block: Block) -> dict[str, OnlineHadamard]:
    """The rotations of the inputs of a rotated block's linears, done while it runs."""
    heads = block.o_proj.in_features // block.head_dim
    return {
        "o_proj": OnlineHadamard(heads, inner=block.head_dim, name="n_heads"),
        "down_proj": OnlineHadamard(block.down_proj.in_features, name="d_ffn"),
    }


def _rotate_heads(block: Block) -> None:
    """H_d into v and o, per head; H_heads into o and online in front of it."""
    v, o, d = block.v_proj, block.o_proj, block.head_dim
    inside = OnlineHadamard(d, name="head_dim").to(v.weight.device)
    across = online_rotations(block)["o_proj"].to(o.weight.device)

    def per_head(x: Tensor) -> Tensor:
        return inside(x.unflatten(-1, (-1, d))).flatten(-2)

    change_outputs(v.weight, per_head)
    if v.bias is not None:
        change_inputs(v.bias[None], per_head)
    change_inputs(o.weight, lambda x: across(per_head(x)))
    _set(block, "o_proj", RotatedLinear(o.weight, o.bias, across))


def _rotate_down(block: Block) -> None:
    down = block.down_proj
    rotation = online_rotations(block)["down_proj"].to(down.weight.device)
    change_inputs(down.weight, rotation)
    _set(block, "down_proj", RotatedLinear(down.weight, down.bias, rotation))


def _set(block: Block, name: str, module: nn.Module) -> None:
    """Replace a linear; its place is typed as nn.Linear, which a RotatedLinear must not be."""
    setattr(block, name, module.train(block.training))
