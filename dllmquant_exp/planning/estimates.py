"""Time, memory and disk of a sweep: its stages, made once and shared, and its cells."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.config import Experiment, Task
from dllmquant_exp.evaluation.evaluate import CACHE_NAME
from dllmquant_exp.models.checkpoints import load_tokenizer
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.planning.calibrating import CalibrationSize, calibration_size
from dllmquant_exp.planning.forwards import (
    Precision,
    activation_bytes,
    forward_work,
    weight_bytes,
)
from dllmquant_exp.planning.quantizing import (
    load_work,
    quantize_bytes,
    quantize_work,
    weights_disk,
)
from dllmquant_exp.planning.requests import Demand, counted_demand, known_demand
from dllmquant_exp.planning.shapes import all_parameters, local_folder, shape_of
from dllmquant_exp.planning.work import Machine
from dllmquant_exp.reporting.results import RESULT_FILE, ResultError, config_hash, load_json

STARTUP = 6.0  # seconds until Python has imported what a sweep needs
PROCESS = 0.45e9  # bytes of a process that has, without a model
FLOAT64 = 8
BYTES_PER_ITEM, BYTES_PER_RESULT = 330, 9000  # of a result file
BYTES_PER_REQUEST, BYTES_PER_TOKEN = 130, 5.5  # of a file of answers; tokens of generated ones


@dataclass
class Stage:
    """A calibration set, or rounded weights: made by the first cell that needs it.

    took: the longest that a finished cell waited for it; the others read it from disk.
    """

    kind: str
    label: str
    seconds: float
    memory: float
    disk: float
    cells: set[str] = field(default_factory=set)
    took: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell. Times in seconds, memory at its peak and disk in bytes.

    status: finished | failed | begun | new; answered: fraction of its answers that are on disk.
    stages: keys of what it needs; took: seconds of the evaluation where it is finished.
    """

    name: str
    model: str
    row: str
    task: str
    seed: int
    status: str
    answered: float
    demand: Demand
    seconds: float
    memory: float
    disk: float
    stages: tuple[str, ...]
    took: float | None


@dataclass
class Estimates:
    """Of a whole sweep.

    loads: seconds that each job spends on loading its model.
    downloads: bytes of each hub checkpoint that is not here.
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    loads: list[tuple[set[str], float]] = field(default_factory=list)
    machines: dict[str, Machine] = field(default_factory=dict)
    downloads: dict[str, float] = field(default_factory=dict)

    def open_cells(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.status != "finished"]

    def open_stages(self) -> list[Stage]:
        """What open cells need and no finished one has made."""
        names = {cell.name for cell in self.open_cells()}
        return [s for s in self.stages.values() if s.cells & names and s.took is None]

    def seconds(self) -> float:
        """That everything which is open takes, one job after the other."""
        names = {cell.name for cell in self.open_cells()}
        answers = sum(cell.seconds * (1 - cell.answered) for cell in self.open_cells())
        stages = sum(stage.seconds for stage in self.open_stages())
        loads = sum(seconds for cells, seconds in self.loads if cells & names)
        return answers + stages + loads + (STARTUP if names else 0.0)


def estimate(
    jobs: Iterable[Experiment],
    machine_of: Callable[[TransformerConfig, torch.dtype], Machine],
    progress: Callable[[str], None] = lambda _: None,
) -> Estimates:
    """Count every job's operations.

    Args:
        machine_of: how fast the sweep's device is with a model.
        progress: told what is being counted.

    Raises:
        ConfigError, SettingsError, DataError: what cannot be counted, and why.
    """
    found = Estimates()
    demands: dict[str, Demand] = {}
    tokenizers: dict[Path, PreTrainedTokenizerBase | None] = {}
    for job in jobs:
        config = shape_of(job.model)
        dtype = getattr(torch, job.common.dtype)
        machine = found.machines.get(job.model.name) or machine_of(config, dtype)
        found.machines[job.model.name] = machine
        folder = local_folder(job.model)
        if folder is None:
            found.downloads[job.model.checkpoint] = 2.0 * all_parameters(config)
        elif folder not in tokenizers:
            tokenizers[folder] = _tokenizer(folder)
        tokenizer = None if folder is None else tokenizers[folder]
        prepared = _prepare(found, job, config, dtype, machine)
        names = set()
        for task in job.tasks:
            key = _demand_key(job, task)
            if key not in demands:
                progress(f"{job.model.name}, {task.name}")
                demands[key] = _demand(job, task, config, tokenizer)
            cell = _cell(job, task, config, demands[key], prepared, machine)
            names.add(cell.name)
            found.cells[cell.name] = cell
            for stage in cell.stages:
                found.stages[stage].cells.add(cell.name)
        found.loads.append((names, prepared.load_seconds))
    _note_times(found, jobs)
    return found


@dataclass(frozen=True)
class _Prepared:
    """What all cells of a job share."""

    how: Precision
    memory: float
    stages: tuple[str, ...]
    load_seconds: float


def precision(job: Experiment, dtype: torch.dtype) -> Precision:
    """What of a job's forward passes is quantized."""
    quant = job.quant
    if quant is None:
        return Precision(dtype.itemsize)
    attention = quant.attention
    quantized = attention is not None and bool(attention.probabilities or attention.values)
    online = job.iaaq is not None and job.iaaq.mode == "online"
    return Precision(
        dtype.itemsize,
        linears=quant.activation is not None,
        attention=quantized,
        alphas=len(job.iaaq.alphas) if job.iaaq is not None and online else 1,
        rotated=job.method.rotation is not None,
        packed=job.common.execution == "packed",
    )


def _prepare(
    found: Estimates,
    job: Experiment,
    config: TransformerConfig,
    dtype: torch.dtype,
    machine: Machine,
) -> _Prepared:
    """Count a job's stages into `found`."""
    how = precision(job, dtype)
    outliers = job.model.outliers is not None
    process = PROCESS if job.common.device == "cpu" else 0.0
    stored = weight_bytes(config, Precision(FLOAT64 if outliers else dtype.itemsize))
    memory = process + stored + 2e9 * (stored > 1e9) * (process == 0)
    stages: list[str] = []
    calibration = _calibration(job, config, dtype)
    if calibration is not None and job.calibration is not None:
        key = config_hash(_calibration_key(job))
        stages.append(key)
        label = f"{job.model.name}: {job.calibration.name}, {calibration.states} states"
        peak = process + weight_bytes(config, Precision(dtype.itemsize))
        peak += activation_bytes(config, Precision(dtype.itemsize), calibration.load)
        seconds = machine.seconds(calibration.work)
        found.stages.setdefault(
            key,
            Stage(
                "calibration", f"{label}, seed {job.common.seed}", seconds, peak, calibration.disk
            ),
        )
        memory = max(memory, peak)
    load = machine.seconds(load_work(config, dtype.itemsize, outliers))
    if job.quant is not None:
        states = None if calibration is None else calibration.as_load
        seconds = machine.seconds(quantize_work(config, job.method, job.quant, how, states))
        peak = process + weight_bytes(config, Precision(dtype.itemsize))
        peak += quantize_bytes(config, job.method, how, states)
        memory = max(memory, peak)
        if states is None:  # kept nowhere: rounding to the nearest is done by every job
            load += seconds
        else:
            key = config_hash(_weights_key(job))
            stages.append(key)
            label = f"{job.model.name}: {_stage_row(job)}, seed {job.common.seed}"
            disk = weights_disk(config, job.quant)
            found.stages.setdefault(key, Stage("weights", label, seconds, peak, disk))
    return _Prepared(how, memory, tuple(stages), load)


def _stage_row(job: Experiment) -> str:
    """The row without IA-AQ, which rounds no weight."""
    return job.row.removesuffix("+iaaq")


def _calibration(
    job: Experiment, config: TransformerConfig, dtype: torch.dtype
) -> CalibrationSize | None:
    if job.calibration is None:
        return None
    return calibration_size(
        job.calibration,
        config,
        dtype.itemsize,
        embedded=job.model.embedded,
        needs_scores=job.cgq is not None and job.cgq.score,
    )


def _calibration_key(job: Experiment) -> dict[str, Any]:
    """What decides a calibration set; see `calibration.collect` and `preparation`."""
    config = job.cell_config(job.tasks[0])
    key = {name: config[name] for name in ("model", "calibration", "seed", "device", "dtype")}
    random = job.calibration is not None and job.calibration.name == "random"
    scores = job.cgq is not None and job.cgq.score
    return key | {"threads": config["threads"], "scores": scores and random}


def _weights_key(job: Experiment) -> dict[str, Any]:
    """What decides rounded weights; see `preparation`."""
    config = job.cell_config(job.tasks[0])
    del config["quant"]["attention"]
    return _calibration_key(job) | {name: config[name] for name in ("method", "quant", "cgq")}


def _demand_key(job: Experiment, task: Task) -> str:
    common = job.common
    return config_hash(
        {
            "checkpoint": job.model.checkpoint,
            "settings": asdict(task.settings),
            "common": [common.data_root, common.limit, common.seed, common.batch_size],
        }
    )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """None where the folder has the configuration alone."""
    return load_tokenizer(str(folder)) if any(folder.glob("tokenizer*")) else None


def _demand(
    job: Experiment,
    task: Task,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Demand:
    at_hand = task.kind != "official" or job.common.data_root is not None
    if at_hand and tokenizer is not None:
        return counted_demand(task, job.common, config, tokenizer)
    return known_demand(task, job.common, config)


def _cell(
    job: Experiment,
    task: Task,
    config: TransformerConfig,
    demand: Demand,
    prepared: _Prepared,
    machine: Machine,
) -> Cell:
    name, how = job.cell_name(task), prepared.how
    folder = job.sweep_folder / name
    status, result = _status(folder, config_hash(job.cell_config(task)))
    answered = 0.0 if result else _answered(folder / CACHE_NAME, demand.requests)
    process = PROCESS if job.common.device == "cpu" else 0.0
    peak = process + weight_bytes(config, how) + activation_bytes(config, how, demand.load)
    answer = BYTES_PER_REQUEST + BYTES_PER_TOKEN * (task.settings.gen_length or 0)
    seconds = machine.seconds(forward_work(config, how, demand.load)) + demand.host
    return Cell(
        name=name,
        model=job.model.name,
        row=" ".join(filter(None, (job.row, job.quant_name))),
        task=task.name,
        seed=job.common.seed,
        status="begun" if answered and status == "new" else status,
        answered=answered,
        demand=demand,
        seconds=seconds,
        memory=max(peak, prepared.memory),
        disk=BYTES_PER_RESULT + demand.items * BYTES_PER_ITEM + demand.requests * answer,
        stages=prepared.stages,
        took=result and float(result["timing"]["wall_seconds"]["evaluate"]),
    )


def _status(folder: Path, expected: str) -> tuple[str, dict[str, Any] | None]:
    """finished, failed or new, and the result of a finished cell."""
    if not (folder / RESULT_FILE).exists():
        return "new", None
    try:
        result = load_json(folder / RESULT_FILE)
    except ResultError:
        return "new", None
    if result.get("config_hash") != expected:
        return "new", None
    finished = result.get("status") == "finished"
    return ("finished", result) if finished else ("failed", None)


def _answered(path: Path, requests: int) -> float:
    """Fraction of the requests whose answers are kept."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return 0.0
    return min(1.0, sum(line.startswith(b'{"key"') for line in lines) / max(1, requests))


def _note_times(found: Estimates, jobs: Iterable[Experiment]) -> None:
    """What stages really took, from the finished cells' results."""
    folders = {job.cell_name(t): job.sweep_folder for job in jobs for t in job.tasks}
    for stage in found.stages.values():
        part = {"calibration": "calibrate", "weights": "quantize"}[stage.kind]
        finished = [n for n in stage.cells if found.cells[n].status == "finished"]
        times = [_times(folders[name] / name)[part] for name in finished]
        stage.took = max(times, default=None)


def _times(folder: Path) -> Mapping[str, float]:
    times: Mapping[str, float] = load_json(folder / RESULT_FILE)["timing"]["wall_seconds"]
    return times


def compared_rows(found: Estimates) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, row) -> estimated and measured seconds of the evaluations that are finished."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for cell in found.cells.values():
        if cell.took is not None:
            key = (cell.model, cell.row)
            estimated, took = sums.get(key, (0.0, 0.0))
            sums[key] = (estimated + cell.seconds, took + cell.took)
    return sums
