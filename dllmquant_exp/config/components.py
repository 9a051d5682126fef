"""TMAS, CGQ and IA-AQ, and what is calibrated on: from the configuration to checked settings.

A component is a group that is absent from the defaults: `+tmas=on` adds it, `+tmas=off` or its
absence leave it out. One that would change nothing is refused, not ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from dllmquant_exp.calibration.cgq import CgqSettings
from dllmquant_exp.calibration.collect import CalibrationSettings
from dllmquant_exp.calibration.tmas import TmasSettings
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method
from dllmquant_exp.quantization.pipeline import needs_calibration
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.quantizers import QuantizationError
from dllmquant_exp.store.schema import TARGET, build, read

T = TypeVar("T")
COMPONENTS = ("tmas", "cgq", "iaaq")
TMAS_DECODES = ("texts", "gen_length", "steps", "tokens")  # settings that every sampler has


def resolve_components(
    config: Mapping[str, Any],
    overrides: Sequence[str],
    method: Method,
    quant: QuantSettings | None,
    architecture: Architecture,
) -> tuple[CalibrationSettings | None, CgqSettings | None, Iaaq | None]:
    """What to calibrate on (None where nothing is), CGQ's and IA-AQ's settings (None where off).

    Args:
        config: the composed configuration.
        overrides: the command line's words, to notice a group that was asked for and has no effect.
        quant: None for full precision.

    Raises:
        ConfigError: wrong settings, or a component that would change nothing.
    """
    cgq = component(CgqSettings, config, "cgq")
    iaaq = component(Iaaq, config, "iaaq")
    tmas = component(TmasSettings, config, "tmas", ignore=TMAS_DECODES)
    chosen = _calibration(config, tmas, architecture)
    calibration = chosen if needs_calibration(method, quant, iaaq) else None
    _check_components(overrides, method, quant, calibration, tmas, cgq, iaaq)
    return calibration, cgq, iaaq


def component(
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
    ignore = ["enabled", *ignore]
    if TARGET in section:
        return build(section, cls, name, ignore=ignore)
    return read(cls, section, name, ignore=ignore)


def _calibration(
    config: Mapping[str, Any], tmas: TmasSettings | None, architecture: Architecture
) -> CalibrationSettings:
    """What to calibrate on: the group `calibration`, or TMAS in its place."""
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


def _check_components(
    overrides: Sequence[str],
    method: Method,
    quant: QuantSettings | None,
    calibration: CalibrationSettings | None,
    tmas: TmasSettings | None,
    cgq: CgqSettings | None,
    iaaq: Iaaq | None,
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
    weighted = quant is not None and method.calibrates(quant)
    if cgq is not None and not weighted:
        raise ConfigError(
            f"cgq weights the tokens of an objective such as GPTQ's and AWQ's, and method="
            f"{method.name} has none; use awq, gptq or quarot, or leave cgq off"
        )
    try:
        if quant is not None:
            method.check_work(quant)
        if iaaq is not None:
            iaaq.check(None if quant is None else quant.attention)
    except QuantizationError as error:
        raise ConfigError(str(error)) from error
