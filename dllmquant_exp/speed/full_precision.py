"""The yardstick: the fastest full precision that this machine has.

    float32            F.linear: MKL's product with the weight as it is
    float32 MKL packed MKL, weight packed beforehand for the number of rows
    float32 packed     oneDNN, weight packed beforehand
    bfloat16           F.linear: oneDNN, only where the processor multiplies it natively
    bfloat16 packed    the same with the weight packed beforehand

Where a processor has no instructions for bfloat16, torch emulates it at a tenth of the speed of
float32: that would be no yardstick, and is left out. Memory is always counted at 16 bits.
"""

import math

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, Transformer
from dllmquant_exp.speed.machine import native_bfloat16
from dllmquant_exp.speed.workload import Workload

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PACKED, MKL_PACKED = " packed", " MKL packed"


def types() -> tuple[str, ...]:
    """Floating-point types that are fast on this machine."""
    return (FLOAT32, BFLOAT16) if native_bfloat16() else (FLOAT32,)


def candidates() -> tuple[str, ...]:
    """Forms that this machine can run, see the module's docstring."""
    packs = (PACKED,) if torch.backends.mkldnn.is_available() else ()
    by_mkl = (FLOAT32 + MKL_PACKED,) if torch.backends.mkl.is_available() else ()
    return (*(t + suffix for t in types() for suffix in ("", *packs)), *by_mkl)


def dtype_of(form: str) -> torch.dtype:
    """The type of weights and activations."""
    dtype: torch.dtype = getattr(torch, form.partition(" ")[0])
    return dtype


class PrepackedLinear(nn.Module):
    """A linear whose weight stands in the order in which oneDNN or MKL reads it.

    Args:
        linear: in float32, or bfloat16 for oneDNN.
        rows: of the batches to come: oneDNN's order may depend on them, MKL's is for them only.
    """

    def __init__(self, linear: nn.Linear, rows: int, *, by_mkl: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.weight = (torch.ops.mkl._mkl_reorder_linear_weight if by_mkl else reorder)(
            weight, rows
        )
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.rows = rows if by_mkl else None
        # Torch takes the plain weight for its shape, and multiplies with it where rows differ,
        # which is refused here: this one has the shape and no memory, so no weight is held twice.
        self.shape = weight.new_empty(1).expand(weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features].

        Raises:
            ValueError: another number of rows than MKL packed the weight for.
        """
        if self.rows is None:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        if x.numel() != self.rows * x.shape[-1]:
            raise ValueError(
                f"x has shape {list(x.shape)}, and MKL packed this weight for {self.rows} rows"
            )
        return torch.ops.mkl._mkl_linear(x, self.weight, self.shape, self.bias, self.rows)


def prepack(module: nn.Module, form: str, rows: int) -> nn.Module:
    """The module in this form; its linears are replaced where the form is a packed one."""
    if form.endswith(PACKED):
        for name, linear in list(module.named_modules()):
            if isinstance(linear, nn.Linear):
                by_mkl = form.endswith(MKL_PACKED)
                module.set_submodule(name, PrepackedLinear(linear, rows, by_mkl=by_mkl))
    return module


def full_block(workload: Workload, form: str) -> nn.Module:
    """One block in a form, with random weights."""
    with torch.device("meta"):
        block = Block(workload.config)
    return prepack(random_weights(block, dtype_of(form), workload.seed), form, workload.rows)


def full_model(workload: Workload, form: str) -> Transformer:
    """The loaded model in a form; without one, a random one of a single block."""
    if workload.load is not None:
        model = workload.load(dtype_of(form))
    else:
        with torch.device("meta"):
            model = Transformer(workload.with_layers(1))
        random_weights(model, dtype_of(form), workload.seed)
    for block in model.blocks:
        prepack(block, form, workload.rows)
    return model


def random_weights(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """Fill a module made on the meta device: weights N(0, 1 / inputs), norms 1, biases 0.

    How long a decode takes depends on the shape and on what is computed, not on these values.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in list(module.named_parameters()):
        value = torch.empty(parameter.shape, dtype=dtype)
        if value.dim() == 2:
            value.normal_(0, 1 / math.sqrt(value.shape[1]), generator=generator)
        else:
            value.fill_(0 if name.endswith("bias") else 1)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return module.eval()
