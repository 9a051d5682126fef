"""Seconds of an evaluation: what finished cells took, else one forward, measured or stated.

finished cells   of the same job but for its items, on the same device: seconds per item of the
                 same task; else seconds per token-forward of the other tasks, unless they went
                 through less than a tenth of the tokens
measured here    a model of the same shape with random weights, quantized as the row says; of at
                 most two blocks, and scaled to all of them by FLOPs
stated           FLOPs of the forward over a named GPU's peak times `utilisation`, or over
                 `throughput`; a quantized forward counts `slowdown` times
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from glob import escape
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import calibration_identity, weights_identity
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import Transformer, TransformerConfig
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.run.cell import Cell
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.run.plan.requests import Demand
from dllmquant_exp.run.prepare import quantize_as
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import RESULT_FILE, ResultError, config_hash, load_json
from dllmquant_exp.store.schema import Above, AtMost, Settings

HERE = "here"
SMALL = 1 << 24  # weights of a block up to which two blocks are measured; one above
VOCABULARY = 1 << 14  # rows of the head that are measured, at most
SECONDS, ROUNDS = 0.2, 3  # of one measurement, at least
# Keys of a cell's configuration that choose its items; all others can change a forward's cost.
OF_ITEMS = ("task", "seed", "limit", "data_root", "batch_size")
OF_VALUES = ("model", "calibration", "cgq")  # decide numbers, not what is done with them


class Gpu(NamedTuple):
    """Dense peak TFLOP/s, in 16 bits on tensor cores and in float32 outside of them; GB."""

    half: float
    single: float
    memory: float


# NVIDIA's data sheets: A100 80GB SXM, H100 SXM, RTX A6000 (whose table says sparse: halved).
GPUS = {"a100": Gpu(312, 19.5, 80), "h100": Gpu(989.5, 67, 80), "a6000": Gpu(154.8, 38.7, 48)}


@dataclass(frozen=True)
class Place(Settings):
    """Machine of the sweep: `here`, or a GPU of `GPUS`. See the module's docstring."""

    on: str
    device: str
    utilisation: Annotated[float, Above(0), AtMost(1)]
    slowdown: Annotated[float, Above(0)]
    throughput: Annotated[float, Above(0)] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on not in (HERE, *GPUS):
            raise ConfigError(f"on = {self.on!r} is not one of: {', '.join((HERE, *GPUS))}")

    def stated(self, dtype: torch.dtype) -> float | None:
        """FLOP/s; None where they are measured."""
        if self.throughput is not None or self.on == HERE:
            return self.throughput
        gpu = GPUS[self.on]
        peak = {2: gpu.half, 4: gpu.single, 8: gpu.single / 2}[dtype.itemsize]
        return peak * 1e12 * self.utilisation

    def is_where(self, hardware: Mapping[str, Any]) -> bool:
        """Whether a result was measured there."""
        if self.on != HERE:
            return self.on.upper() in str(hardware.get("gpu")).upper()
        here = provenance.hardware(torch.device(self.device))
        names = ("gpu",) if here["gpu"] else ("cpu", "threads")
        return all(here[name] == hardware.get(name) for name in names)


def keys_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Digests of what decides a cell's task, what its forwards cost, and the calibration set and
    weights that it shares, whatever the seed."""
    seedless = {**config, "seed": None}
    made = calibration_identity(seedless)
    weights = {} if config["quant"] is None else weights_identity(seedless)
    parts = {
        "task": config["task"],
        "forward": _without(config, OF_ITEMS),
        "calibration": made,
        "weights": weights | made,
    }
    return {name: config_hash(part) for name, part in parts.items()}


def _without(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


class Finished(NamedTuple):
    """A cell that was evaluated: its numbers, and the seconds of its stages."""

    name: str
    seed: int
    items: int
    tokens: int
    seconds: Mapping[str, float]
    keys: Mapping[str, str]  # see `keys_of`


class Forwards:
    """Seconds of evaluations on a machine, from finished cells or forwards."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._finished: dict[str, list[Finished]] = {}
        self._measured: dict[str, float] = {}
        self._sample: tuple[str, Transformer] | None = None

    def finished(self, job: Experiment) -> list[Finished]:
        """Cells of the sweep's folder with the job's model and method."""
        pattern = f"{escape(job.model.name)}-{escape(job.method.name)}*"
        where = f"{job.sweep_folder} {pattern}"
        if where not in self._finished:
            folders = sorted(job.sweep_folder.glob(pattern))
            self._finished[where] = [cell for folder in folders for cell in self._read(folder)]
        return self._finished[where]

    def _read(self, folder: Path) -> Iterator[Finished]:
        try:
            result = load_json(folder / RESULT_FILE)
        except ResultError:  # there is none yet, or one that the sweep makes anew
            return
        scored = result["status"] == "finished" and "token_forwards" in result  # not speed
        if scored and self.place.is_where(result["hardware"]):
            yield Finished(
                name=folder.name,
                seed=result["config"]["seed"],
                items=result["n"],
                tokens=result["token_forwards"],
                seconds=result["timing"]["wall_seconds"],
                keys=keys_of(result["config"]),
            )

    def evaluation(
        self, cell: Cell, config: TransformerConfig, demand: Demand
    ) -> tuple[float, str]:
        """Seconds, and their source: task | row | measured | stated. A finished cell has no say in
        its own estimate, so that the two can be compared."""
        job, own = cell.experiment, keys_of(cell.config)
        others = [
            other
            for other in self.finished(job)
            if other.keys["forward"] == own["forward"] and other.name != cell.folder.name
        ]
        alike = [other for other in others if other.keys["task"] == own["task"]]
        if alike:
            return _seconds(alike) / sum(other.items for other in alike) * demand.items, "task"
        tokens = sum(other.tokens for other in others)
        if tokens > demand.tokens / 10:
            return _seconds(others) / tokens * demand.tokens, "row"
        length = round(demand.tokens / demand.rows)
        asked = max(1, round(demand.asked / demand.rows))
        speed = self.place.stated(getattr(torch, job.common.dtype))
        if speed is None:
            return self._measure(cell, config, length, asked) * demand.rows, "measured"
        slowdown = 1.0 if job.quant is None else self.place.slowdown
        return slowdown * demand.rows * forward_flops(config, length, asked) / speed, "stated"

    def _measure(self, cell: Cell, config: TransformerConfig, length: int, asked: int) -> float:
        """Seconds per row. The last model is kept: tasks of a job follow each other."""
        how = _without(cell.config, (*OF_ITEMS, *OF_VALUES))
        key, rows = (
            config_hash({"how": how, "shape": vars(config)}),
            cell.experiment.common.batch_size,
        )
        call = f"{key} {rows} {length} {asked}"
        if call not in self._measured:
            if self._sample is None or self._sample[0] != key:
                self._sample = (key, sample(cell.experiment, config))
            model = self._sample[1]
            seconds = forward_seconds(model, rows, length, asked)
            part = forward_flops(model.config, length, asked)
            self._measured[call] = seconds * (forward_flops(config, length, asked) / part) / rows
        return self._measured[call]


def _seconds(cells: Sequence[Finished]) -> float:
    return sum(cell.seconds["evaluate"] for cell in cells)


@cache
def forward_flops(config: TransformerConfig, length: int, asked: int) -> float:
    """FLOPs of one row's forward in full precision, counted by PyTorch on the meta device."""
    with torch.device("meta"), torch.no_grad():
        model = Transformer(replace(config, n_layers=1))
        with FlopCounterMode(display=False) as block:
            model.hidden(torch.empty(1, length, dtype=torch.long))
        with FlopCounterMode(display=False) as head:
            model.head(torch.empty(asked, config.d_model))
    return float(config.n_layers * block.get_total_flops() + head.get_total_flops())


@cache
def parameters(config: TransformerConfig) -> tuple[int, int]:
    """Weights of the blocks' linears, and all parameters besides."""
    with torch.device("meta"):
        model = Transformer(config)
    linears = [module for module in model.blocks.modules() if isinstance(module, nn.Linear)]
    weights = sum(linear.weight.numel() for linear in linears)
    return weights, sum(p.numel() for p in model.parameters()) - weights


def sample(job: Experiment, config: TransformerConfig) -> Transformer:
    """One or two blocks of a model with random weights, and a part of its vocabulary, quantized as
    the job says on a handful of random tokens."""
    block, _ = parameters(replace(config, n_layers=1))
    config = replace(
        config,
        n_layers=min(config.n_layers, 2 if block < SMALL else 1),
        vocab_size=min(config.vocab_size, VOCABULARY),
        mask_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with check_device(job.common.device):
        model = Transformer(config).to(getattr(torch, job.common.dtype))
        ones = torch.ones(2, 16)
        states = TokenBatch(torch.randint(config.vocab_size, (2, 16)), ones.bool(), ones)
    quantize_as(job, model.eval().requires_grad_(False), [states])
    return model


@torch.inference_mode()
def forward_seconds(model: Transformer, rows: int, length: int, asked: int) -> float:
    """The fastest of some forwards, as what else the machine does comes in bursts."""
    device = model.embedding.weight.device
    tokens = torch.randint(model.config.vocab_size, (rows, length), device=device)
    positions = (torch.arange(length, device=device) < asked).expand(rows, length)
    taken: list[float] = []
    while len(taken) < ROUNDS or sum(taken) < SECONDS:
        begin = time.perf_counter()
        model(tokens, None, positions)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begin)
    return min(taken)
