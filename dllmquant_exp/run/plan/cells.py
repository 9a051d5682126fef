"""The cells of a sweep and what they share: status, time, memory and disk."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.identity import method_label
from dllmquant_exp.config.quantized_model import DEFAULT_QUANT, ModelSettings
from dllmquant_exp.config.task_config import Task
from dllmquant_exp.evaluation.chunks import CACHE_NAME, shard_caches
from dllmquant_exp.models.checkpoints import Layout, load_config, load_tokenizer, resolve_checkpoint
from dllmquant_exp.models.published_shapes import published_shape
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.plan.forward import Finished, Forwards, Place, keys_of, parameters
from dllmquant_exp.run.plan.requests import Demand, demand
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.results import config_hash, finished_result

PROCESS = 5e8  # bytes of a process with its libraries, or of a CUDA context
BYTES_PER_LOGIT = 3 * 4  # beside the logit: copies in float32 for checks, softmax and sampling
BYTES_PER_ITEM = 1000  # of a cell's files, as micro tasks have
BYTES_PER_WEIGHT = 1  # of rounded blocks that are kept


class Cell(NamedTuple):
    """One cell. Seconds of its evaluation; bytes of memory at its peak, and of disk.

    Attributes:
        source: what the estimate comes from, see `Forwards.evaluation`.
        answered: fraction of its answers that are on disk; 1 where it is finished.
        took: seconds, where it is finished.
    """

    name: str
    model: str
    row: str
    task: str
    generated: bool
    demand: Demand
    seconds: float
    source: str
    answered: float
    took: float | None
    memory: float
    disk: float

    @property
    def left(self) -> float:
        """Seconds that are still to come."""
        return self.seconds * (1 - self.answered)


@dataclass
class Stage:
    """A calibration set, or rounded weights: made by the first cell that needs it.

    Attributes:
        seconds: the estimate; None where nothing says it.
        took: the longest that a finished cell waited for it; the others read it from disk.
    """

    kind: str
    label: str
    disk: float
    cells: set[str] = field(default_factory=set)
    seconds: float | None = None
    took: float | None = None


@dataclass
class Plan:
    """A whole sweep: `jobs` are sets of cells, `downloads` bytes of checkpoints on the hub."""

    place: Place
    cells: dict[str, Cell] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    jobs: set[frozenset[str]] = field(default_factory=set)
    downloads: dict[str, float] = field(default_factory=dict)

    def open_cells(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.took is None]

    def open_stages(self) -> list[Stage]:
        """Stages that open cells need and no finished cell has made."""
        names = {cell.name for cell in self.open_cells()}
        return [s for s in self.stages.values() if s.cells & names and s.took is None]

    def seconds(self) -> float:
        """Everything that is open, one cell after the other."""
        stages = sum(stage.seconds or 0.0 for stage in self.open_stages())
        return stages + sum(cell.left for cell in self.open_cells())


def make_plan(
    jobs: Sequence[Experiment], place: Place, progress: Callable[[str], None] = lambda _: None
) -> Plan:
    """Count every cell and stage of a sweep once.

    Args:
        progress: told what is being counted.

    Raises:
        ConfigError, SettingsError, DataError: what cannot be counted, and why.
    """
    plan, forwards = Plan(place), Forwards(place)
    tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}
    for job in jobs:
        folder, common = local_folder(job.model), job.common
        config = (
            published_shape(job.model.checkpoint)
            if folder is None
            else load_config(folder, job.model.layout)
        )
        if folder is None:
            plan.downloads[job.model.checkpoint] = 2.0 * sum(parameters(config))
        names = set()
        for task in job.tasks:
            progress(f"{job.model.name} {row_name(job)} {task.name}")
            at_hand = task.kind != "official" or common.data_root is not None
            tokenizer = (
                _tokenizer(folder, job.model.layout, tokenizers) if folder and at_hand else None
            )
            asked = demand(task.settings, config, tokenizer, common.data_root, common.limit)
            cell = _cell(job, task, config, asked, forwards)
            plan.cells[cell.name] = cell
            names.add(cell.name)
        plan.jobs.add(frozenset(names))
        _add_stages(plan, job, config, forwards.finished(job), names)
    return plan


def local_folder(settings: ModelSettings) -> Path | None:
    """The checkpoint's folder where it is on this disk, else None; nothing is downloaded.

    Raises:
        CheckpointError: an embedded model or a folder that does not exist.
    """
    checkpoint = settings.checkpoint
    here = checkpoint.startswith("embedded:") or expanded(checkpoint).exists()
    if here or checkpoint.count("/") != 1:  # no hub id either, and refused
        return resolve_checkpoint(checkpoint, settings.revision)
    found = try_to_load_from_cache(checkpoint, "config.json", revision=settings.revision)
    return Path(found).parent if isinstance(found, str) else None


def _tokenizer(
    folder: Path, layout: Layout | None, known: dict[str, PreTrainedTokenizerBase | None]
) -> PreTrainedTokenizerBase | None:
    """One object for equal files; None where the folder has the configuration alone."""
    files = sorted(folder.glob("tokenizer*"))
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if digest not in known:
        known[digest] = load_tokenizer(str(folder), layout=layout) if files else None
    return known[digest]


def _cell(
    job: Experiment, task: Task, config: TransformerConfig, asked: Demand, forwards: Forwards
) -> Cell:
    folder = job.cell_folder(task)
    result = finished_result(folder, config_hash(job.cell_config(task)))
    seconds, source = forwards.evaluation(job, task, config, asked)
    return Cell(
        name=folder.name,
        model=job.model.name,
        row=row_name(job),
        task=task.name,
        generated=task.settings.variant == "generation",
        demand=asked,
        seconds=seconds,
        source=source,
        answered=1.0 if result else answered_share(folder, asked.requests),
        took=float(result["timing"]["wall_seconds"]["evaluate"]) if result else None,
        memory=memory(job, task, config, asked),
        disk=BYTES_PER_ITEM * asked.items,
    )


def row_name(job: Experiment) -> str:
    """The row, and its bits and execution where they are not the usual ones."""
    quant = "" if job.quant_name == DEFAULT_QUANT else job.quant_name
    packed = job.quant is not None and job.common.execution == "packed"
    return " ".join(filter(None, (method_label(job), quant, "packed" if packed else "")))


def answered_share(folder: Path, requests: int) -> float:
    """Fraction of a cell's requests whose answers are on disk."""
    files = [path for path in (folder / CACHE_NAME, *shard_caches(folder)) if path.exists()]
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    return min(1.0, sum(line.startswith(b'{"key"') for line in lines) / max(1, requests))


def memory(job: Experiment, task: Task, config: TransformerConfig, asked: Demand) -> float:
    """Bytes of the weights and of one forward's activations, at most: a block's and all logits."""
    itemsize = getattr(torch, job.common.dtype).itemsize
    linears, rest = parameters(config)
    packed = job.quant is not None and job.common.execution == "packed"
    weights = linears * (0.5 if packed else itemsize) + rest * itemsize
    wide = itemsize if job.quant is None else 4  # quantized linears compute in float32
    block = asked.longest * (8 * config.d_model + 4 * config.d_ffn) * wide
    logits = asked.most_asked * config.vocab_size * (itemsize + BYTES_PER_LOGIT)
    rows = job.common.batch_size * (2 if task.settings.guidance else 1)
    return float(PROCESS + weights + rows * (block + logits))


def calibration_forwards(sampler: object, steps: Iterable[object]) -> float | None:
    """Token-forwards, at most, that steps of a method need on a calibration set; None: unknown.

    A step, and the sampler itself, may have a number `passes`: how often, at most, all states of
    the set go through the model. The set has `samples` states of `length` tokens, or `gen_length`
    where they are decoded. Where one of these is missing, nothing is estimated.
    """
    passes = [getattr(step, "passes", None) for step in steps]
    samples = getattr(sampler, "samples", None)
    length = getattr(sampler, "length", None) or getattr(sampler, "gen_length", None)
    if None in passes or samples is None or length is None:
        return None
    return float(sum(filter(None, passes)) * samples * length)


def _add_stages(
    plan: Plan,
    job: Experiment,
    config: TransformerConfig,
    finished: Sequence[Finished],
    names: set[str],
) -> None:
    """The calibration set and the rounded weights of a job.

    Their time is the longest that finished cells of other seeds waited for them, else the time of
    their forwards at the speed of the job's forwards.
    """
    calibration = job.calibration
    if calibration is None:  # rounding to the nearest is done by every job, and kept nowhere
        return
    cells = [plan.cells[name] for name in names]
    rate = sum(c.seconds for c in cells) / sum(c.demand.tokens for c in cells)
    method_steps = job.method.steps.values()
    keys, seed = keys_of(job.cell_config(job.tasks[0])), job.common.seed
    disk = BYTES_PER_WEIGHT * parameters(config)[0]
    for kind, part, key, of, steps, size in (
        ("calibration", "calibrate", keys.calibration, calibration.name, [calibration], 0),
        ("weights", "quantize", keys.weights, row_name(job), method_steps, disk),
    ):
        stage = Stage(kind, f"{job.model.name} {of}, seed {seed}", size)
        stage = plan.stages.setdefault(f"{key} {seed}", stage)
        stage.cells |= names
        took, elsewhere = [stage.took or 0.0], [stage.seconds or 0.0]
        for cell in finished:
            if key in cell.keys:
                (took if cell.seed == seed else elsewhere).append(cell.seconds[part])
        if not any(elsewhere):
            elsewhere.append(rate * (calibration_forwards(calibration, steps) or 0))
        stage.took, stage.seconds = max(took) or None, max(elsewhere) or None
