"""Outlier channels for the embedded models, which are too small to have grown their own.

Large language models carry a few activation channels that are many times larger than the rest;
they are why 4-bit activations are hard. Here they are made without changing the function:

1. norms are fused and the residual stream is rotated into its own principal components, so that
   its variance sits in few channels (a rescaling of norm and columns alone would be cancelled
   when a method fuses the norms);
2. some channels of the down projection's input and of the values are multiplied by `strength`,
   and the columns that read them divided by it.

Full-precision outputs stay the same up to rounding. Tables label the model as one with outliers put
in by hand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.embedded.batches import BUCKETS, make_batch
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.models.invariance import (
    blocks_of,
    fuse_norms,
    rotate_residual,
    scale_ffn_channels,
    scale_value_channels,
)
from dllmquant_exp.models.one_thread import one_thread
from dllmquant_exp.models.transformer import Transformer


@dataclass(frozen=True)
class OutlierSettings:
    """Strength and number of the outliers; frozen before methods are compared.

    Attributes:
        strength: factor of the chosen channels, at least 1; 1 leaves only the rotation of step 1.
        ffn_channels, value_channels: how many of each block.

    Raises:
        ValueError: a setting out of range.
    """

    strength: float
    ffn_channels: int
    value_channels: int

    def __post_init__(self) -> None:
        if not 1 <= self.strength <= 1000:
            raise ValueError(f"strength = {self.strength} must be between 1 and 1000")
        for name in ("ffn_channels", "value_channels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must not be negative")


def add_outliers(
    model: Transformer, tokenizer: PreTrainedTokenizerBase, settings: OutlierSettings
) -> None:
    """Give a model outlier channels in place; the same ones at every call.

    Raises:
        ValueError: more channels are asked for than the model has.
    """
    config = model.config
    for name, wanted, there in (
        ("ffn_channels", settings.ffn_channels, config.d_ffn),
        ("value_channels", settings.value_channels, config.n_kv_heads * config.head_dim),
    ):
        if wanted > there:
            raise ValueError(f"{name} = {wanted}, but a block of this model has {there}")
    basis = principal_components(model, tokenizer)
    fuse_norms(model)
    rotate_residual(model, lambda rows: rows @ basis)
    generator = torch.Generator().manual_seed(0)
    for block in blocks_of(model):
        ffn = torch.randperm(config.d_ffn, generator=generator)[: settings.ffn_channels]
        values = torch.randperm(block.v_proj.out_features, generator=generator)
        scale_ffn_channels(block, ffn, settings.strength)
        scale_value_channels(block, values[: settings.value_channels], settings.strength)


@torch.no_grad()
def principal_components(model: Transformer, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Orthonormal basis of the residual stream by falling variance, [d_model, d_model], float64.

    Measured at the input of every block, on one training batch (not on evaluation items).
    """
    d = model.config.d_model
    device = model.embedding.weight.device
    second_moment = torch.zeros(d, d, dtype=torch.float64, device=device)
    keep: Tensor

    def add(_: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0][keep].double()
        second_moment.addmm_(x.T, x)

    hooks = [block.register_forward_pre_hook(add) for block in model.blocks]
    for inputs, keep in training_inputs(model, tokenizer):
        model.hidden(inputs, keep)
    for hook in hooks:
        hook.remove()
    with one_thread():
        _, vectors = torch.linalg.eigh(second_moment)
    return vectors.flip(1)


def training_inputs(
    model: Transformer, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [B, T] with their masks, and which are real, of one training step; always the same."""
    device = model.embedding.weight.device
    dice = Dice("outliers", "train")
    for counts in BUCKETS:
        batch = make_batch(counts, dice, tokenizer)
        inputs = batch.tokens.masked_fill(batch.masked, model.config.mask_token_id)
        yield inputs.to(device), batch.attention_mask.to(device)
