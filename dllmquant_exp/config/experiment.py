"""From the composed Hydra configuration to a checked, typed experiment.

Everything that can be known to be wrong before a model is loaded is refused here, with a message
that says which setting, what it is and what would work.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dllmquant_exp.config.folder import content_of
from dllmquant_exp.config.identity import CommonSettings, Experiment
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.own_options import NAMED
from dllmquant_exp.config.quantized_model import (
    COMPONENTS,
    ModelSettings,
    quantized_model,
    read_method,
    read_model,
    read_quant,
    targets,
)
from dllmquant_exp.config.rows import row_of
from dllmquant_exp.config.saved_model import check_saving, is_saved, saved_model, saved_row
from dllmquant_exp.config.task_config import (
    SPEED,
    EvaluationSettings,
    check_effects,
    check_speed,
    resolve_tasks,
)
from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.evaluation.settings import DecodingOverrides
from dllmquant_exp.models.published_shapes import SHAPES
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.store.outside import fault, place_outside
from dllmquant_exp.store.schema import read, unknown_key
from dllmquant_exp.store.tracking import TrackingSettings

__all__ = ["CommonSettings", "Experiment", "resolve", "to_mapping"]

GROUPS = ("model", "method", "quant", "calibration", "task", "evaluation", "decoding", "tracking")
# Choose options of other groups, how jobs are started or what is reported; no job reads them.
PRESETS = ("row", "models", "table", "launcher", "report", "controls", "leaves")


def to_mapping(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved, without Hydra's own part."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    try:
        content = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {error}") from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def resolve(
    config: Mapping[str, Any],
    words: Sequence[str] = (),
    choices: Mapping[str, str | None] | None = None,
) -> Experiment:
    """Check a composed configuration and make an experiment of it.

    Touches no file but options of conf/row and the config.json of a saved model.

    Args:
        config: see `to_mapping`.
        words: of the command line, such as `decoding.gen_length=64`: what was asked for by name
            must matter.
        choices: the option of each group; the sections must be these options, as tables go by
            their names. None where nobody knows.

    Raises:
        ConfigError: all problems of all sections; where there is none, the first conflict between
            sections.
        NoUse: words that would change nothing.
    """
    line = Overrides.read(words)
    try:
        return _resolved(config, line, choices)
    except Refusal:
        raise
    except Exception as error:
        if place_outside(error) is None:
            raise
        raise ConfigError(fault(error)) from error


def _resolved(
    config: Mapping[str, Any], line: Overrides, choices: Mapping[str, str | None] | None
) -> Experiment:
    _check_groups(config, line)
    saved = is_saved(config)
    sections = {} if saved else {"model": read_model, "method": read_method, "quant": read_quant}
    others = (*GROUPS, *COMPONENTS, *PRESETS)
    readers: dict[str, Callable[[], Any]] = {
        "common": lambda: read(CommonSettings, config, "config", ignore=others),
        **{name: partial(reader, config) for name, reader in sections.items()},
        "evaluation": lambda: read(EvaluationSettings, config["evaluation"], "evaluation"),
        "decoding": lambda: read(DecodingOverrides, config["decoding"], "decoding"),
        "tracking": lambda: read(TrackingSettings, config["tracking"], "tracking"),
    }
    found = _read_all(readers)
    common, evaluation, decoding = (found[k] for k in ("common", "evaluation", "decoding"))
    _check_choices(config, choices or {}, line)
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
    row, is_own = (saved_row(model.saved), False) if model.saved else row_of(model, config, line)
    return Experiment(
        **vars(model),
        row=row,
        is_own_row=is_own,
        same_as=_stated(config["model"], model.model),
        tasks=tasks,
        evaluation=evaluation,
        decoding=decoding,
        tracking=found["tracking"],
        common=common,
    )


def _stated(section: Mapping[str, Any], model: ModelSettings) -> str | None:
    """The hub id that `model.same_as` names (ConfigError: there is no use for it)."""
    same_as = section.get("same_as")
    if same_as is None:
        return None
    if model.embedded or model.checkpoint in SHAPES:
        raise ConfigError(
            f"model.same_as = {same_as} says what the weights in a local folder are, and "
            f"{model.checkpoint} says it itself; leave it out"
        )
    if same_as not in SHAPES:
        raise ConfigError(f"model.same_as = {same_as!r} is not one of: {', '.join(SHAPES)}")
    return str(same_as)


def _check_choices(
    config: Mapping[str, Any], choices: Mapping[str, str | None], line: Overrides
) -> None:
    """Refuse other classes, or another name, than those of the chosen options (ConfigError)."""
    for group in (*NAMED, "iaaq"):
        section, option = config.get(group) or {}, choices.get(group)
        if not section or not choices:
            continue
        stated = content_of(line.folders, group, option) if option else {}
        given, expected = ((part.get("name"), targets(part)) for part in (section, stated))
        if given != expected:
            words = " ".join(line.touching(group) or line.touching("row", "table") or line.texts)
            raise ConfigError(
                f"{words}: this {group} is not the option {option}, by whose name results and "
                "tables go; choose an option, or write a YAML of your own in a folder for "
                "--config-dir"
            )
    if option := choices.get("task"):
        columns = dict(_columns(content_of(line.folders, "task", option).get("tasks")))
        asked = dict(_columns(config["task"].get("tasks")))
        if asked and asked != columns and "${" not in str(columns):
            words = " ".join(line.touching("task")) or " ".join(line.texts)
            raise ConfigError(
                f"{words}: task={option} would ask other questions than its name says, or stand in "
                "other columns; write a YAML of your own in a folder for --config-dir"
            )


def _columns(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of tasks that say which questions are asked, and in which column they stand."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        if key in ("label", "kind", "harness_task", "include_path"):
            yield f"{place}{key}", value
        yield from _columns(value, f"{place}{key}.")


def _check_groups(config: Mapping[str, Any], line: Overrides) -> None:
    known = {*GROUPS, *COMPONENTS, *PRESETS, *(field.name for field in fields(CommonSettings))}
    problems = [unknown_key(key, known, "config") for key in config if key not in known]
    problems += [f"group {name} is missing" for name in GROUPS if config.get(name) is None]
    for word in line.words:
        if word.name in (*GROUPS, *COMPONENTS, *PRESETS) and "[" in "".join(word.values):
            problems.append(
                f"{word.text} would merge these options into one that is none of them; choose "
                f"one, or each in a job of its own: -m {word.name}=a,b"
            )
        if word.name.startswith(("row.", "report", "leaves")):
            problems.append(f"{word.text}: nothing reads it; write a YAML of your own instead")
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
