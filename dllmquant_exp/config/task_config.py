"""The tasks of an experiment, how they are decoded, and what a speed task measures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.quantized_model import ModelSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.settings import (
    GENERATION_OVERRIDES,
    LIKELIHOOD_OVERRIDES,
    OVERRIDES,
    DecodingOverrides,
    TaskSettings,
    profile_settings,
    resolve_settings,
)
from dllmquant_exp.speed.workload import SpeedSettings
from dllmquant_exp.store.schema import read

PUBLISHED = "published"  # the profile that every task's `settings` are
SPEED = "speed"  # the kind of a task without items; see dllmquant_exp.speed
# Settings that a measurement of speed does not read.
IGNORED = ("dtype", "limit", "batch_size", "data_root", "shards", "shard")


@dataclass(frozen=True)
class EvaluationSettings:
    """The choice of settings: `published` are the authors' own; see `profiles` in conf/task."""

    name: str


@dataclass(frozen=True)
class Task:
    """One task with the settings that this model is evaluated with."""

    name: str
    label: str
    kind: str
    spec: Mapping[str, Any]
    settings: TaskSettings
    source: str | None = None  # a digest of its files, where the task is from outside
    speed: SpeedSettings | None = None  # where the kind is SPEED


def resolve_tasks(
    suite: Any, model: ModelSettings, decoding: DecodingOverrides, evaluation: EvaluationSettings
) -> tuple[Task, ...]:
    """The tasks of the group `task`, with the settings that this model is evaluated with.

    Raises:
        ConfigError: no task, or settings that it or the model cannot follow.
        NoUse: a profile that no task has.
    """
    entries = suite.get("tasks") if isinstance(suite, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError("task.tasks is empty: choose a task or a suite, e.g. task=micro_nine")
    tasks = tuple(
        _resolve_task(name, spec, model, decoding, evaluation.name)
        for name, spec in entries.items()
    )
    if evaluation.name != PUBLISHED and not any(
        profile_settings(task.spec, evaluation.name) for task in tasks
    ):
        raise NoUse(
            f"evaluation={evaluation.name} would change nothing: none of the chosen tasks has "
            "settings under this name in its `profiles`",
            "evaluation",
        )
    return tasks


def _resolve_task(
    name: str, spec: Any, model: ModelSettings, decoding: DecodingOverrides, profile: str
) -> Task:
    where = f"task.tasks.{name}"
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where} is {spec!r}, but a task's settings belong there")
    missing = [key for key in ("label", "kind") if not isinstance(spec.get(key), str)]
    if missing:
        raise ConfigError(f"{where} has no {' and no '.join(missing)}")
    overrides = {key: value for key, value in asdict(decoding).items() if key != "name"}
    try:
        settings = resolve_settings(name, spec, model.settings, overrides, profile)
        settings.validate(model.architecture)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    speed, source = None, None
    if spec["kind"] != SPEED:
        source = _source(settings, where)
    if spec["kind"] == SPEED:
        speed = resolve_speed(spec.get("measure"), model.settings, settings, where)
    return Task(name, spec["label"], spec["kind"], dict(spec), settings, source, speed)


def _source(settings: TaskSettings, where: str) -> str | None:
    """A digest of a task from outside, read and checked; None for ours (ConfigError)."""
    from dllmquant_exp.evaluation.tasks import task_configs, task_source

    try:
        source = task_source(settings.harness_task, settings.include_path)
        if source is not None:
            task_configs(settings.harness_task, settings.include_path)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError, RecursionError) as error:  # of another shape
        place = f"{settings.harness_task} is no task file that lm-eval could read"
        raise ConfigError(f"{where}: {place} ({type(error).__name__}: {error})") from error
    return source


def check_effects(line: Overrides, tasks: Sequence[Task]) -> None:
    """Refuse a decoding setting of the command line that no task would follow (NoUse)."""
    effective: set[str] = set()
    for task in tasks:
        likelihood = task.settings.variant == "likelihood"
        effective |= {*(LIKELIHOOD_OVERRIDES if likelihood else GENERATION_OVERRIDES)}
    idle = [name for name in OVERRIDES if name not in effective]
    names = [f"decoding.{name}" for name in idle]
    if line.touches(*names):
        variants = {task.settings.variant for task in tasks}
        raise NoUse(
            f"{' '.join(line.touching(*names))} would change nothing: the chosen tasks are all "
            f"evaluated by {' and '.join(variants)}",
            *names,
        )


def resolve_speed(measure: Any, kind: str, settings: TaskSettings, where: str) -> SpeedSettings:
    """Read the speed settings for models of a kind.

    Args:
        measure: the task's section of that name, by kinds of models.
        kind: the model's `settings` key.
        settings: how responses are decoded.
        where: the task's place in the configuration, for messages.

    Raises:
        ConfigError: nothing for this kind, values that make no sense, or responses that may end
            early.
    """
    if not isinstance(measure, Mapping) or kind not in measure:
        known = ", ".join(map(str, measure)) if isinstance(measure, Mapping) else "nothing"
        raise ConfigError(f"{where}.measure has nothing for models of kind {kind!r}: {known}")
    if settings.variant != "generation" or not settings.suppress_eos:
        raise ConfigError(
            f"{where}: tokens per second are measured on whole responses; set variant to "
            "generation and suppress_eos to true"
        )
    return read(SpeedSettings, measure[kind], f"{where}.measure.{kind}")


def check_speed(line: Overrides, *, device: str, fake: bool, saved: bool) -> None:
    """Refuse what a measurement of speed cannot do, or would ignore.

    Args:
        fake: quantized layers would run in floating point.
        saved: the model is a saved one.

    Raises:
        ConfigError: what cannot be, and what would work.
        NoUse: settings that it does not read.
    """
    if device != "cpu":
        raise ConfigError(f"device = {device}: speed is measured on the CPU; use device=cpu")
    if fake:
        raise ConfigError(
            "execution = fake quantizes in floating point, whose speed means nothing; use "
            "execution=packed with task=speed"
        )
    if saved:
        raise ConfigError(
            "model=saved with task=speed: speed is measured beside full precision, which a saved "
            "model does not hold, and the values of weights do not change it; choose the model, "
            "method and quant that it was made with"
        )
    if line.touches(*IGNORED):
        raise NoUse(
            f"{' '.join(line.touching(*IGNORED))} would change nothing in task=speed, which takes "
            "the fastest type of each side, has no items and is measured in one process; "
            "task.tasks.speed.measure says what it decodes at once",
            *IGNORED,
        )
