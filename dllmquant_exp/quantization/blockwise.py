"""One block, its inputs, and how much each token counts: the view of a calibrated step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer, rotary_angles
from dllmquant_exp.quantization.quantizers import QuantizationError


@dataclass(frozen=True)
class TokenBatch:
    """A padded batch of calibration states, as the model is given it.

    Attributes:
        tokens: [B, T] token ids.
        attention_mask: [B, T] bool, True at real tokens.
        weights: [B, T], how much each token counts: 1 for every real token, or CGQ's w_t (Eq. 10);
            0 at padding.
    """

    tokens: Tensor
    attention_mask: Tensor
    weights: Tensor


@dataclass(frozen=True)
class BlockBatch:
    """A padded batch of calibration states on its way through the blocks.

    Attributes:
        hidden: [B, T, d_model], the block's input.
        cos, sin: [T, head_dim / 2], the RoPE angles.
        mask: [B, 1, 1, T] bool, True at real tokens; None where no row is padded.
        weights: [B, T], see `TokenBatch`.
    """

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    weights: Tensor

    def run(self, block: nn.Module) -> Tensor:
        """The block's output, [B, T, d_model]."""
        output: Tensor = block(self.hidden, self.cos, self.sin, self.mask)
        return output

    def advanced(self, block: nn.Module) -> "BlockBatch":
        """The same states at the next block."""
        return replace(self, hidden=self.run(block))


def first_block_batches(model: Transformer, batches: Sequence[TokenBatch]) -> list[BlockBatch]:
    """The inputs of the first block: embedded tokens.

    Raises:
        QuantizationError: no calibration states, or none that counts.
    """
    if not any(bool((batch.weights > 0).any()) for batch in batches):
        raise QuantizationError(
            "the calibration set is empty: there is no token that counts; give more samples"
        )
    found = []
    for batch in batches:
        x = model.embedding(batch.tokens.to(model.embedding.weight.device))
        config = model.config
        cos, sin = rotary_angles(x.shape[1], config.head_dim, config.rope_theta, x)
        keep = batch.attention_mask.to(x.device)
        mask = None if bool(keep.all()) else keep[:, None, None, :]
        found.append(BlockBatch(x, cos, sin, mask, batch.weights.to(x.device)))
    return found


class _Reached(Exception):
    """The linear that was waited for has its input; nothing behind it need be computed."""


def layer_input(block: nn.Module, name: str, batch: BlockBatch) -> Tensor:
    """Input of a layer, [B, T, in_features], while the block runs on a batch up to there.

    Raises:
        QuantizationError: values that are not finite at a token that counts.
    """
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen.append(args[0])
        raise _Reached

    hook = block.get_submodule(name).register_forward_pre_hook(stop)
    try:
        batch.run(block)
    except _Reached:
        pass
    finally:
        hook.remove()
    (x,) = seen
    if not bool(torch.isfinite(x[batch.weights > 0]).all()):
        raise QuantizationError(
            f"calibration gives {name} inputs that are NaN or infinite; check the checkpoint, or "
            "use dtype=float32"
        )
    return x


def linear_inputs(block: nn.Module, name: str, batch: BlockBatch) -> tuple[Tensor, Tensor]:
    """The inputs of a linear's weight, for the tokens that count.

    Returns:
        inputs [n, in_features], behind an online rotation if the linear has one, and weights [n].

    Raises:
        QuantizationError: see `layer_input`.
    """
    counts = batch.weights > 0
    x = layer_input(block, name, batch)[counts]
    rotation = getattr(block.get_submodule(name), "rotation", None)
    return x if rotation is None else rotation(x), batch.weights[counts]


@contextmanager
def replaced(block: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Put modules in the places of a block's own, by name, and the block's own back at the end."""
    originals = {name: block.get_submodule(name) for name in modules}
    try:
        for name, module in modules.items():
            setattr(block, name, module)
        yield
    finally:
        for name, original in originals.items():
            setattr(block, name, original)
