"""The model that is evaluated: its checkpoint, method, bits, calibration and components.

Each section of the configuration is read by one function. TMAS, CGQ and IA-AQ are groups that the
defaults lack: `+tmas=on` adds one, `+tmas=off` or its absence leaves it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from dllmquant_exp.calibration.cgq import CgqSettings
from dllmquant_exp.calibration.collect import CalibrationSettings
from dllmquant_exp.calibration.tmas import TmasSettings
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.embedded.outliers import OutlierSettings
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization.attention_settings import IaaqSettings, require_compatible
from dllmquant_exp.quantization.pipeline import needs_calibration
from dllmquant_exp.quantization.quantizers import OFF
from dllmquant_exp.quantization.saving import SavedModel
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings
from dllmquant_exp.store.schema import describe, read

T = TypeVar("T")
DEFAULT_QUANT = "w4a4"
COMPONENTS = ("tmas", "cgq", "iaaq")
TMAS_DECODES = ("texts", "gen_length", "steps", "tokens")  # settings that every sampler has


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
    method: MethodSettings
    quant_name: str  # empty for full precision
    quant: QuantSettings | None  # None for full precision
    calibration: CalibrationSettings | None  # None where nothing is calibrated
    cgq: CgqSettings | None
    iaaq: IaaqSettings | None
    saved: SavedModel | None  # where it is read from; None where it is made

    def describe(self, section: str) -> Mapping[str, Any] | None:
        """The settings that identify a section; None where it is absent."""
        value = getattr(self, section)
        return None if value is None else describe(value)


def read_model(config: Mapping[str, Any]) -> ModelSettings:
    return read(ModelSettings, config["model"], "model", ignore=["calibration"])


def read_method(config: Mapping[str, Any]) -> MethodSettings:
    return read(MethodSettings, config["method"], "method")


def read_quant(config: Mapping[str, Any]) -> QuantSettings:
    return read(QuantSettings, config["quant"], "quant", ignore=["name"])


def read_tmas(config: Mapping[str, Any]) -> TmasSettings | None:
    return _component(TmasSettings, config, "tmas", ignore=TMAS_DECODES)


def read_cgq(config: Mapping[str, Any]) -> CgqSettings | None:
    return _component(CgqSettings, config, "cgq")


def read_iaaq(config: Mapping[str, Any]) -> IaaqSettings | None:
    return _component(IaaqSettings, config, "iaaq")


def read_calibration(
    config: Mapping[str, Any], tmas: TmasSettings | None, architecture: Architecture
) -> CalibrationSettings:
    """The sampler of the group `calibration`, or TMAS in its place."""
    if tmas is None:
        settings = read(CalibrationSettings, config["calibration"], "calibration", ignore=["tmas"])
    else:
        own = {key: config["tmas"].get(key) for key in TMAS_DECODES}
        values = {"name": "tmas", "samples": tmas.samples, **own, "tmas": asdict(tmas)}
        settings = read(CalibrationSettings, values, "tmas")
    if settings.gen_length is not None:
        try:
            settings.decoding(architecture)
        except ValueError as error:
            raise ConfigError(f"{settings.name}: {error}") from error
    return settings


def _component(
    cls: type[T], config: Mapping[str, Any], name: str, ignore: Sequence[str] = ()
) -> T | None:
    """The settings of a component that is on; None where it is off or absent."""
    section = config.get(name)
    if section is None:
        return None
    if not isinstance(section, Mapping) or not isinstance(section.get("enabled"), bool):
        raise ConfigError(f"{name}.enabled must be true or false; use +{name}=on or +{name}=off")
    if not section["enabled"]:
        idle = [key for key in section if key != "enabled"]
        if idle:
            raise ConfigError(f"{name} is off, so {name}.{idle[0]} would have no effect")
        return None
    return read(cls, section, name, ignore=["enabled", *ignore])


def quantized_model(
    config: Mapping[str, Any],
    line: Overrides,
    model: ModelSettings,
    method: MethodSettings,
    quant: QuantSettings,
) -> QuantizedModel:
    """The model of a configuration whose checkpoint, method and bits are read already.

    Raises:
        ConfigError: wrong settings of what is calibrated on or of a component.
        NoUse: one of these that would change nothing.
    """
    tmas, cgq, iaaq = read_tmas(config), read_cgq(config), read_iaaq(config)
    used = quant if method.quantizes else None
    calibration = read_calibration(config, tmas, model.architecture)
    calibrates = needs_calibration(method, used, iaaq)
    _check_calibration(line, method, calibrates, tmas is not None)
    _check_weights(method, used, cgq)
    _check_iaaq(used, iaaq)
    return QuantizedModel(
        model=model,
        method=method,
        quant_name="" if used is None else str(config["quant"].get("name", DEFAULT_QUANT)),
        quant=used,
        calibration=calibration if calibrates else None,
        cgq=cgq,
        iaaq=iaaq,
        saved=None,
    )


def _check_calibration(
    line: Overrides, method: MethodSettings, calibrates: bool, tmas: bool
) -> None:
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


def _check_weights(
    method: MethodSettings, quant: QuantSettings | None, cgq: CgqSettings | None
) -> None:
    solves = method.awq or method.gptq is not None
    rounds = quant is not None and quant.weight_bits != OFF
    if solves and not rounds and quant is not None:
        raise ConfigError(
            f"method={method.name} is about rounding weights, and quant.weight_bits = 16 leaves "
            "them as they are; quantize the weights, or use method=rtn"
        )
    if cgq is not None and not (solves and rounds):
        raise NoUse(
            f"cgq weights the tokens of GPTQ's and AWQ's objectives, and method={method.name} has "
            "neither; use awq, gptq or quarot, or leave cgq off",
            "cgq",
        )


def _check_iaaq(quant: QuantSettings | None, iaaq: IaaqSettings | None) -> None:
    if iaaq is None:
        return
    if quant is None or quant.attention is None:
        raise NoUse(
            "iaaq searches the scale of quantized values, and here V is not quantized; use a "
            "method and a quant option that do, or leave iaaq off",
            "iaaq",
        )
    try:
        require_compatible(quant.attention, iaaq)
    except ValueError as error:
        raise ConfigError(str(error)) from error
