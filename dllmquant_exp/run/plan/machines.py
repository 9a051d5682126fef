"""How fast a machine is: measured here in two seconds, or stated for a named GPU."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.plan.work import Machine

UTILISATION = 0.4  # of a GPU's dense peak, where nothing else is stated
BANDWIDTH_USED = 0.7  # of its memory's peak
LAUNCH = 8e-6  # seconds from one kernel to the next in eager PyTorch
ROUNDS, SECONDS_PER_ROUND = 5, 0.08  # of each probe
ROWS = 2048  # tokens of a probe's matrix product: a batch of 32 requests of 64 tokens
LARGEST = 3072  # side of a probe's matrices, at most


@dataclass(frozen=True)
class Gpu:
    """Peak TFLOP/s, dense: in 16 bits on tensor cores, in float32 outside of them; GB/s; GB."""

    half: float
    single: float
    bandwidth: float
    memory: float


# NVIDIA's data sheets: A100 80GB SXM, H100 SXM, RTX A6000 (whose table says sparse: halved).
GPUS = {
    "a100": Gpu(312, 19.5, 2039, 80),
    "h100": Gpu(989.5, 67, 3350, 80),
    "a6000": Gpu(154.8, 38.7, 768, 48),
}


def named_gpu(name: str, dtype: torch.dtype, utilisation: float = UTILISATION) -> Machine:
    """A GPU of `GPUS` at a stated part of its peak."""
    gpu = GPUS[name]
    peak = gpu.half if dtype.itemsize == 2 else gpu.single
    if dtype == torch.float64:
        peak = gpu.single / 2
    moved = gpu.bandwidth * 1e9 * BANDWIDTH_USED
    return Machine(
        name=name,
        flops=peak * 1e12 * utilisation,
        wide_flops=gpu.single * 1e12 * utilisation,
        moved=moved,
        powers=moved / 8,  # read and written in float32
        launch=LAUNCH,
        memory=gpu.memory * 1e9,
        gpu=True,
        source=f"stated: {utilisation:.0%} of {peak:g} TFLOP/s, {BANDWIDTH_USED:.0%} of "
        f"{gpu.bandwidth:g} GB/s, {LAUNCH * 1e6:g} us per operation",
    )


def measured(config: TransformerConfig, dtype: torch.dtype, device: torch.device) -> Machine:
    """This machine with the threads that torch has now, at the sizes of a model."""
    d, f = min(config.d_model, LARGEST), min(config.d_ffn, LARGEST)
    return _measured(d, f, dtype, device, torch.get_num_threads())


@lru_cache  # models of one size are not told apart by noise
def _measured(d: int, f: int, dtype: torch.dtype, device: torch.device, threads: int) -> Machine:
    x = torch.randn(ROWS, d, device=device).to(dtype)
    weight = torch.randn(f, d, device=device).to(dtype)
    wide = torch.randn(ROWS, f, device=device)
    few = torch.zeros(64, device=device)
    seconds = _seconds(
        {
            "product": lambda: torch.nn.functional.linear(x, weight),
            "single": lambda: wide @ weight.float(),
            "scaled": lambda: wide * 1.0001,
            "power": lambda: wide.abs().pow_(2.4),
            "launch": lambda: few.add_(1),
        },
        device,
    )
    flops = 2 * ROWS * d * f
    bandwidth = 2 * wide.numel() * 4 / seconds["scaled"]
    return Machine(
        name="this machine",
        flops=flops / seconds["product"],
        wide_flops=flops / seconds["single"],
        moved=bandwidth,
        powers=wide.numel() / seconds["power"],
        launch=seconds["launch"],
        memory=_memory(device),
        gpu=device.type == "cuda",
        source=f"measured just now: {flops / seconds['product'] / 1e9:.0f} GFLOP/s, "
        f"{bandwidth / 1e9:.1f} GB/s with {threads} threads",
    )


def _seconds(probes: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Of each probe the median of its best round: what else the machine does comes in bursts."""
    rounds: dict[str, list[float]] = {name: [] for name in probes}
    for _ in range(ROUNDS):
        for name, probe in probes.items():
            rounds[name].append(_median_seconds(probe, device))
    return {name: min(medians) for name, medians in rounds.items()}


def _median_seconds(probe: Callable[[], object], device: torch.device) -> float:
    """Of repeated calls, after one that is not counted."""
    probe()
    taken: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < SECONDS_PER_ROUND or len(taken) < 3:
        start = time.perf_counter()
        probe()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
