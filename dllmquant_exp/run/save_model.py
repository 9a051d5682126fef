"""Writes the quantized model of a job where `save=` says: in our own form, or exported."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dllmquant_exp.config import identity
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.saved_model import described
from dllmquant_exp.models.folders import check_target
from dllmquant_exp.models.formats import CheckpointError
from dllmquant_exp.quantization.export import MADE, export_compressed_tensors
from dllmquant_exp.quantization.saved_files import CONFIG_FILE, check_folder
from dllmquant_exp.quantization.saving import HEADER, save_quantized
from dllmquant_exp.run.prepare import Prepared
from dllmquant_exp.store import provenance

logger = logging.getLogger(__name__)


def save_model(experiment: Experiment, digest: str | None, get: Callable[[], Prepared]) -> None:
    """Save the model, unless the folder holds this very one already.

    Args:
        digest: the checkpoint's, where it is known without asking a hub.
        get: makes the model, or gives the one that was made.

    Raises:
        CheckpointError: the folder is taken or cannot be written. Nothing is left behind.
        QuantizationError: the package that an export needs is missing.
    """
    folder, quant = save_folder(experiment), experiment.quant
    assert quant is not None
    if is_kept(experiment, digest):  # before hours go into the model
        logger.info("save: %s holds this model already", folder)
        return
    prepared = get()
    exported = experiment.common.export is not None
    write = export_compressed_tensors if exported else save_quantized
    try:
        write(
            prepared.model,
            folder,
            method=experiment.method,
            quant=quant,
            iaaq=experiment.iaaq,
            made=_made(experiment, prepared, digest),
            tokenizer=prepared.tokenizer,
        )
    except CheckpointError:
        if not is_kept(experiment, digest):
            raise
        logger.info("save: another job has written %s meanwhile", folder)
        return
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    logger.info("save: wrote %s, %.1f MB of weights", folder, size / 1e6)


def save_folder(experiment: Experiment) -> Path:
    """Folder that `save=` names."""
    return Path(str(experiment.common.save)).expanduser()


def is_kept(experiment: Experiment, digest: str | None) -> bool:
    """Whether the folder of `save=` holds this very model, byte for byte; False where it is free.

    Args:
        digest: see `save_model`.

    Raises:
        CheckpointError: it holds anything else, or this model damaged.
    """
    folder = save_folder(experiment)
    stored = _identity_in(folder)
    if stored is None:
        check_target(folder, overwrite=False)
        return False
    wanted = identity.saved_parts(experiment, digest)
    names = [name for name in {**wanted, **stored} if stored.get(name) != wanted.get(name)]
    if names:
        raise CheckpointError(
            f"{folder}: already holds a checkpoint, and it was made with another "
            f"{', '.join(names)}; choose another folder"
        )
    try:
        check_folder(folder, HEADER if experiment.common.export is None else MADE)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nThis is what is left of the model that would be saved here: delete "
            f"{folder}, and the same command makes it again"
        ) from error
    return True


def _made(experiment: Experiment, prepared: Prepared, digest: str | None) -> dict[str, Any]:
    """Record of the model's origin; a model read from a folder keeps that folder's record."""
    parts = {"identity": identity.saved_parts(experiment, digest)}
    if experiment.saved is not None:
        return {**experiment.saved.made, **parts}
    common, source = experiment.common, provenance.source()
    commit = source["commit"] and source["commit"] + ("+" if source["modified"] else "")
    version = f"dllmquant-exp {provenance.versions()['dllmquant_exp']}"
    return described(experiment) | {
        **parts,
        "by": f"{version}, commit {commit}" if commit else version,
        "seed": common.seed,
        "device": common.device,
        "threads": common.threads,
        "checkpoint_digest": prepared.digest,
        "report": dict(prepared.report),
        "calibration_report": prepared.calibration,
    }


def _identity_in(folder: Path) -> Mapping[str, str] | None:
    """Identity that `save_model` wrote into a folder's config.json; None without one."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        made = config[MADE] if MADE in config else config[HEADER]["made"]
        found = made["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
