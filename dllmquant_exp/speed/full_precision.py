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
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, Transformer, TransformerConfig
from dllmquant_exp.speed.machine import native_bfloat16
from dllmquant_exp.speed.memory import weight_bytes
from dllmquant_exp.speed.workload import Workload

FLOAT32, BFLOAT16 = "float32", "bfloat16"
PACKED, MKL_PACKED = " packed", " MKL packed"
DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}


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
    return DTYPES[form.partition(" ")[0]]


class PrepackedLinear(nn.Module):
    """A linear whose weight stands in the order in which oneDNN reads it.

    Args:
        linear: in float32 or bfloat16.
        rows: of the batches to come, which the order may depend on.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), rows)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y


class MklLinear(nn.Module):
    """A linear in float32 whose weight stands in the order in which MKL reads it.

    Args:
        rows: of the batches to come; the order is for this number only.
    """

    def __init__(self, linear: nn.Linear, rows: int) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.weight = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.rows = rows
        # Torch takes the plain weight for its shape, and multiplies with it where rows differ,
        # which is refused here: this one has the shape and no memory, so no weight is held twice.
        self.shape = weight.new_empty(1).expand(weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features] -> [..., out_features].

        Raises:
            ValueError: another number of rows.
        """
        if x.numel() != self.rows * x.shape[-1]:
            raise ValueError(
                f"x has shape {list(x.shape)}, and MKL packed this weight for {self.rows} rows"
            )
        y: Tensor = torch.ops.mkl._mkl_linear(x, self.weight, self.shape, self.bias, self.rows)
        return y


def prepack(module: nn.Module, form: str, rows: int) -> nn.Module:
    """The module in this form; its linears are replaced where the form is a packed one."""
    if form.endswith(PACKED):
        by_mkl = form.endswith(MKL_PACKED)
        made: Callable[[nn.Linear, int], nn.Module] = MklLinear if by_mkl else PrepackedLinear
        for name, linear in list(module.named_modules()):
            if isinstance(linear, nn.Linear):
                module.set_submodule(name, made(linear, rows))
    return module


def full_block(workload: Workload, form: str) -> nn.Module:
    """One block in a form, with random weights."""
    with torch.device("meta"):
        block = Block(workload.config)
    return prepack(random_weights(block, dtype_of(form), workload.seed), form, workload.rows)


def full_model(workload: Workload, form: str) -> Transformer:
    """The loaded model in a form; without one, a random one of a single block."""
    dtype = dtype_of(form)
    if workload.load is not None:
        model = workload.load(dtype)
    else:
        with torch.device("meta"):
            model = Transformer(workload.with_layers(1))
        random_weights(model, dtype, workload.seed)
    for block in model.blocks:
        prepack(block, form, workload.rows)
    return model


def full_bytes(config: TransformerConfig, form: str) -> int:
    """Bytes that the weights of a shape take in a form."""
    return weight_bytes(config, 16, 16, 16) // 2 * dtype_of(form).itemsize


def random_weights(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """Fill a module made on the meta device: weights N(0, 1 / inputs), norms 1, biases 0.

    How long a decode takes depends on the shape and on what is computed, not on these values.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in list(module.named_parameters()):
        value = torch.empty(parameter.shape, dtype=dtype)
        if value.dim() == 2:
            deviation = 1 / math.sqrt(parameter.shape[1])
            value.normal_(0, deviation, generator=generator)
        else:
            value.fill_(0 if name.endswith("bias") else 1)
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return module.eval()
