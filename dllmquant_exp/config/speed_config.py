"""The configuration of a speed task: what config.py asks about it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dllmquant_exp.errors import ConfigError
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.speed.workload import SpeedSettings
from dllmquant_exp.store.schema import read

IGNORED = ("dtype", "limit", "batch_size", "data_root", "shards", "shard")


def resolve_speed(measure: Any, kind: str, settings: TaskSettings, where: str) -> SpeedSettings:
    """What is measured with models of a kind.

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


def check_speed(overrides: Sequence[str], *, device: str, fake: bool, saved: bool) -> None:
    """Refuse what a measurement of speed cannot do, or would ignore.

    Args:
        overrides: of the command line.
        fake: quantized layers would run in floating point.
        saved: the model is a saved one.

    Raises:
        ConfigError: what cannot be, and what would work.
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
    chosen = [(word.lstrip("+").partition("=")[0], word) for word in overrides]
    if "table" in dict(chosen):
        return  # what one table has no use for may be meant for the others of table=all
    for name, word in chosen:
        if name in IGNORED:
            raise ConfigError(
                f"{word} would change nothing in task=speed, which takes the fastest type of each "
                "side, has no items and is measured in one process; task.tasks.speed.measure says "
                "what it decodes at once"
            )
