"""GPTQ on the 28 linears of the shared tiny Llama: errors, and CPU time against the textbook.

    OMP_NUM_THREADS=1 python tests/benchmarks/gptq_tiny_llama.py
    OMP_NUM_THREADS=1 python tests/benchmarks/gptq_tiny_llama.py --linears 2 --variants plain

Needs `tiny_llama.py` in --bench (default: ../shared/bench beside the repository). Every linear is
rounded against the inputs of the full-precision model over 32 x 256 calibration tokens. Its error
is ||W X - Wq X||^2 / ||W X||^2, on those inputs and on held-out ones. The CPU time is that of
Hessians and rounding, in one process; the inputs are computed beforehand for both. The ratio is the
median of three pairs of runs, since other work on the machine moves single ones by 10%.

    textbook   one Hessian per linear, the paper's loops (textbook_gptq.py)
    plain      ours: q, k, v and gate, up share a Hessian and a pass
    act_order  the same, columns in the order of diag(H)
    clip_P     the same with clip search, |error|^P
"""

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType

import torch
from textbook_gptq import textbook_gptq, textbook_hessian
from torch import Tensor

from dllmquant_exp.quantization.gptq import Gptq, gptq
from dllmquant_exp.quantization.hessian import Hessian
from dllmquant_exp.quantization.quantizers import Quantizer, fake_quantize, parameters

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_INPUT = (
    ("q_proj", "k_proj", "v_proj"),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("down_proj",),
)
PER_CHANNEL = Quantizer(4, True, "per_channel")
BATCH = 2048  # tokens per call of a layer, as in the shared recipe: 8 x 256
Weights = dict[str, Tensor]


def main() -> None:
    arguments = parse()
    bench = load(arguments.bench / "tiny_llama.py")
    model = bench.build_model("plain")
    weights = {n: m.weight.detach() for n, m in bench.linears(model).items()}
    weights = dict(list(weights.items())[: arguments.linears])
    inputs = bench.collect_inputs(model, bench.calib())
    heldout = bench.collect_inputs(model, bench.heldout())
    fast = Gptq()
    variants: dict[str, Callable[[], Weights]] = {
        "rtn": lambda: {n: fake_quantize(w, PER_CHANNEL) for n, w in weights.items()},
        "textbook": lambda: textbook(weights, inputs),
        "plain": lambda: ours(weights, inputs, PER_CHANNEL, fast),
        "act_order": lambda: ours(weights, inputs, PER_CHANNEL, replace(fast, act_order=True)),
    }
    for power in (2.0, 2.4):
        clip = replace(PER_CHANNEL, clip_search=power)
        variants[f"clip_{power}"] = partial(ours, weights, inputs, clip, fast)
        ordered = replace(fast, act_order=True)
        variants[f"clip_{power}_act_order"] = partial(ours, weights, inputs, clip, ordered)
    chosen = arguments.variants or list(variants)
    for name in chosen:
        rounded, cpu = timed(variants[name])
        errors = bench.summarise(bench.recon_errors(inputs, weights, rounded))
        unseen = bench.summarise(bench.recon_errors(heldout, weights, rounded))
        result = {"variant": name, "cpu_seconds": round(cpu, 2)}
        result |= {"calibration": rounded_to(errors), "heldout": rounded_to(unseen)}
        print(json.dumps(result), flush=True)
    if "plain" in chosen and "textbook" in chosen:
        ratios = [timed(variants["plain"])[1] / timed(variants["textbook"])[1] for _ in range(3)]
        print(json.dumps({"plain over textbook, CPU time": round(median(ratios), 3)}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bench", type=Path, default=REPOSITORY.parent / "shared" / "bench")
    parser.add_argument("--linears", type=int, default=None, help="only the first ones")
    parser.add_argument("--variants", nargs="*", default=None, help="default: all")
    return parser.parse_args()


def timed(run: Callable[[], Weights]) -> tuple[Weights, float]:
    """The result of `run`, and its CPU seconds."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def ours(weights: Weights, inputs: Weights, quantizer: Quantizer, how: Gptq) -> Weights:
    result: Weights = {}
    for layer in dict.fromkeys(name.rsplit(".", 2)[0] for name in weights):
        for group in SHARED_INPUT:
            names = [
                n for n in weights if n.startswith(layer + ".") and n.rsplit(".", 1)[1] in group
            ]
            if not names:
                continue
            H = Hessian(weights[names[0]].shape[1], how.torch_dtype)
            for x in inputs[names[0]].split(BATCH):
                H.add(x)
            rounded = gptq([weights[n] for n in names], H.matrix(), quantizer, how)
            for name, found in zip(names, rounded, strict=True):
                result[name] = found.weight.values(weights[name].dtype)
    return {name: result[name] for name in weights}


def textbook(weights: Weights, inputs: Weights) -> Weights:
    result = {}
    for name, weight in weights.items():
        H = textbook_hessian(list(inputs[name].split(BATCH)))
        measured = parameters(weight, PER_CHANNEL)
        ends = (PER_CHANNEL.lowest, PER_CHANNEL.highest)
        result[name] = textbook_gptq(weight, H, measured.scale, measured.zero, ends)
    return result


def rounded_to(errors: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in errors.items()}


def load(path: Path) -> ModuleType:
    if not path.is_file():
        sys.exit(f"{path} is missing; give the folder of tiny_llama.py with --bench")
    spec = importlib.util.spec_from_file_location("tiny_llama", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        main()
