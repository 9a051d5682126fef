"""From a sweep's jobs to their estimates: every stage and every cell is counted once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.evaluation.chunks import CACHE_NAME
from dllmquant_exp.models.checkpoints import load_tokenizer
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.plan.calibrating import CalibrationSize, calibration_size
from dllmquant_exp.run.plan.estimates import Cell, Estimates, Stage
from dllmquant_exp.run.plan.forwards import (
    Precision,
    activation_bytes,
    forward_work,
    weight_bytes,
)
from dllmquant_exp.run.plan.on_disk import answered_share, cell_status, measured_times
from dllmquant_exp.run.plan.quantizing import (
    load_work,
    quantize_bytes,
    quantize_work,
    weights_disk,
)
from dllmquant_exp.run.plan.requests import Demand, counted_demand, known_demand
from dllmquant_exp.run.plan.shapes import all_parameters, local_folder, shape_of
from dllmquant_exp.run.plan.work import Machine, Work
from dllmquant_exp.store.results import config_hash

PROCESS = 0.52e9  # bytes without a model: of a process with its libraries, or of a CUDA context
FLOAT64 = 8
BYTES_PER_ITEM, BYTES_PER_RESULT = 330, 9000  # of a result file
BYTES_PER_REQUEST, BYTES_PER_TOKEN = 130, 5.5  # of a file of answers; tokens of generated ones


def estimate(
    jobs: Sequence[Experiment],
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
        with_model = f"{job.model.name} in {job.common.dtype}"
        machine = found.machines.get(with_model) or machine_of(config, dtype)
        found.machines[with_model] = machine
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
            cell = _cell(job, task, config, demands[key], prepared, with_model, machine)
            names.add(cell.name)
            found.cells[cell.name] = cell
            for stage in cell.stages:
                found.stages[stage].cells.add(cell.name)
        found.asked.update(names)
        found.jobs.add(frozenset(names))
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
        rotated=job.method.online,
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
    how, plain = precision(job, dtype), Precision(dtype.itemsize)
    outliers = job.model.outliers is not None
    loaded = PROCESS + weight_bytes(config, plain)
    peaks = [PROCESS + weight_bytes(config, Precision(FLOAT64)) if outliers else loaded]
    work = load_work(config, dtype.itemsize, outliers)
    stages: list[str] = []

    def add(key: dict[str, Any], kind: str, of: str, work: Work, peak: float, disk: float) -> None:
        label = f"{job.model.name}: {of}, seed {job.common.seed}"
        stage = Stage(kind, label, machine.seconds(work), peak, disk)
        stages.append(config_hash(key))
        found.stages.setdefault(stages[-1], stage)
        peaks.append(peak)

    calibration = _calibration(job, config, dtype)
    if calibration is not None and job.calibration is not None:
        peak = loaded + activation_bytes(config, plain, calibration.load)
        of = f"{job.calibration.name}, {calibration.states} states"
        add(_calibration_key(job), "calibration", of, calibration.work, peak, calibration.disk)
    if job.quant is not None:
        states = None if calibration is None else calibration.as_load
        rounding = quantize_work(config, job.method, job.quant, how, states)
        peak = loaded + quantize_bytes(config, job.method, how, states)
        if states is None:  # kept nowhere: rounding to the nearest is done by every job
            work += rounding
            peaks.append(peak)
        else:
            of, disk = job.row.removesuffix("+iaaq"), weights_disk(config, job.quant)
            add(_weights_key(job), "weights", of, rounding, peak, disk)
    return _Prepared(how, max(peaks), tuple(stages), machine.seconds(work))


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
    """What decides a task's demand. Seeds draw other masks, but as many: one is counted for all."""
    common = job.common
    return config_hash(
        {
            "checkpoint": job.model.checkpoint,
            "settings": asdict(task.settings),
            "common": [common.data_root, common.limit, common.batch_size],
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
    with_model: str,
    machine: Machine,
) -> Cell:
    name, how = job.cell_name(task), prepared.how
    folder = job.sweep_folder / name
    status, result = cell_status(folder, config_hash(job.cell_config(task)))
    answered = 0.0 if result else answered_share(folder / CACHE_NAME, demand.requests)
    peak = PROCESS + weight_bytes(config, how) + activation_bytes(config, how, demand.load)
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
        machine=with_model,
        load=prepared.load_seconds,
        took=None if not result else float(result["timing"]["wall_seconds"]["evaluate"]),
    )


def _note_times(found: Estimates, jobs: Sequence[Experiment]) -> None:
    """What stages really took, from the finished cells' results."""
    folders = {job.cell_name(t): job.sweep_folder for job in jobs for t in job.tasks}
    for stage in found.stages.values():
        part = {"calibration": "calibrate", "weights": "quantize"}[stage.kind]
        finished = [n for n in stage.cells if found.cells[n].status == "finished"]
        times = [measured_times(folders[name] / name)[part] for name in finished]
        stage.took = max(times, default=None)
