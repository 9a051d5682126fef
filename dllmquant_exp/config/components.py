"""TMAS, CGQ and IA-AQ, and what is calibrated on: from the configuration to checked settings.

A component is a group that is absent from the defaults: `+tmas=on` adds it, `+tmas=off` or its
absence leave it out. One that would change nothing is refused, not ignored.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.weighting import TokenWeighting
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization.attention_settings import IaaqSettings, require_compatible
from dllmquant_exp.quantization.pipeline import needs_calibration
from dllmquant_exp.quantization.quantizers import OFF
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings
from dllmquant_exp.store.schema import TARGET, build, read

T = TypeVar("T")
COMPONENTS = ("tmas", "cgq", "iaaq")


def resolve_components(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    method: MethodSettings,
    quant: QuantSettings | None,
    architecture: Architecture,
) -> tuple[Sampler | None, TokenWeighting | None, IaaqSettings | None]:
    """The sampler (None where nothing is calibrated), CGQ and IA-AQ (None where off).

    Args:
        config: the composed configuration.
        overrides: the command line's words, to notice a group that was asked for and has no effect.
        quant: None for full precision.

    Raises:
        ConfigError: wrong settings, or a component that would change nothing.
    """
    cgq = _built(config, "cgq", TokenWeighting)
    iaaq = _component(IaaqSettings, config, "iaaq")
    tmas = _built(config, "tmas", Sampler)  # takes the place of the group `calibration`
    sampler = tmas or build(config["calibration"], Sampler, "calibration")
    try:
        sampler.check(architecture)
    except ValueError as error:
        raise ConfigError(f"{sampler.name}: {error}") from error
    calibration = sampler if needs_calibration(method, quant, iaaq) else None
    _check_components(overrides, method, quant, calibration, tmas, cgq, iaaq)
    return calibration, cgq, iaaq


def _built(config: Mapping[str, Any], name: str, base: type[T]) -> T | None:
    """The object of a component that is on; None where its section is absent or empty."""
    section = config.get(name)
    if not section:
        return None
    if isinstance(section, Mapping) and TARGET not in section:
        raise ConfigError(f"{name} is off, so {name}.{next(iter(section))} would have no effect")
    return build(section, base, name)


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


def _check_components(
    overrides: Sequence[str],
    method: MethodSettings,
    quant: QuantSettings | None,
    calibration: Sampler | None,
    tmas: Sampler | None,
    cgq: TokenWeighting | None,
    iaaq: IaaqSettings | None,
) -> None:
    """Refuse a component that would change nothing (ConfigError)."""
    if tmas is not None and calibration is None:
        raise ConfigError(
            f"tmas chooses calibration states, and method={method.name} measures none; use awq, "
            "gptq or quarot, static activation ranges (quant=w4a4_static), or leave tmas off"
        )
    if calibration is None and any(word.startswith("calibration") for word in overrides):
        raise ConfigError(
            f"calibration has no effect with method={method.name}, which measures no states"
        )
    if tmas is not None and any(word.startswith("calibration") for word in overrides):
        raise ConfigError("tmas takes the place of calibration=...; choose one of them")
    solves = method.awq or method.gptq is not None
    if quant is not None and quant.weight_bits == OFF and solves:
        raise ConfigError(
            f"method={method.name} is about rounding weights, and quant.weight_bits = 16 leaves "
            "them as they are; quantize the weights, or use method=rtn"
        )
    weighted = quant is not None and quant.weight_bits != OFF and (method.awq or method.gptq)
    if cgq is not None and not weighted:
        raise ConfigError(
            f"cgq weights the tokens of GPTQ's and AWQ's objectives, and method={method.name} has "
            "neither; use awq, gptq or quarot, or leave cgq off"
        )
    if iaaq is None:
        return
    if quant is None or quant.attention is None:
        raise ConfigError(
            "iaaq searches the scale of quantized values, and here V is not quantized; use a "
            "method and a quant option that do, or leave iaaq off"
        )
    try:
        require_compatible(quant.attention, iaaq)
    except ValueError as error:
        raise ConfigError(str(error)) from error
