"""Changes of a model's weights that leave its function as it is (computational invariance).

Everything is computed in float64 and stored in the model's own type, so outputs move by rounding
only. Names and sides: a linear is y = x W^T, so a linear that reads the residual stream takes
W <- W Q, one that writes it W <- Q^T W, when the stream itself becomes x Q.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, Transformer


def change(parameter: Tensor, value: Tensor) -> None:
    """Write a float64 value into a parameter, rounded to its type."""
    with torch.no_grad():
        parameter.copy_(value)


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


def fuse_norms(model: Transformer) -> None:
    """Move every RMSNorm's weight into the linears behind it; the norms' weights become 1."""
    readers = [pair for block in blocks_of(model) for pair in _block_readers(block)]
    for norm, linears in [*readers, (model.final_norm, [model.head])]:
        assert isinstance(norm.weight, Tensor)
        for linear in linears:
            change(linear.weight, linear.weight.double() * norm.weight.double())
        change(norm.weight, torch.ones_like(norm.weight))


def rotate_residual(model: Transformer, rotation: Tensor) -> None:
    """Express the residual stream in another orthonormal basis: x becomes x Q.

    Args:
        model: with fused norms: only a norm without weights commutes with a rotation.
        rotation: Q, [d_model, d_model], orthogonal, float64.
    """
    readers = [linear for b in blocks_of(model) for _, ls in _block_readers(b) for linear in ls]
    writers = [linear for b in blocks_of(model) for linear in (b.o_proj, b.down_proj)]
    for linear in [*readers, model.head]:
        change(linear.weight, linear.weight.double() @ rotation)
    for linear in writers:
        change(linear.weight, rotation.T @ linear.weight.double())
    change(model.embedding.weight, model.embedding.weight.double() @ rotation)


def scale_ffn_channels(block: Block, channels: Tensor, factor: float) -> None:
    """Multiply `channels` of the down projection's input by a factor, undone in its columns."""
    scale = torch.ones(block.up_proj.out_features, dtype=torch.float64)
    scale[channels] = factor
    scale = scale.to(block.up_proj.weight.device)
    change(block.up_proj.weight, block.up_proj.weight.double() * scale[:, None])
    change(block.down_proj.weight, block.down_proj.weight.double() / scale)


def scale_value_channels(block: Block, channels: Tensor, factor: float) -> None:
    """Multiply `channels` of the values by a factor, undone in the output projection's columns.

    Under grouped-query attention a value channel reaches every query head of its group.
    """
    scale = torch.ones(block.v_proj.out_features, dtype=torch.float64)
    scale[channels] = factor
    scale = scale.to(block.v_proj.weight.device)
    change(block.v_proj.weight, block.v_proj.weight.double() * scale[:, None])
    if block.v_proj.bias is not None:
        change(block.v_proj.bias, block.v_proj.bias.double() * scale)
    per_head = scale.unflatten(0, (-1, block.head_dim))
    group = block.o_proj.in_features // block.v_proj.out_features
    columns = per_head.repeat_interleave(group, dim=0).flatten()
    change(block.o_proj.weight, block.o_proj.weight.double() / columns)
