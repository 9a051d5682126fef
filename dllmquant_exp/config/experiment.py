"""From the composed Hydra configuration to a checked, typed experiment.

Everything that can be known to be wrong before a model is loaded is refused here, with a message
that says which setting, what it is and what would work.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config import identity
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.quantized_model import (
    COMPONENTS,
    QuantizedModel,
    quantized_model,
    read_method,
    read_model,
    read_quant,
)
from dllmquant_exp.config.rows import Row, row_of
from dllmquant_exp.config.saved_model import check_saving, is_saved, saved_model
from dllmquant_exp.config.task_config import (
    SPEED,
    EvaluationSettings,
    Task,
    check_effects,
    check_speed,
    resolve_tasks,
)
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.settings import DecodingOverrides
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.store.results import FIGURES_FOLDER
from dllmquant_exp.store.schema import AtLeast, read, unknown_key
from dllmquant_exp.store.tracking import TrackingSettings

Dtype = Literal["float32", "float64", "bfloat16"]
Execution = Literal["fake", "packed"]
Export = Literal["compressed-tensors"]
Positive = Annotated[int, AtLeast(1)]
GROUPS = ("model", "method", "quant", "calibration", "task", "evaluation", "decoding", "tracking")
# Choose options of other groups, how jobs are started or what is reported; no job reads them.
PRESETS = ("row", "models", "table", "launcher", "report", "controls", "leaves")
_NAME = re.compile(r"[A-Za-z0-9_][\w.+-]*")


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
        if not _NAME.fullmatch(self.sweep):
            problems.append(
                f"sweep = {self.sweep!r} must be a plain folder name (letters, digits, . _ + -); "
                "use runs_dir for a path"
            )
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
        return None if self.data_root is None else Path(self.data_root).expanduser()

    @property
    def part(self) -> tuple[int, int] | None:
        """(k, n) where a job answers the k-th of n shards, None where it answers everything."""
        return None if self.shard is None or self.shards == 1 else (self.shard, self.shards)


@dataclass(frozen=True)
class Experiment(QuantizedModel):
    """One job: a model, a method and a seed over the tasks of a suite."""

    row: Row
    tasks: tuple[Task, ...]
    evaluation: EvaluationSettings
    decoding: DecodingOverrides
    tracking: TrackingSettings
    common: CommonSettings

    @property
    def sweep_folder(self) -> Path:
        return Path(self.common.runs_dir) / self.common.sweep

    def cell_config(self, task: Task) -> dict[str, Any]:
        """Everything that can change the cell's result, and nothing else; see `identity`."""
        return identity.configuration(self, task)

    def cell_name(self, task: Task) -> str:
        return identity.cell_name(self, task)

    def cell_folder(self, task: Task) -> Path:
        return self.sweep_folder / self.cell_name(task)

    def reads_data_root(self, task: Task) -> bool:
        if task.kind == SPEED:
            return False
        collects = self.calibration is not None and self.saved is None
        return task.kind == "official" or (collects and not self.model.embedded)


def to_mapping(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved, without Hydra's own part."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        content = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def resolve(config: Mapping[str, Any], words: Sequence[str] = ()) -> Experiment:
    """Check a composed configuration and make an experiment of it.

    Touches no file but options of conf/row and the config.json of a saved model.

    Args:
        config: see `to_mapping`.
        words: of the command line, such as `decoding.gen_length=64`: what was asked for by name
            must matter.

    Raises:
        ConfigError: all problems of all sections; where there is none, the first conflict between
            sections.
        NoUse: words that would change nothing.
    """
    line = Overrides.read(words)
    _check_groups(config, line)
    saved = is_saved(config)
    readers: dict[str, Callable[[], Any]] = {
        "common": lambda: read(
            CommonSettings, config, "config", ignore=(*GROUPS, *COMPONENTS, *PRESETS)
        ),
    }
    sections = {"model": read_model, "method": read_method, "quant": read_quant}
    if not saved:
        readers |= {name: partial(reader, config) for name, reader in sections.items()}
    readers |= {
        "evaluation": lambda: read(EvaluationSettings, config["evaluation"], "evaluation"),
        "decoding": lambda: read(DecodingOverrides, config["decoding"], "decoding"),
        "tracking": lambda: read(TrackingSettings, config["tracking"], "tracking"),
    }
    found = _read_all(readers)
    common, evaluation, decoding = (found[k] for k in ("common", "evaluation", "decoding"))
    if saved:
        model = saved_model(config, line)
    else:
        model = quantized_model(config, line, *(found[name] for name in sections))
    if model.quant is not None and common.execution == "packed":
        _check_packed(common, model.quant)
    check_saving(model, common.dtype, common.save, common.export)
    tasks = resolve_tasks(config["task"], model.model, decoding, evaluation)
    check_effects(line, tasks)
    if any(task.kind == SPEED for task in tasks):
        fake = model.quant is not None and common.execution == "fake"
        check_speed(line, device=common.device, fake=fake, saved=saved)
    return Experiment(
        **vars(model),
        row=row_of(model, config, line),
        tasks=tasks,
        evaluation=evaluation,
        decoding=decoding,
        tracking=found["tracking"],
        common=common,
    )


def _check_groups(config: Mapping[str, Any], line: Overrides) -> None:
    known = {*GROUPS, *COMPONENTS, *PRESETS, *(field.name for field in fields(CommonSettings))}
    problems = [unknown_key(key, known, "config") for key in config if key not in known]
    problems += [f"group {name} is missing" for name in GROUPS if config.get(name) is None]
    if problems:
        raise ConfigError("; ".join(problems))
    if line.touches("models") and not line.touches("table"):
        raise NoUse(
            "models=... says what a table spans and has no effect without table=...; for one "
            "model use model=...",
            "models",
        )


def _read_all(readers: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Read every section; report the problems of all of them in one message (ConfigError)."""
    found, problems = {}, []
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return found


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
