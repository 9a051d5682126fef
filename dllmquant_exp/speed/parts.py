"""Parts of a low-bit decode and the time that each takes."""

from contextlib import ExitStack
from functools import partial

import torch
from torch import nn

from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.attention import QuantizedAttention
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.packed import PackedLinear
from dllmquant_exp.speed.timing import Stopwatch, sampled, seconds
from dllmquant_exp.speed.workload import Workload


def parts(
    workload: Workload, model: Transformer, layers: int, dtype: torch.dtype
) -> dict[str, float]:
    """Shares of a decode's time in linears (rotations included), attention and head; and the
    rotations' share, timed by themselves.

    Args:
        layers: that the model stands for; the time in its blocks counts as often.
        dtype: of the activations.
    """
    packed = [m for m in model.modules() if isinstance(m, PackedLinear)]
    watched: dict[str, list[nn.Module]] = {
        "linears": [*packed],
        "attention": [m for m in model.modules() if isinstance(m, QuantizedAttention)],
        "blocks": list(model.blocks),
        "head": [model.head],
    }
    watches = {name: Stopwatch() for name in watched}
    with ExitStack() as stack:
        for name, modules in watched.items():
            stack.enter_context(watches[name].running(modules))
        total = seconds(lambda: workload.decode(model))
    found = {name: watch.total for name, watch in watches.items()}
    forwards = min(workload.decoding.steps, workload.decoding.gen_length)
    found["rotations"] = 0.0
    for layer in packed:
        if layer.rotation is not None:
            x = torch.randn(workload.rows, layer.in_features).to(dtype)
            found["rotations"] += forwards * sampled(partial(rotated, x, layer.rotation))()
    times = layers / len(model.blocks)
    total += (times - 1) * found.pop("blocks")
    for name in ("linears", "attention", "rotations"):
        found[name] *= times
    return {name: round(value / total, 4) for name, value in found.items()}
