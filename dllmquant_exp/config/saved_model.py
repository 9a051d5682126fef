"""`model=saved model.checkpoint=FOLDER`: a model as it was when `save=FOLDER` wrote it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from dllmquant_exp.config.identity import Experiment
from dllmquant_exp.config.overrides import NoUse, Overrides
from dllmquant_exp.config.own_options import Row
from dllmquant_exp.config.quantized_model import (
    COMPONENTS,
    ModelSettings,
    QuantizedModel,
    component,
    read_method,
)
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.models.formats import CheckpointError, joined
from dllmquant_exp.quantization.export import unsupported
from dllmquant_exp.quantization.iaaq import Iaaq
from dllmquant_exp.quantization.saving import SavedModel, read_saved
from dllmquant_exp.store.names import check_name
from dllmquant_exp.store.results import canonical_json
from dllmquant_exp.store.schema import read

SAVED = "saved"  # the option of the group `model`
# A saved model brings these along; words about them would be ignored.
_BROUGHT = ("method", "quant", "calibration", "row", "table", "models", *COMPONENTS)


@dataclass(frozen=True)
class _Made:
    """How a saved model was made, as far as its results say."""

    model: ModelSettings
    quant_name: str
    label: str
    row: Row
    calibration: Mapping[str, Any] | None
    cgq: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        names: dict[str, Any] = {"model.name": self.model.name, "quant.name": self.quant_name}
        names["label"] = self.label
        for key, section in (("calibration.name", self.calibration), ("cgq.name", self.cgq)):
            names |= {} if section is None else {key: section.get("name")}
        for key, name in names.items():
            check_name(name, key)


def is_saved(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says model=saved."""
    section = config["model"]
    return isinstance(section, Mapping) and section.get("name") == SAVED


def saved_model(config: Mapping[str, Any], line: Overrides) -> QuantizedModel:
    """Read a saved model's description of itself.

    Steps and searches from outside the package are the user's own: the configuration names them,
    and the folder is refused where they differ from those that it was made with.

    Raises:
        ConfigError: no folder, or one that cannot be used.
        NoUse: settings that it brings along.
    """
    section = config["model"]
    folder = section.get("checkpoint")
    if not isinstance(folder, str):
        raise ConfigError("model=saved needs model.checkpoint=FOLDER, a folder that save=... wrote")
    unknown = sorted(set(section) - {"name", "checkpoint", "same_as", "calibration"})
    if unknown:
        raise ConfigError(f"model.{unknown[0]} is the saved model's own; leave it out")
    try:
        saved = read_saved(folder, read_method(config), component(Iaaq, config, "iaaq"))
    except CheckpointError as error:
        raise ConfigError(f"model=saved: {error}") from error
    brought = [name for name in _BROUGHT if name not in saved.from_outside]
    if line.touches(*brought):
        raise NoUse(
            f"{' '.join(line.touching(*brought))} would change nothing: a saved model is "
            "quantized already; leave it out, or quantize the checkpoint again with another model "
            "option",
            *brought,
        )
    made = _made(saved)
    model = made.model
    if model.architecture != saved.layout.config.architecture:
        raise ConfigError(
            f"{saved.folder} holds a {saved.layout.config.architecture} model, but was made from "
            f"a {model.architecture} one; save it again"
        )
    return QuantizedModel(
        model=model,
        method=saved.layout.method,
        quant_name=made.quant_name,
        quant=saved.layout.quant,
        calibration=None,
        cgq=None,
        iaaq=saved.layout.iaaq,
        label=made.label,
        saved=saved,
    )


def saved_row(saved: SavedModel) -> Row:
    """The row that a model was made as."""
    return _made(saved).row


def _made(saved: SavedModel) -> _Made:
    names = [field.name for field in fields(_Made)]
    stated = {name: saved.made[name] for name in names if name in saved.made}
    try:
        canonical_json(stated)  # holds plain numbers
        return read(_Made, stated, f"{saved.folder}/config.json, made")
    except ValueError as error:
        raise ConfigError(
            f"model=saved: {error}; this version cannot say what the model is: save it again"
        ) from error


def described(experiment: Experiment) -> dict[str, Any]:
    """The description that a saved model keeps beside its layout; see `_Made`."""
    sections = {name: experiment.describe(name) for name in ("model", "calibration", "cgq")}
    names = {"quant_name": experiment.quant_name, "label": experiment.label}
    return {**sections, **names, "row": asdict(experiment.row)}


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
