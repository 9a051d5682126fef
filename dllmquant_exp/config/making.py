"""What makes the model that is evaluated: chosen on the command line, or read from a saved one.

model=micro_llada method=quarot +tmas=on     chosen: checkpoint, method, bits, components
model=saved model.checkpoint=FOLDER          all of that as it was when FOLDER was saved
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dllmquant_exp.calibration.cgq import CgqSettings
from dllmquant_exp.calibration.collect import CalibrationSettings
from dllmquant_exp.config.components import COMPONENTS, component, resolve_components
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.models.embedded.outliers import OutlierSettings
from dllmquant_exp.models.formats import joined
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization.export import unsupported
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.method import Method, read_method
from dllmquant_exp.quantization.quant_settings import QuantSettings
from dllmquant_exp.quantization.saving import SavedModel, read_saved
from dllmquant_exp.store.schema import read

DEFAULT_QUANT = "w4a4"
SAVED = "saved"  # the option of the group `model`
# What a saved model brings along, and what would therefore be ignored beside it.
_BROUGHT = ("method", "quant", "calibration", "row", "table", "models", *COMPONENTS)


@dataclass(frozen=True)
class ModelSettings:
    """Which checkpoint, and which of a task's published settings belong to it."""

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
class Making:
    """Everything that decides the weights, and what is quantized while they are used."""

    model: ModelSettings
    method: Method
    quant_name: str  # empty for full precision
    quant: QuantSettings | None  # None for full precision
    calibration: CalibrationSettings | None  # None where nothing is calibrated
    cgq: CgqSettings | None
    iaaq: Iaaq | None
    saved: SavedModel | None  # where it is read from; None where it is made


def is_saved(section: Any) -> bool:
    """Whether the group `model` says model=saved."""
    return isinstance(section, Mapping) and section.get("name") == SAVED


def resolve_making(config: Mapping[str, Any], overrides: Sequence[str]) -> Making:
    """Check what a composed configuration says about the model; see `config.resolve`."""
    section = config["model"]
    if is_saved(section):
        return _restored(config, overrides)
    model = read(ModelSettings, section, "model", ignore=["calibration"])
    method = read_method(config["method"])
    quant = read(QuantSettings, config["quant"], "quant", ignore=["name"])
    used = quant if method.quantizes else None
    calibration, cgq, iaaq = resolve_components(config, overrides, method, used, model.architecture)
    name = str(config["quant"].get("name", DEFAULT_QUANT))
    return Making(model, method, "" if used is None else name, used, calibration, cgq, iaaq, None)


def _restored(config: Mapping[str, Any], overrides: Sequence[str]) -> Making:
    """What a saved model says about itself.

    Raises:
        ConfigError: no folder, one that cannot be used, or settings that it would override.
    """
    section = config["model"]
    folder = section.get("checkpoint")
    if not isinstance(folder, str):
        raise ConfigError("model=saved needs model.checkpoint=FOLDER, a folder that save=... wrote")
    unknown = sorted(set(section) - {"name", "checkpoint", "calibration"})
    if unknown:
        raise ConfigError(f"model.{unknown[0]} is the saved model's own; leave it out")
    try:
        # Steps and searches from outside the package are the user's own, never the folder's.
        saved = read_saved(folder, read_method(config["method"]), component(Iaaq, config, "iaaq"))
    except CheckpointError as error:
        raise ConfigError(f"model=saved: {error}") from error
    groups = "|".join(name for name in _BROUGHT if name not in saved.from_outside)
    for word in overrides:
        if re.fullmatch(rf"[+~]*({groups})([.@=].*)?", word, flags=re.DOTALL):
            raise ConfigError(
                f"{word} would change nothing: a saved model is quantized already; leave it out, "
                "or quantize the checkpoint again with another model option"
            )
    where = f"{saved.folder}/config.json, made"

    def optional(cls: type[Any], name: str) -> Any:
        value = saved.made.get(name)
        return None if value is None else read(cls, value, f"{where}.{name}")

    model = read(ModelSettings, saved.made.get("model"), f"{where}.model")
    if model.architecture != saved.layout.config.architecture:
        raise ConfigError(
            f"{saved.folder} holds a {saved.layout.config.architecture} model, but was made from "
            f"a {model.architecture} one; save it again"
        )
    return Making(
        model=model,
        method=saved.layout.method,
        quant_name=str(saved.made.get("quant_name")),
        quant=saved.layout.quant,
        calibration=optional(CalibrationSettings, "calibration"),
        cgq=optional(CgqSettings, "cgq"),
        iaaq=saved.layout.iaaq,
        saved=saved,
    )


def check_saving(making: Making, dtype: str, save: str | None, export: str | None) -> None:
    """Refuse a saved model in another type, and what cannot be saved or exported (ConfigError)."""
    if making.saved is not None:
        stored = str(making.saved.layout.dtype).removeprefix("torch.")
        if dtype != stored:
            raise ConfigError(
                f"dtype = {dtype}, but {making.saved.folder} was saved in {stored}; set "
                f"dtype={stored}"
            )
    if save is None:
        if export is not None:
            raise ConfigError(f"export={export} needs save=FOLDER, which says where it goes")
        return
    if making.quant is None:
        raise ConfigError(
            f"save={save} writes quantized models, and method=fp quantizes nothing; choose a "
            "method, or copy the checkpoint"
        )
    problems = unsupported(making.method, making.quant, making.iaaq) if export else []
    if problems:
        raise ConfigError(joined(f"export={export} cannot hold this model", problems))


def described(making: Making) -> dict[str, Any]:
    """What a saved model keeps beside its layout, for `resolve_making` to read back."""
    sections = ("model", "calibration", "cgq")
    found = {name: getattr(making, name) for name in sections}
    plain = {name: None if value is None else asdict(value) for name, value in found.items()}
    return {**plain, "quant_name": making.quant_name}
