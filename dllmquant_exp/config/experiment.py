"""From the composed Hydra configuration to a checked, typed experiment.

Everything that can be known to be wrong before a model is loaded is refused here, with a message
that says which setting, what it is and what would work.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.components import COMPONENTS
from dllmquant_exp.config.making import (
    DEFAULT_QUANT,
    Making,
    ModelSettings,
    check_saving,
    is_saved,
    resolve_making,
)
from dllmquant_exp.config.speed_config import check_speed
from dllmquant_exp.config.task_config import (
    SPEED,
    DecodingOverrides,
    Task,
    check_effects,
    resolve_tasks,
)
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings
from dllmquant_exp.store.results import FIGURES_FOLDER, config_hash
from dllmquant_exp.store.schema import read, unknown_key
from dllmquant_exp.store.tracking import TrackingSettings

Dtype = Literal["float32", "float64", "bfloat16"]
Execution = Literal["fake", "packed"]
Export = Literal["compressed-tensors"]
GROUPS = ("model", "method", "quant", "calibration", "task", "decoding", "tracking")
# Choose options of other groups, or how jobs are started; read by Hydra and its plugins alone.
PRESETS = ("row", "models", "table", "launcher", "report")
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*")


@dataclass(frozen=True)
class CommonSettings:
    """The settings at the top level of conf/config.yaml."""

    sweep: str
    runs_dir: str
    data_root: str | None
    limit: int | None
    seed: int
    device: str
    dtype: Dtype
    execution: Execution
    batch_size: int
    threads: int | None
    save: str | None = None
    export: Export | None = None
    shards: int = 1
    shard: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if not _NAME.fullmatch(self.sweep):
            problems.append(
                f"sweep = {self.sweep!r} must be a plain folder name (letters, digits, . _ + -); "
                "use runs_dir for a path"
            )
        if self.sweep == FIGURES_FOLDER:
            problems.append(f"sweep = {self.sweep!r} is where recorded figures go; choose another")
        for name in ("limit", "batch_size", "threads", "shards"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} = {value} must be at least 1")
        if self.seed < 0:
            problems.append(f"seed = {self.seed} must not be negative")
        if self.shard is not None and not 0 <= self.shard < self.shards:
            problems.append(
                f"shard = {self.shard} is not one of the shards 0 to {self.shards - 1} that "
                f"shards = {self.shards} makes; leave shard out, and a sweep runs all of them"
            )
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def part(self) -> tuple[int, int] | None:
        """(k, n) where a job answers the k-th of n shards, None where it answers everything."""
        return None if self.shard is None or self.shards == 1 else (self.shard, self.shards)


@dataclass(frozen=True)
class Experiment(Making):
    """One job: a model, a method and a seed over the tasks of a suite."""

    tasks: tuple[Task, ...]
    decoding: DecodingOverrides
    tracking: TrackingSettings
    common: CommonSettings

    @property
    def sweep_folder(self) -> Path:
        return Path(self.common.runs_dir) / self.common.sweep

    def cell_config(self, task: Task) -> dict[str, Any]:
        """What can change the cell's result, and nothing else; its hash names the cell."""
        settings = asdict(task.settings)
        del settings["source"]  # says where the values come from
        common, scored = self.common, task.kind != SPEED
        return {
            "model": {
                "name": self.model.name,
                "architecture": self.model.architecture,
                "checkpoint": self.model.checkpoint,
                "revision": self.model.revision,
                "outliers": None if self.model.outliers is None else asdict(self.model.outliers),
            },
            "method": asdict(self.method),
            "quant": None if self.quant is None else asdict(self.quant),
            "calibration": None if self.calibration is None else asdict(self.calibration),
            "cgq": None if self.cgq is None else asdict(self.cgq),
            "iaaq": None if self.iaaq is None else asdict(self.iaaq),
            "task": {"name": task.name, "kind": task.kind, "settings": settings}
            | ({} if task.speed is None else {"speed": asdict(task.speed)}),
            "data_root": common.data_root if self.reads_data_root(task) else None,
            "limit": common.limit if scored else None,
            "seed": common.seed,
            "device": common.device,
            "dtype": common.dtype if scored else None,
            "execution": None if self.quant is None else common.execution,
            "batch_size": common.batch_size if scored else None,
            "threads": common.threads,
            # Absent otherwise: results from before there were saved models keep their names.
            **({} if self.saved is None else {"saved": self.saved.digest[7:23]}),
        }

    def reads_data_root(self, task: Task) -> bool:
        if task.kind == SPEED:
            return False
        collects = self.calibration is not None and self.saved is None
        return task.kind == "official" or (collects and not self.model.embedded)

    @property
    def row(self) -> str:
        """The method and its components, as in `quarot+tmas+cgq`."""
        tmas = self.calibration is not None and self.calibration.name == "tmas"
        parts = {"tmas": tmas, "cgq": self.cgq is not None, "iaaq": self.iaaq is not None}
        return "+".join([self.method.name, *(name for name, on in parts.items() if on)])

    def cell_name(self, task: Task) -> str:
        """Folder name of a cell: what it is, and the first 8 digits of its configuration's hash."""
        quant = "" if self.quant_name in ("", DEFAULT_QUANT) else self.quant_name
        parts = (self.model.name, self.row, quant, task.name, f"s{self.common.seed}")
        return "-".join([*filter(None, parts), config_hash(self.cell_config(task))[:8]])

    def cell_folder(self, task: Task) -> Path:
        return self.sweep_folder / self.cell_name(task)


def to_mapping(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved, without Hydra's own part."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        content = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def resolve(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Check a composed configuration and make an experiment of it.

    Touches no file but the config.json of a saved model.

    Args:
        config: see `to_mapping`.
        overrides: the command line's, such as `decoding.gen_length=64`: a decoding setting that
            was asked for by name must matter to at least one task.

    Raises:
        ConfigError: all problems of all sections; where there is none, the first conflict between
            sections.
    """
    names = {field.name for field in fields(CommonSettings)}
    known = {*GROUPS, *COMPONENTS, *PRESETS, *names}
    problems = [unknown_key(key, known, "config") for key in config if key not in known]
    problems += [f"group {name} is missing" for name in GROUPS if config.get(name) is None]
    if problems:
        raise ConfigError("; ".join(problems))
    chosen = {word.partition("=")[0] for word in overrides}
    if "models" in chosen and "table" not in chosen:
        raise ConfigError(
            "models=... says what a table spans and has no effect without table=...; for one "
            "model use model=..."
        )
    _check_sections(config)
    common = read(CommonSettings, config, "config", ignore=(*GROUPS, *COMPONENTS, *PRESETS))
    making = resolve_making(config, overrides)
    if making.quant is not None and common.execution == "packed":
        _check_packed(common, making.quant)
    check_saving(making, common.dtype, common.save, common.export)
    decoding = read(DecodingOverrides, config["decoding"], "decoding")
    tasks = resolve_tasks(config["task"], making.model, decoding)
    check_effects(overrides, tasks)
    if any(task.kind == SPEED for task in tasks):
        fake = making.quant is not None and common.execution == "fake"
        saved = making.saved is not None
        check_speed(overrides, device=common.device, fake=fake, saved=saved)
        if all(task.kind == SPEED for task in tasks):
            common = replace(common, shards=1, shard=None)  # meant for the scores of table=all
    return Experiment(
        **vars(making),
        tasks=tasks,
        decoding=decoding,
        tracking=read(TrackingSettings, config["tracking"], "tracking"),
        common=common,
    )


def _check_sections(config: Mapping[str, Any]) -> None:
    """Every problem of every section in one message (ConfigError)."""
    problems = []
    sections: list[tuple[type, Any, str, Sequence[str]]] = [
        (CommonSettings, config, "config", (*GROUPS, *COMPONENTS, *PRESETS)),
        (MethodSettings, config["method"], "method", []),
        (QuantSettings, config["quant"], "quant", ["name"]),
        (DecodingOverrides, config["decoding"], "decoding", []),
        (TrackingSettings, config["tracking"], "tracking", []),
    ]
    if not is_saved(config["model"]):
        sections.insert(1, (ModelSettings, config["model"], "model", ["calibration"]))
    for cls, section, where, ignore in sections:
        try:
            read(cls, section, where, ignore=ignore)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))


def _check_packed(common: CommonSettings, quant: QuantSettings) -> None:
    """Refuse what integer kernels cannot do, before a model is loaded (ConfigError)."""
    groups = (quant.weight_granularity, quant.activation_granularity)
    faults = {
        f"device = {common.device}": common.device != "cpu",
        f"dtype = {common.dtype}": common.dtype == "float64",
        f"quant.weight_bits = {quant.weight_bits}": quant.weight_bits > 4,
        f"quant.activation_bits = {quant.activation_bits}": quant.activation_bits > 8,
        "a per_group granularity": "per_group" in groups,
    }
    found = [fault for fault, is_so in faults.items() if is_so]
    if found:
        raise ConfigError(
            "execution = packed multiplies weights of at most 4 bits with activations of at most "
            f"8, on the CPU, and cannot run with {' and '.join(found)}; use execution=fake"
        )
