"""Where the time of a decode in low bits goes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.speed.timing import Stopwatch, sampled, seconds
from dllmquant_exp.speed.variants import Subject, decode


def parts(
    subject: Subject, model: Transformer, layers: int, dtype: torch.dtype
) -> dict[str, float]:
    """Share of a decode's time in linears (rotations included), attention and head; and, of its
    own, that of the rotations.

    Args:
        layers: that the model stands for; what its blocks take counts as often.
        dtype: of the activations.
    """
    modules = list(model.modules())
    inside: Mapping[str, Sequence[nn.Module]] = {
        "linears": [m for m in modules if isinstance(m, PackedLinear)],
        "attention": [m for m in modules if isinstance(m, QuantizedAttention)],
        "blocks": list(model.blocks),
    }
    watches = {name: Stopwatch() for name in (*inside, "head")}
    with ExitStack() as stack:
        for name, group in {**inside, "head": [model.head]}.items():
            stack.enter_context(watches[name].running(group))
        total = seconds(lambda: decode(subject, model))
    found = {name: watch.total for name, watch in watches.items()}
    forwards = min(subject.decoding.steps, subject.decoding.gen_length)
    found["rotations"] = forwards * sum(
        sampled(_rotation_run(subject, layer, dtype))()
        for layer in modules
        if isinstance(layer, PackedLinear) and layer.rotation is not None
    )
    times = layers / len(model.blocks)
    total += (times - 1) * found.pop("blocks")
    for name in ("linears", "attention", "rotations"):
        found[name] *= times
    return {name: round(value / total, 4) for name, value in found.items()}


def _rotation_run(
    subject: Subject, layer: PackedLinear, dtype: torch.dtype
) -> Callable[[], Tensor]:
    x = torch.randn(subject.rows, layer.in_features).to(dtype)
    rotation = layer.rotation
    assert rotation is not None
    return lambda: rotated(x, rotation)
