"""Writes the quantized model of a job where `save=` says: in our own form, or exported."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dllmquant_exp import provenance
from dllmquant_exp.config import Experiment
from dllmquant_exp.making import described
from dllmquant_exp.models.storage import check_target
from dllmquant_exp.preparation import Prepared
from dllmquant_exp.quantization.export import MADE, export_compressed_tensors
from dllmquant_exp.quantization.saving import CONFIG_FILE, HEADER, save_quantized
from dllmquant_exp.reporting.results import config_hash

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
    common, quant = experiment.common, experiment.quant
    assert common.save is not None and quant is not None
    folder = Path(common.save).expanduser()
    identity = _identity(experiment, digest)
    if _identity_in(folder) == identity:
        logger.info("save: %s holds this model already", folder)
        return
    check_target(folder, overwrite=False)  # before hours go into the model
    prepared = get()
    write = save_quantized if common.export is None else export_compressed_tensors
    write(
        prepared.model,
        folder,
        method=experiment.method,
        quant=quant,
        iaaq=experiment.iaaq,
        made=_made(experiment, prepared) | {"identity": identity},
        tokenizer=prepared.tokenizer,
    )
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    logger.info("save: wrote %s, %.1f MB of weights", folder, size / 1e6)


def _made(experiment: Experiment, prepared: Prepared) -> dict[str, Any]:
    """How the model was made; of one that was read from a folder, what that folder says."""
    if experiment.saved is not None:
        return dict(experiment.saved.made)
    common, source = experiment.common, provenance.source()
    commit = source["commit"] and source["commit"] + ("+" if source["modified"] else "")
    version = f"dllmquant-exp {provenance.versions()['dllmquant_exp']}"
    return described(experiment) | {
        "by": f"{version}, commit {commit}" if commit else version,
        "seed": common.seed,
        "device": common.device,
        "threads": common.threads,
        "checkpoint_digest": prepared.digest,
        "report": dict(prepared.report),
        "calibration_report": prepared.calibration,
    }


def _identity(experiment: Experiment, digest: str | None) -> str:
    """One text per model that this program would make; a repeated command then saves once."""
    common = experiment.common
    if experiment.saved is not None:
        return config_hash({"saved": experiment.saved.digest, "export": common.export})
    names = ("method", "quant", "calibration", "cgq", "iaaq")
    parts = {name: getattr(experiment, name) for name in names}
    return config_hash(
        {
            **{name: None if part is None else asdict(part) for name, part in parts.items()},
            "model": asdict(experiment.model),
            "checkpoint": digest,
            **{name: getattr(common, name) for name in ("seed", "device", "dtype", "threads")},
            "export": common.export,
        }
    )


def _identity_in(folder: Path) -> str | None:
    """What `save_model` wrote into a folder's config.json; None where it wrote none."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        made = config[MADE] if MADE in config else config[HEADER]["made"]
        return str(made["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
