"""What makes the model that is evaluated: chosen on the command line, or read from a saved one.

model=micro_llada method=quarot +tmas=on     chosen: checkpoint, method, bits, components
model=saved model.checkpoint=FOLDER          all of that as it was when FOLDER was saved
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.weighting import TokenWeighting
from dllmquant_exp.config.components import COMPONENTS, resolve_components
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.models.embedded.outliers import OutlierSettings
from dllmquant_exp.models.formats import joined
from dllmquant_exp.models.transformer import Architecture
from dllmquant_exp.quantization.attention_settings import IaaqSettings
from dllmquant_exp.quantization.export import unsupported
from dllmquant_exp.quantization.saving import SavedModel, read_saved
from dllmquant_exp.quantization.settings import MethodSettings, QuantSettings
from dllmquant_exp.store.schema import describe, read

DEFAULT_QUANT = "w4a4"
SAVED = "saved"  # the option of the group `model`
_RECORDED = ("calibration", "cgq")  # sections that a saved model describes and nothing reads
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
    method: MethodSettings
    quant_name: str  # empty for full precision
    quant: QuantSettings | None  # None for full precision
    calibration: Sampler | None  # None where nothing is calibrated, and of a saved model
    cgq: TokenWeighting | None  # None of a saved model
    iaaq: IaaqSettings | None
    saved: SavedModel | None  # where it is read from; None where it is made

    def describe(self, section: str) -> Mapping[str, Any] | None:
        """What a section is identified by; of a saved model as that recorded it."""
        if self.saved is not None and section in _RECORDED:
            recorded: Mapping[str, Any] | None = self.saved.made.get(section)
            return recorded
        value = getattr(self, section)
        return None if value is None else describe(value)


def is_saved(section: Any) -> bool:
    """Whether the group `model` says model=saved."""
    return isinstance(section, Mapping) and section.get("name") == SAVED


def resolve_making(config: Mapping[str, Any], overrides: Sequence[str]) -> Making:
    """Check what a composed configuration says about the model; see `config.resolve`."""
    section = config["model"]
    if is_saved(section):
        return _restored(section, overrides)
    model = read(ModelSettings, section, "model", ignore=["calibration"])
    method = read(MethodSettings, config["method"], "method")
    quant = read(QuantSettings, config["quant"], "quant", ignore=["name"])
    used = quant if method.quantizes else None
    calibration, cgq, iaaq = resolve_components(config, overrides, method, used, model.architecture)
    name = str(config["quant"].get("name", DEFAULT_QUANT))
    return Making(model, method, "" if used is None else name, used, calibration, cgq, iaaq, None)


def _restored(section: Mapping[str, Any], overrides: Sequence[str]) -> Making:
    """What a saved model says about itself.

    Raises:
        ConfigError: no folder, one that cannot be used, or settings that it would override.
    """
    folder = section.get("checkpoint")
    if not isinstance(folder, str):
        raise ConfigError("model=saved needs model.checkpoint=FOLDER, a folder that save=... wrote")
    unknown = sorted(set(section) - {"name", "checkpoint", "calibration"})
    if unknown:
        raise ConfigError(f"model.{unknown[0]} is the saved model's own; leave it out")
    groups = "|".join(_BROUGHT)
    for word in overrides:
        if re.fullmatch(rf"[+~]*({groups})([.@=].*)?", word, flags=re.DOTALL):
            raise ConfigError(
                f"{word} would change nothing: a saved model is quantized already; leave it out, "
                "or quantize the checkpoint again with another model option"
            )
    try:
        saved = read_saved(folder)
    except CheckpointError as error:
        raise ConfigError(f"model=saved: {error}") from error
    where = f"{saved.folder}/config.json, made"

    for name in _RECORDED:
        if not isinstance(saved.made.get(name), Mapping | None):
            raise ConfigError(f"{where}.{name} is not a group of settings; save the model again")
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
        calibration=None,
        cgq=None,
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
    sections = ("model", *_RECORDED)
    return {
        **{name: making.describe(name) for name in sections},
        "quant_name": making.quant_name,
    }
