"""The model that is evaluated: its checkpoint, method, bits, calibration and components.

Each section of the configuration is read by one function. TMAS, CGQ and IA-AQ are groups that the
defaults lack: `+tmas=on` adds one, `+tmas=off` or its absence leaves it out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.weighting import TokenWeighting
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.embedded.outliers import OutlierSettings
from dllmquant_exp.models.formats import Layout
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization import method as steps
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.pipeline import needs_calibration
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.quantization.saving import SavedModel
from dllmquant_exp.store.outside import full_name, is_outside
from dllmquant_exp.store.schema import TARGET, build, describe, read

T = TypeVar("T")
DEFAULT_QUANT = "w4a4"
COMPONENTS = ("tmas", "cgq", "iaaq")


@dataclass(frozen=True)
class ModelSettings:
    """A checkpoint, and the kind of published task settings that belong to it."""

    name: str
    architecture: Architecture
    checkpoint: str  # embedded:NAME, a local folder or a hub id
    revision: str | None
    settings: str
    embedded: bool
    outliers: OutlierSettings | None
    layout: Layout | None = None  # of a checkpoint in names of its own; None: LLaDA's or Dream's

    def __post_init__(self) -> None:
        if self.outliers is not None and not self.embedded:
            raise ValueError(
                "outliers are put into embedded models only (they are found with the micro-world's "
                "texts); set model.outliers to null"
            )


@dataclass(frozen=True)
class QuantizedModel:
    """Everything that decides the weights, and what is quantized while they are used."""

    model: ModelSettings
    method: Method
    quant_name: str  # empty for full precision
    quant: QuantSettings | None  # None for full precision
    calibration: Sampler | None  # None where nothing is calibrated, and of a saved model
    cgq: TokenWeighting | None  # None of a saved model
    iaaq: Iaaq | None
    label: str  # the method and its components, as in `quarot+tmas+cgq`
    saved: SavedModel | None  # where it is read from; None where it is made

    def describe(self, section: str) -> Mapping[str, Any] | None:
        """The settings that identify a section; None where it is absent."""
        if self.saved is not None and section in ("calibration", "cgq"):
            described: Mapping[str, Any] | None = self.saved.made.get(section)
            return described
        value = getattr(self, section)
        return None if value is None else describe(value)


def read_model(config: Mapping[str, Any]) -> ModelSettings:
    return read(ModelSettings, config["model"], "model", ignore=["calibration", "same_as"])


def read_method(config: Mapping[str, Any]) -> Method:
    return steps.read_method(config["method"])


def read_quant(config: Mapping[str, Any]) -> QuantSettings:
    return read(QuantSettings, config["quant"], "quant", ignore=["name"])


def targets(section: Mapping[str, Any]) -> list[str]:
    """The classes that a section names, in order: its own, or those of a method's steps."""
    parts = [part for part in section.values() if isinstance(part, Mapping)]
    own = [str(section[TARGET])] if TARGET in section else []
    return own + [target for part in parts for target in targets(part)]


def part_of_label(group: str, value: Any) -> str:
    """Name of a component in labels: `cgq`, or `cgq-mine` where it is an option of a user's."""
    cls = type(value)
    name = getattr(value, "name", full_name(cls) if is_outside(cls) else group)
    return group if name == group else f"{group}-{name}"


def component(base: type[T], config: Mapping[str, Any], name: str) -> T | None:
    """The object of a component that is on; None where its section is absent or empty."""
    section = config.get(name)
    if not section:
        return None
    if isinstance(section, Mapping) and TARGET not in section:
        raise ConfigError(f"{name} is off, so {name}.{next(iter(section))} would have no effect")
    return build(section, base, name)


def read_sampler(config: Mapping[str, Any], architecture: Architecture) -> Sampler:
    """The sampler of the group `tmas` where that is on, else the one of `calibration`."""
    sampler = component(Sampler, config, "tmas")
    sampler = sampler or build(config["calibration"], Sampler, "calibration")
    try:
        sampler.check(architecture)
    except ValueError as error:
        raise ConfigError(f"{sampler.name}: {error}") from error
    return sampler


def quantized_model(
    config: Mapping[str, Any],
    line: Overrides,
    model: ModelSettings,
    method: Method,
    quant: QuantSettings,
) -> QuantizedModel:
    """The model of a configuration whose checkpoint, method and bits are read already.

    Raises:
        ConfigError: wrong settings of what is calibrated on or of a component.
        NoUse: one of these that would change nothing.
    """
    sampler = read_sampler(config, model.architecture)
    tmas = sampler if config.get("tmas") else None
    cgq, iaaq = component(TokenWeighting, config, "cgq"), component(Iaaq, config, "iaaq")
    used = quant if method.quantizes else None
    calibrates = needs_calibration(method, used, iaaq)
    _check_calibration(line, method, calibrates, tmas is not None)
    _check_use(method, used, cgq, iaaq)
    parts = (("tmas", tmas), ("cgq", cgq), ("iaaq", iaaq))
    return QuantizedModel(
        model=model,
        method=method,
        quant_name="" if used is None else str(config["quant"].get("name", DEFAULT_QUANT)),
        quant=used,
        calibration=sampler if calibrates else None,
        cgq=cgq,
        iaaq=iaaq,
        label="+".join([method.name, *(part_of_label(*part) for part in parts if part[1])]),
        saved=None,
    )


def _check_calibration(line: Overrides, method: Method, calibrates: bool, tmas: bool) -> None:
    if tmas and not calibrates:
        raise NoUse(
            f"tmas chooses calibration states, and method={method.name} measures none; use awq, "
            "gptq or quarot, static activation ranges (quant=w4a4_static), or leave tmas off",
            "tmas",
        )
    words = " ".join(line.touching("calibration"))
    if words and not calibrates:
        raise NoUse(
            f"{words}: calibration has no effect with method={method.name}, which measures no "
            "states; leave it out, or use awq, gptq, quarot or quant=w4a4_static",
            "calibration",
        )
    if words and tmas:
        raise NoUse(
            f"{words}: tmas takes the place of calibration; set tmas.samples, tmas.texts, ... "
            "instead, or leave tmas off",
            "calibration",
        )


def _check_use(
    method: Method, quant: QuantSettings | None, cgq: TokenWeighting | None, iaaq: Iaaq | None
) -> None:
    """Refuse steps and components that have nothing to work on."""
    if cgq is not None and (quant is None or not method.calibrates(quant)):
        raise NoUse(
            f"cgq weights the tokens of an objective such as GPTQ's and AWQ's, and method="
            f"{method.name} has none; use awq, gptq or quarot, or leave cgq off",
            "cgq",
        )
    if iaaq is not None and (quant is None or quant.attention is None):
        raise NoUse(
            "iaaq searches the scale of quantized values, and here V is not quantized; use a "
            "method and a quant option that do, or leave iaaq off",
            "iaaq",
        )
    try:
        if quant is not None:
            method.check_work(quant)
        if iaaq is not None and quant is not None:
            iaaq.check(quant.attention)
    except QuantizationError as error:
        raise ConfigError(str(error)) from error
