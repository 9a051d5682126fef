"""The cells of a sweep and what they share: status, time, memory and disk."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.quantized_model import DEFAULT_QUANT
from dllmquant_exp.evaluation.chunks import CACHE_NAME, shard_caches
from dllmquant_exp.models.checkpoints import Layout, load_config, load_tokenizer
from dllmquant_exp.models.published_shapes import published_shape
from dllmquant_exp.models.transformer import TransformerConfig
from dllmquant_exp.run.cell import Cell, cells_of
from dllmquant_exp.run.plan.forward import Finished, Forwards, Place, keys_of, parameters
from dllmquant_exp.run.plan.requests import Demand, demand, hub_data
from dllmquant_exp.run.requirements import local_folder
from dllmquant_exp.store.results import config_hash, finished_result

PROCESS = 5e8  # bytes of a process with its libraries, or of a CUDA context
BYTES_PER_LOGIT = 3 * 4  # beside the logit: copies in float32 for checks, softmax and sampling
BYTES_PER_ITEM = 1000  # of a cell's files, as micro tasks have
BYTES_PER_WEIGHT = 1  # of rounded blocks that are kept
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """The demand of one cell, and the time and memory that it is going to take.

    Attributes:
        seconds: of the evaluation, whether it is finished or not.
        source: what that comes from, see `Forwards.evaluation`.
        answered: fraction of the answers that are on disk; 1 where the cell is finished.
        took: seconds, where it is finished.
        memory: bytes at the peak.
    """

    cell: Cell
    demand: Demand
    seconds: float
    source: str
    answered: float
    took: float | None
    memory: float

    @property
    def disk(self) -> float:
        """Bytes of the cell's files."""
        return BYTES_PER_ITEM * self.demand.items

    @property
    def left(self) -> float:
        """Seconds that are still to come."""
        return self.seconds * (1 - self.answered)


@dataclass
class Stage:
    """A calibration set, or rounded weights: made by the first cell that needs it.

    Attributes:
        cells: the names of the cells that need it.
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
    """A whole sweep, each cell and stage by name once.

    Attributes:
        jobs: how many have a cell of their own.
        downloads: bytes of checkpoints on the hub.
    """

    place: Place
    cells: dict[str, Forecast] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    jobs: set[frozenset[str]] = field(default_factory=set)
    downloads: dict[str, float] = field(default_factory=dict)

    def open_cells(self) -> dict[str, Forecast]:
        return {name: cell for name, cell in self.cells.items() if cell.took is None}

    def open_stages(self) -> list[Stage]:
        """Stages that open cells need and no finished cell has made."""
        names = self.open_cells().keys()
        return [s for s in self.stages.values() if s.cells & names and s.took is None]

    def seconds(self) -> float:
        """Everything that is open, one cell after the other."""
        stages = sum(stage.seconds or 0.0 for stage in self.open_stages())
        return stages + sum(cell.left for cell in self.open_cells().values())


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
    told: set[str] = set()
    for job in jobs:
        folder, layout = local_folder(job.model), job.model.layout
        if folder is None:
            config = published_shape(job.model.checkpoint)
            plan.downloads[job.model.checkpoint] = 2.0 * sum(parameters(config))
        else:
            config = load_config(folder, layout)
        mine: dict[str, Forecast] = {}
        for cell in cells_of(job):
            progress(f"{job.model.name} {row_name(job)} {cell.task.name}")
            counts = folder is not None and _counts_data(cell, told)
            tokenizer = _tokenizer(folder, layout, tokenizers) if counts else None
            mine[cell.folder.name] = _forecast(cell, config, tokenizer, forwards)
        plan.cells |= mine
        plan.jobs.add(frozenset(mine))
        _add_stages(plan, job, config, forwards.finished(job), mine)
    return plan


def _counts_data(cell: Cell, told: set[str]) -> bool:
    """Whether requests are counted from the rows; says once where the hub is asked for them."""
    root, task = cell.experiment.common.data_folder, cell.task
    if task.kind == "official" and root is None:
        return False
    missing = hub_data(task.settings, root)
    if missing and task.name not in told:
        told.add(task.name)
        logger.warning("%s: its rows are read from the hub: %s", task.name, ", ".join(missing))
    return True


def _tokenizer(
    folder: Path | None, layout: Layout | None, known: dict[str, PreTrainedTokenizerBase | None]
) -> PreTrainedTokenizerBase | None:
    """One object for equal files; None where there are none."""
    files = sorted(folder.glob("tokenizer*")) if folder else []
    digest = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if digest not in known:
        known[digest] = load_tokenizer(str(folder), layout=layout) if files else None
    return known[digest]


def _forecast(
    cell: Cell,
    config: TransformerConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    forwards: Forwards,
) -> Forecast:
    common, settings = cell.experiment.common, cell.task.settings
    asked = demand(settings, config, tokenizer, common.data_folder, common.limit)
    seconds, source = forwards.evaluation(cell, config, asked)
    result = finished_result(cell.folder, config_hash(cell.config))
    return Forecast(
        cell=cell,
        demand=asked,
        seconds=seconds,
        source=source,
        answered=1.0 if result else answered_share(cell.folder, asked.requests),
        took=float(result["timing"]["wall_seconds"]["evaluate"]) if result else None,
        memory=memory(cell, config, asked),
    )


def row_name(job: Experiment) -> str:
    """The row, and its bits and execution where they are not the usual ones."""
    quant = "" if job.quant_name == DEFAULT_QUANT else job.quant_name
    return " ".join(filter(None, (job.label, quant, "packed" if _packed(job) else "")))


def _packed(job: Experiment) -> bool:
    return job.quant is not None and job.common.execution == "packed"


def answered_share(folder: Path, requests: int) -> float:
    """Fraction of a cell's requests whose answers are on disk."""
    files = [path for path in (folder / CACHE_NAME, *shard_caches(folder)) if path.exists()]
    lines = [line for path in files for line in path.read_bytes().splitlines()]
    return min(1.0, sum(line.startswith(b'{"key"') for line in lines) / max(1, requests))


def memory(cell: Cell, config: TransformerConfig, asked: Demand) -> float:
    """Bytes of the weights and of one forward's activations, at most: a block's and all logits."""
    job = cell.experiment
    itemsize = getattr(torch, job.common.dtype).itemsize
    linears, rest = parameters(config)
    weights = linears * (0.5 if _packed(job) else itemsize) + rest * itemsize
    wide = itemsize if job.quant is None else 4  # quantized linears compute in float32
    block = asked.longest * (8 * config.d_model + 4 * config.d_ffn) * wide
    logits = asked.most_asked * config.vocab_size * (itemsize + BYTES_PER_LOGIT)
    rows = job.common.batch_size * (2 if cell.task.settings.guidance else 1)
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
    cells: dict[str, Forecast],
) -> None:
    """The calibration set and the rounded weights of a job.

    Their time is the longest that finished cells of other seeds waited for them, else the time of
    their forwards at the speed of the job's forwards.
    """
    calibration, seed = job.calibration, job.common.seed
    if calibration is None:  # rounding to the nearest is done by every job, and kept nowhere
        return
    tokens = sum(cell.demand.tokens for cell in cells.values())
    rate = sum(cell.seconds for cell in cells.values()) / tokens
    keys = keys_of(next(iter(cells.values())).cell.config)
    disk = BYTES_PER_WEIGHT * parameters(config)[0]
    for kind, part, key, of, steps, size in (
        ("calibration", "calibrate", keys["calibration"], calibration.name, [calibration], 0),
        ("weights", "quantize", keys["weights"], row_name(job), job.method.steps.values(), disk),
    ):
        stage = Stage(kind, f"{job.model.name} {of}, seed {seed}", size)
        stage = plan.stages.setdefault(f"{key} {seed}", stage)
        stage.cells |= cells.keys()
        took, elsewhere = [stage.took or 0.0], [stage.seconds or 0.0]
        for done in (done for done in finished if key in done.keys.values()):
            (took if done.seed == seed else elsewhere).append(done.seconds[part])
        if not any(elsewhere):
            elsewhere.append(rate * (calibration_forwards(calibration, steps) or 0))
        stage.took, stage.seconds = max(took) or None, max(elsewhere) or None
