"""`model=saved model.checkpoint=FOLDER`: a model as it was when `save=FOLDER` wrote it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dllmquant_exp.calibration.cgq import CgqSettings
from dllmquant_exp.calibration.collect import CalibrationSettings
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.quantized_model import COMPONENTS, ModelSettings, QuantizedModel
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.checkpoints import CheckpointError
from dllmquant_exp.models.formats import joined
from dllmquant_exp.quantization.export import unsupported
from dllmquant_exp.quantization.saving import read_saved
from dllmquant_exp.store.schema import read

SAVED = "saved"  # the option of the group `model`
# A saved model brings these along; words about them would be ignored.
_BROUGHT = ("method", "quant", "calibration", "row", "table", "models", *COMPONENTS)


def is_saved(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says model=saved."""
    section = config["model"]
    return isinstance(section, Mapping) and section.get("name") == SAVED


def saved_model(section: Mapping[str, Any], line: Overrides) -> QuantizedModel:
    """Read a saved model's description of itself.

    Raises:
        ConfigError: no folder, or one that cannot be used.
        NoUse: settings that it brings along.
    """
    folder = section.get("checkpoint")
    if not isinstance(folder, str):
        raise ConfigError("model=saved needs model.checkpoint=FOLDER, a folder that save=... wrote")
    unknown = sorted(set(section) - {"name", "checkpoint", "calibration"})
    if unknown:
        raise ConfigError(f"model.{unknown[0]} is the saved model's own; leave it out")
    if line.touches(*_BROUGHT):
        raise NoUse(
            f"{' '.join(line.touching(*_BROUGHT))} would change nothing: a saved model is "
            "quantized already; leave it out, or quantize the checkpoint again with another model "
            "option",
            *_BROUGHT,
        )
    try:
        saved = read_saved(folder)
    except CheckpointError as error:
        raise ConfigError(f"model=saved: {error}") from error
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
    return QuantizedModel(
        model=model,
        method=saved.layout.method,
        quant_name=str(saved.made.get("quant_name")),
        quant=saved.layout.quant,
        calibration=optional(CalibrationSettings, "calibration"),
        cgq=optional(CgqSettings, "cgq"),
        iaaq=saved.layout.iaaq,
        saved=saved,
    )


def described(quantized: QuantizedModel) -> dict[str, Any]:
    """The description that a saved model keeps beside its layout, for `saved_model` to read."""
    sections = ("model", "calibration", "cgq")
    found = {name: getattr(quantized, name) for name in sections}
    plain = {name: None if value is None else asdict(value) for name, value in found.items()}
    return {**plain, "quant_name": quantized.quant_name}


def check_saving(
    quantized: QuantizedModel, dtype: str, save: str | None, export: str | None
) -> None:
    """Refuse a saved model in another type, and what cannot be saved or exported (ConfigError)."""
    if quantized.saved is not None:
        stored = str(quantized.saved.layout.dtype).removeprefix("torch.")
        if dtype != stored:
            raise ConfigError(
                f"dtype = {dtype}, but {quantized.saved.folder} was saved in {stored}; set "
                f"dtype={stored}"
            )
    if save is None:
        if export is not None:
            raise ConfigError(f"export={export} needs save=FOLDER, which says where it goes")
        return
    if quantized.quant is None:
        raise NoUse(
            f"save={save} writes quantized models, and method=fp quantizes nothing; choose a "
            "method, or copy the checkpoint",
            "save",
            "export",
        )
    problems = unsupported(quantized.method, quantized.quant, quantized.iaaq) if export else []
    if problems:
        raise ConfigError(joined(f"export={export} cannot hold this model", problems))
