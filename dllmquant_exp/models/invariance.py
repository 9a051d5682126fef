"""Changes of a model's weights that leave its function as it is (computational invariance).

Everything is computed in float64, some rows at a time, and stored in the model's own type, so
outputs move by rounding only. Names and sides: a linear is y = x W^T, so a linear that reads the
residual stream takes W <- W Q, one that writes it W <- Q^T W, when the stream itself becomes x Q.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, Transformer

_CHUNK = 2**24  # numbers converted to float64 at a time: 128 MB

Rotation = Callable[[Tensor], Tensor]  # rows [n, features] -> the same shape


@torch.no_grad()
def change_inputs(weight: Tensor, change: Rotation) -> None:
    """W <- W R in place, for `change` x -> x R on rows."""
    for rows in weight.split(max(1, _CHUNK // weight.shape[1])):
        rows.copy_(change(rows.double()))


def change_outputs(weight: Tensor, change: Rotation) -> None:
    """W <- R^T W in place: outputs y = x W^T become y R."""
    change_inputs(weight.T, change)


def _block_readers(block: Block) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """Each norm of a block and the linears behind it."""
    return [
        (block.attention_norm, [block.q_proj, block.k_proj, block.v_proj]),
        (block.ffn_norm, [block.gate_proj, block.up_proj]),
    ]


def blocks_of(model: Transformer) -> Iterable[Block]:
    for block in model.blocks:
        assert isinstance(block, Block)
        yield block


def norm_readers(model: Transformer) -> list[tuple[nn.Module, list[nn.Linear]]]:
    """Each norm of a model in the order of a forward pass, and the linears behind it."""
    readers = [pair for block in blocks_of(model) for pair in _block_readers(block)]
    return [*readers, (model.final_norm, [model.head])]


def fuse_norms(model: Transformer) -> None:
    """Move every RMSNorm's weight into the linears behind it; the norms' weights become 1."""
    for norm, linears in norm_readers(model):
        assert isinstance(norm.weight, Tensor)
        scale = norm.weight.detach().double()
        for linear in linears:
            change_inputs(linear.weight, lambda rows: rows * scale)  # noqa: B023
        nn.init.ones_(norm.weight)


def rotate_residual(model: Transformer, rotation: Rotation) -> None:
    """Express the residual stream in another orthonormal basis: x becomes x Q.

    Args:
        model: with fused norms: only a norm without weights commutes with a rotation.
        rotation: x -> x Q on rows of d_model, in float64.
    """
    readers = [linear for b in blocks_of(model) for _, ls in _block_readers(b) for linear in ls]
    for weight in (model.embedding.weight, model.head.weight, *(r.weight for r in readers)):
        change_inputs(weight, rotation)
    for block in blocks_of(model):
        for writer in (block.o_proj, block.down_proj):
            change_outputs(writer.weight, rotation)


def scale_ffn_channels(block: Block, channels: Tensor, factor: float | Tensor) -> None:
    """Multiply `channels` of the down projection's input by a factor, undone in its columns.

    factor: of all of them, or one for each.
    """
    scale = _factors(block.up_proj, channels, factor)
    change_outputs(block.up_proj.weight, lambda rows: rows * scale)
    change_inputs(block.down_proj.weight, lambda rows: rows / scale)


def scale_value_channels(block: Block, channels: Tensor, factor: float) -> None:
    """Multiply `channels` of the values by a factor, undone in the output projection's columns.

    Under grouped-query attention a value channel reaches every query head of its group.
    """
    scale = _factors(block.v_proj, channels, factor)
    change_outputs(block.v_proj.weight, lambda rows: rows * scale)
    if block.v_proj.bias is not None:
        change_inputs(block.v_proj.bias[None], lambda rows: rows * scale)
    per_head = scale.unflatten(0, (-1, block.head_dim))
    group = block.o_proj.in_features // block.v_proj.out_features
    columns = per_head.repeat_interleave(group, dim=0).flatten()
    change_inputs(block.o_proj.weight, lambda rows: rows / columns)


def _factors(linear: nn.Linear, channels: Tensor, factor: float | Tensor) -> Tensor:
    """One per output: `factor` (or its own one) for the channels, 1 for the others."""
    scale = torch.ones(linear.out_features, dtype=torch.float64)
    scale[channels] = torch.as_tensor(factor, dtype=torch.float64)
    return scale.to(linear.weight.device)
