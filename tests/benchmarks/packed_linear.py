r"""Packed 4-bit linears against full precision and fake quantization, side by side in one process.

    python tests/benchmarks/packed_linear.py --shapes 2048x192x512 2048x512x192 1x192x192
    python tests/benchmarks/packed_linear.py --shapes 256x4096x4096 --seconds 20
    python tests/benchmarks/packed_linear.py --block 256x4096x12288
    python tests/benchmarks/packed_linear.py --shapes 256x4096x4096 --profile

Shapes are rows x inputs x outputs. In each round every variant runs once, in random order, so that
whatever else the machine does hits all of them. After `--seconds` come the medians, quartiles and
minima of their times, and how many times as fast as the best full precision they are: the median
over the rounds of the ratios within a round. `--threads` defaults to torch's choice. For a
processor without AVX-512:

    MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \
        DLLMQUANT_KERNELS=avx2 python tests/benchmarks/packed_linear.py --shapes 256x4096x4096

    float32    F.linear, MKL's product with its weight as it is
    ..._MKL_packed  MKL, weight packed beforehand for this number of rows
    ..._packed      oneDNN, weight packed beforehand
    bfloat16   F.linear, and packed by oneDNN; both only where the processor multiplies it:
               emulated, it is no yardstick
    fake       QuantizedLinear, activations of 4 bits
    a4, a8     PackedLinear, activations of 4 and 8 bits
    hadamard   the online rotation of the inputs alone, by the fast transform
    ..._torch  and by products with small matrices

`--block` times a transformer block of LLaDA's shape, rows x d_model x d_ffn, heads of 128: the same
forms of full precision, low bits, and those with QuaRot's online rotations in front of o and down.

`--profile` prints instead where the time of a4 and a8 goes, in % of the time of all threads:
rounding activations, unpacking weights, multiplying, scaling the sums; the rest is between these,
and waiting. It compiles the kernels anew, with timed_parts.c in front of their parts.
"""

import argparse
import copy
import ctypes
import json
import os
import random
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import Block, TransformerConfig, rotary_angles
from dllmquant_exp.quantization.hadamard import OnlineHadamard
from dllmquant_exp.quantization.kernels import build, execution
from dllmquant_exp.quantization.kernels.fast_hadamard import rotated
from dllmquant_exp.quantization.linear import QuantizedLinear
from dllmquant_exp.quantization.packed import PackedLinear, pack_linear
from dllmquant_exp.quantization.pipeline import BLOCK_LINEARS
from dllmquant_exp.quantization.quantizers import (
    QuantizationError,
    QuantizedWeight,
    Quantizer,
    quantize_weight,
)
from dllmquant_exp.speed.full_precision import candidates, dtype_of, prepack
from dllmquant_exp.speed.machine import native_bfloat16

A4, A8 = Quantizer(4, False, "per_token"), Quantizer(8, False, "per_token")
W4 = Quantizer(4, True, "per_channel")
FULL = {form: form.replace(" ", "_") for form in candidates()}
PARTS = ("rounding", "unpacking", "multiplying", "scaling")  # as in timed_parts.c
WRAPPED = (
    "quantize_rows", "unpack", "multiply_avx2", "multiply_avx512", "multiply_amx", "scale_sums",
)  # fmt: skip
SHORTEST = 2e-4  # seconds of one sample; shorter calls are repeated within it
Variants = dict[str, Callable[[], Any]]


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    if arguments.profile:
        with tempfile.TemporaryDirectory() as folder:
            library = timed_kernels(Path(folder))
            for shape in arguments.shapes:
                profile(shape, library, arguments.seconds)
        return
    where = {
        "execution": execution(),
        "threads": arguments.threads,
        "native bfloat16": native_bfloat16(),
    }
    print(json.dumps(where), flush=True)
    for shape in arguments.shapes:
        report(shape, *of_linear(*sizes(shape)), arguments.seconds)
    for shape in arguments.block:
        report(f"block {shape}", *of_block(*sizes(shape)), arguments.seconds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shapes", nargs="*", default=[])
    parser.add_argument("--block", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=10, help="per shape")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def sizes(shape: str) -> tuple[int, int, int]:
    rows, inputs, outputs = (int(size) for size in shape.split("x"))
    return rows, inputs, outputs


def of_linear(rows: int, inputs: int, outputs: int) -> tuple[Variants, float]:
    """The variants that are timed for one linear, and its operations."""
    numbers = torch.randint(-8, 8, (outputs, inputs), dtype=torch.int8)
    weight = QuantizedWeight(numbers, torch.rand(outputs, 1) / 100 + 0.01)
    values, x = weight.values(torch.float32), torch.randn(rows, inputs)
    fake = QuantizedLinear(weight, None, A4)
    a4, a8 = (PackedLinear(weight, None, activation) for activation in (A4, A8))
    assert torch.equal(a4(x), fake(x))
    found: Variants = {"fake": lambda: fake(x), "a4": lambda: a4(x), "a8": lambda: a8(x)}
    for form, name in FULL.items():
        plain = nn.Linear(inputs, outputs, bias=False)
        plain.weight = nn.Parameter(values.to(dtype_of(form)))
        full = prepack(nn.Sequential(plain), form, rows)
        found[name] = partial(full, x.to(dtype_of(form)))
    try:
        rotation = OnlineHadamard(inputs)
    except QuantizationError:
        return found, 2.0 * rows * inputs * outputs
    found["hadamard"] = lambda: rotated(x, rotation)
    found["hadamard_torch"] = lambda: rotation(x)
    return found, 2.0 * rows * inputs * outputs


def of_block(rows: int, d_model: int, d_ffn: int) -> tuple[Variants, float]:
    config = TransformerConfig(
        architecture="llada",
        d_model=d_model,
        n_layers=1,
        n_heads=d_model // 128,
        n_kv_heads=d_model // 128,
        d_ffn=d_ffn,
        vocab_size=8,
        max_length=rows,
        rope_theta=5e5,
        norm_eps=1e-5,
        mask_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    plain = Block(config)
    with torch.device("meta"):  # all that holds numbers is replaced
        packed, turned = Block(config), Block(config)
    for block in (packed, turned):
        block.attention_norm, block.ffn_norm = plain.attention_norm, plain.ffn_norm
    online: dict[str, nn.Module] = {
        "o_proj": OnlineHadamard(config.n_heads, inner=config.head_dim),
        "down_proj": OnlineHadamard(d_ffn),
    }
    for name in BLOCK_LINEARS:
        weight = quantize_weight(plain.get_submodule(name).weight, W4)  # type: ignore[arg-type]
        setattr(packed, name, pack_linear(QuantizedLinear(weight, None, A4)))
        fake = QuantizedLinear(weight, None, A4, rotation=online.get(name))
        setattr(turned, name, pack_linear(fake))
    x = torch.randn(1, rows, d_model)
    cos, sin = rotary_angles(rows, config.head_dim, config.rope_theta, x)

    def run(block: nn.Module, x: Tensor = x) -> Callable[[], Tensor]:
        return lambda: block(x, cos, sin, None)

    variants: Variants = {"a4": run(packed), "a4_online": run(turned)}
    for form, name in FULL.items():
        dtype = dtype_of(form)
        full = prepack(copy.deepcopy(plain).to(dtype), form, rows)
        variants[name] = run(full, x.to(dtype))
    return variants, 2.0 * rows * (4 * d_model**2 + 3 * d_model * d_ffn)


def report(title: str, variants: Variants, operations: float, seconds: float) -> None:
    times = interleaved(variants, seconds)
    best = min(FULL.values(), key=lambda name: statistics.median(times[name]))
    for name, found in times.items():
        low, middle, high = statistics.quantiles(found, n=4)
        ratios = [a / b for a, b in zip(times[best], found, strict=True)]
        line = {
            "shape": title,
            "variant": name,
            "us": significant(middle * 1e6),
            "quartiles": [significant(low * 1e6), significant(high * 1e6)],
            "minimum": significant(min(found) * 1e6),
            f"times {best}": significant(statistics.median(ratios)),
            "rounds": len(found),
        }
        if not name.startswith("hadamard"):
            line["Gop/s"] = significant(operations / middle / 1e9)
        print(json.dumps(line), flush=True)


def timed_kernels(folder: Path) -> ctypes.CDLL:
    """The kernels, compiled into a folder with counters in front of their parts; this process uses
    them from now on."""
    compiler, made = os.environ.get("CC", "cc"), folder / "timed_parts.o"
    options = ["-O2", "-fPIC", "-I", str(Path(build.__file__).parent), "-c", "-o", str(made)]
    source = Path(__file__).with_name("timed_parts.c")
    subprocess.run([*shlex.split(compiler), *options, str(source)], check=True)
    wraps = ",".join(f"--wrap={name}" for name in WRAPPED)
    os.environ |= {"CC": f"{compiler} -Wl,{made},{wraps}", build.CACHE_VARIABLE: str(folder)}
    library = ctypes.CDLL(str(build.library_path()))
    library.ticks.restype = ctypes.c_uint64
    return library


def profile(shape: str, library: ctypes.CDLL, seconds: float) -> None:
    """Print where the time of a linear goes."""
    variants, _ = of_linear(*sizes(shape))
    spent = (ctypes.c_uint64 * len(PARTS)).in_dll(library, "spent")
    for name in ("a4", "a8"):
        timed(variants[name], 1)  # warm-up
        before, start = list(spent), library.ticks()
        calls = max(1, round(seconds / timed(variants[name], 1)))
        microseconds = 1e6 * timed(variants[name], calls)
        total = (library.ticks() - start) * torch.get_num_threads()
        shares = [(a - b) / total for a, b in zip(spent, before, strict=True)]
        found = dict(zip((*PARTS, "rest"), (*shares, 1 - sum(shares)), strict=True))
        line = {"shape": shape, "variant": name, "us": significant(microseconds)}
        line |= {"threads": torch.get_num_threads(), "execution": execution()}
        line |= {part: significant(100 * share) for part, share in found.items()}
        print(json.dumps(line), flush=True)


def interleaved(variants: Variants, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each variant, one sample per round."""
    calls = {name: repeats(run) for name, run in variants.items()}
    times: dict[str, list[float]] = {name: [] for name in variants}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 3:
        for name in random.sample(list(variants), len(variants)):
            times[name].append(timed(variants[name], calls[name]))
    return times


def repeats(run: Callable[[], Any]) -> int:
    timed(run, 1)  # warm-up
    return max(1, round(SHORTEST / timed(run, 1)))


def timed(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def significant(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    random.seed(0)
    torch.manual_seed(0)
    with torch.inference_mode():
        main()
