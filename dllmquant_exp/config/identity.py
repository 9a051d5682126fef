"""The one description of a job and its cells: configuration, hash and folder, and keys of caches.

Equal descriptions mean equal work. They hold settings alone; `circumstances` adds everything else
that decides bits, for caches that outlive a call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from dllmquant_exp.config.own_options import Row
from dllmquant_exp.config.quantized_model import DEFAULT_QUANT, QuantizedModel
from dllmquant_exp.config.task_config import SPEED, EvaluationSettings, Task
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.settings import DecodingOverrides
from dllmquant_exp.store import provenance
from dllmquant_exp.store.names import LONGEST_FOLDER, check_name
from dllmquant_exp.store.paths import expanded
from dllmquant_exp.store.results import FIGURES_FOLDER, config_hash
from dllmquant_exp.store.schema import AtLeast, describe
from dllmquant_exp.store.tracking import TrackingSettings

Dtype = Literal["float32", "float64", "bfloat16"]
Execution = Literal["fake", "packed"]
Export = Literal["compressed-tensors"]
Positive = Annotated[int, AtLeast(1)]
_SECTIONS = ("method", "quant", "calibration", "cgq", "iaaq")


@dataclass(frozen=True)
class CommonSettings:
    """The settings at the top level of conf/config.yaml."""

    sweep: str
    runs_dir: str
    data_root: str | None
    limit: Positive | None
    seed: Annotated[int, AtLeast(0)]
    device: str
    dtype: Dtype
    execution: Execution
    batch_size: Positive
    threads: Positive | None
    save: str | None = None
    export: Export | None = None
    shards: Positive = 1
    shard: int | None = None

    def __post_init__(self) -> None:
        problems = []
        try:
            check_name(self.sweep, "sweep")
        except ConfigError as error:
            problems.append(f"{error}; use runs_dir for a path")
        if self.sweep == FIGURES_FOLDER:
            problems.append(f"sweep = {self.sweep!r} is where recorded figures go; choose another")
        if self.shard is not None and not 0 <= self.shard < self.shards:
            problems.append(
                f"shard = {self.shard} is not one of the shards 0 to {self.shards - 1} that "
                f"shards = {self.shards} makes; leave shard out, and a sweep runs all of them"
            )
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def data_folder(self) -> Path | None:
        """The folder of `data_root`; None where rows come from the hub."""
        return None if self.data_root is None else expanded(self.data_root)

    @property
    def runs_folder(self) -> Path:
        return expanded(self.runs_dir)

    @property
    def part(self) -> tuple[int, int] | None:
        """(k, n) where a job answers the k-th of n shards, None where it answers everything."""
        return None if self.shard is None or self.shards == 1 else (self.shard, self.shards)


@dataclass(frozen=True)
class Experiment(QuantizedModel):
    """One job: a model, a method and a seed over the tasks of a suite."""

    row: Row
    is_own_row: bool  # an option of the user's folder, which was chosen
    same_as: str | None  # hub id that the user says the weights are a copy of; changes no result
    tasks: tuple[Task, ...]
    evaluation: EvaluationSettings
    decoding: DecodingOverrides
    tracking: TrackingSettings
    common: CommonSettings

    def __post_init__(self) -> None:
        """Refuse names that no folder can be called by (ConfigError)."""
        where = "" if self.saved is None else f"{self.saved.folder}/config.json, made: "
        sampler = self.describe("calibration")
        if sampler is not None:
            check_name(sampler["name"], f"{where}calibration.name")
        for names in map(self._names, self.tasks):
            for setting, name in names.items():
                check_name(name, where + setting)
            length = sum(len(name.encode()) + 1 for name in names.values())
            if length > LONGEST_FOLDER - len(f"s{self.common.seed}-12345678"):
                raise ConfigError(
                    f"{where}{', '.join(names)}: names too long together ({length} bytes, and a "
                    "folder is called by them); choose shorter ones"
                )

    @property
    def sweep_folder(self) -> Path:
        return self.common.runs_folder / self.common.sweep

    def cell_config(self, task: Task) -> dict[str, Any]:
        """Everything that can change the cell's result, and nothing else; its hash names the cell.

        A user's row is part of it: its cells are not those of another row that does the same.
        """
        settings = describe(task.settings)
        common, scored = self.common, task.kind != SPEED
        speed = None if task.speed is None else describe(task.speed)
        config = {
            "model": self.model_config,
            **{name: self.describe(name) for name in _SECTIONS},
            "task": {
                **{"name": task.name, "kind": task.kind, "settings": settings},
                **_present(source=task.source, speed=speed),
            },
            "data_root": common.data_root if self.reads_data_root(task) else None,
            "limit": common.limit if scored else None,
            "seed": common.seed,
            "device": common.device,
            "dtype": common.dtype if scored else None,
            "execution": None if self.quant is None else common.execution,
            "batch_size": common.batch_size if scored else None,
            "threads": common.threads,
        }
        saved = None if self.saved is None else self.saved.digest[7:23]
        return config | _present(saved=saved, row=self.row.name if self.is_own_row else None)

    def cell_name(self, task: Task) -> str:
        """Name of a cell's folder: what it is, and the first 8 digits of its hash."""
        names = [*self._names(task).values(), f"s{self.common.seed}"]
        return "-".join([*names, config_hash(self.cell_config(task))[:8]])

    def _names(self, task: Task) -> dict[str, str]:
        """The names that a cell is called by, with their settings."""
        quant = "" if self.quant_name == DEFAULT_QUANT else self.quant_name
        names = {"model.name": self.model.name, "method.name": self.label}
        return names | ({"quant.name": quant} if quant else {}) | {"task": task.name}

    def cell_folder(self, task: Task) -> Path:
        return self.sweep_folder / self.cell_name(task)

    def reads_data_root(self, task: Task) -> bool:
        if task.kind == SPEED:
            return False
        collects = self.calibration is not None and self.saved is None
        return task.kind == "official" or (collects and not self.model.embedded)

    @property
    def model_config(self) -> dict[str, Any]:
        """The part of a cell's configuration that says which model was loaded."""
        found = describe(self.model)
        names = ("name", "architecture", "checkpoint", "revision", "outliers")
        return {name: found[name] for name in names} | _present(layout=found["layout"])


def calibration_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's configuration that decides its calibration set."""
    names = ("model", "calibration", "seed", "device", "dtype", "threads")
    return {name: config[name] for name in names}


def weights_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's configuration that decides its rounded weights, beside the states.

    Attention is quantized while a model runs, and its bits round no weight.
    """
    quant = {name: value for name, value in config["quant"].items() if name != "attention"}
    names = ("model", "method", "cgq", "device", "dtype")
    return {name: config[name] for name in names} | {"quant": quant}


def saved_parts(experiment: Experiment, digest: str | None) -> dict[str, str]:
    """Everything that decides a saved model, a short hash of each part: refusals name the parts.

    Threads count as they are set: null leaves their number to the machine that makes the model.

    Args:
        digest: the checkpoint's, where it is known without asking a hub.
    """
    common = experiment.common
    if experiment.saved is not None:
        parts: dict[str, Any] = {"saved": experiment.saved.digest, "export": common.export}
    else:
        collects = experiment.calibration is not None and not experiment.model.embedded
        settings = ("seed", "device", "dtype", "threads", "export")
        parts = {
            **{name: experiment.describe(name) for name in ("model", *_SECTIONS)},
            **{name: getattr(common, name) for name in settings},
            "checkpoint": digest,
            "data_root": common.data_root if collects else None,
            "code": provenance.code_digest(),
        }
    return {name: config_hash({name: part})[:16] for name, part in parts.items()}


def forward_key(experiment: Experiment, digest: str) -> str:
    """Hash of everything that decides the numbers of a full-precision model on this machine."""
    outliers = experiment.model_config["outliers"]
    common = {name: getattr(experiment.common, name) for name in ("dtype", "device")}
    return config_hash({"outliers": outliers, **common, **circumstances(digest)})


def circumstances(digest: str) -> dict[str, Any]:
    """Everything beside settings that decides the bits of results."""
    threads, code = torch.get_num_threads(), provenance.code_digest()
    return {"checkpoint": digest, "threads": threads, "code": code}


def _present(**settings: Any) -> dict[str, Any]:
    """The settings that have a value: cells from before there were the others keep their names."""
    return {name: value for name, value in settings.items() if value is not None}
