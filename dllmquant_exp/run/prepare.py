"""From a checkpoint to the model that is evaluated.

    checkpoint -> model (outliers) -> calibration set (CGQ's weights) -> quantized model

Calibration sets and rounded weights are kept under `<runs_dir>/.cache` and shared by all cells that
need the same ones: rows that differ in IA-AQ only have the same weights. A killed job goes on
behind the blocks that it had rounded. The folder can be deleted at any time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.calibration.collect import collect
from dllmquant_exp.calibration.states import CalibrationSet, batches
from dllmquant_exp.calibration.weighting import batch_weights
from dllmquant_exp.config import identity
from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.models.checkpoints import (
    CheckpointError,
    checkpoint_digest,
    load_config,
    load_model,
    load_tokenizer,
    resolve_checkpoint,
)
from dllmquant_exp.models.embedded.outliers import add_outliers
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.quantization.blockwise import TokenBatch
from dllmquant_exp.quantization.kept_blocks import all_intact
from dllmquant_exp.quantization.packed import pack_model
from dllmquant_exp.quantization.pipeline import check_shape, quantize
from dllmquant_exp.quantization.saving import SavedModel, load_quantized, load_saved_tokenizer
from dllmquant_exp.run.machine import check_device
from dllmquant_exp.store import provenance
from dllmquant_exp.store.locks import locked
from dllmquant_exp.store.results import config_hash

CALIBRATION_BATCH = 16  # states at once; results depend on it by rounding only


@dataclass(frozen=True)
class Prepared:
    """A model ready to be evaluated, and what it took.

    report: what the method did, see QuantReport.
    calibration: digest and reports of the calibration set; None where nothing was calibrated.
    seconds: wall time of load, calibrate and quantize.
    """

    model: Transformer
    tokenizer: PreTrainedTokenizerBase
    report: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    digest: str
    seconds: dict[str, float]
    peak_memory_bytes: int


class Preparation:
    """Loads and quantizes at most once; a failure is remembered, so that it costs once too."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._made: Prepared | Exception | None = None

    def get(self) -> Prepared:
        if self._made is None:
            try:
                self._made = prepare(self._experiment)
            except Exception as error:
                self._made = error
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


def prepare(experiment: Experiment) -> Prepared:
    """Load the checkpoint, collect its calibration set and quantize it; or load a saved model.

    Raises:
        CheckpointError: what is wrong with the checkpoint, or it is of another architecture.
        CalibrationError, QuantizationError: data or settings that cannot be used.
    """
    device = check_device(experiment.common.device)
    provenance.restart_peak_memory(device)
    start = time.perf_counter()
    if experiment.saved is not None:
        return _restore(experiment, experiment.saved, device, start)
    model, tokenizer, digest = _load(experiment, device)
    if experiment.quant is not None:  # before the calibration set is collected
        check_shape(model.config, experiment.method, experiment.quant)
    loaded = time.perf_counter()
    calibration = _collect(experiment, model, tokenizer, digest)
    calibrated = time.perf_counter()
    report, described = _quantize(experiment, model, calibration, digest)
    seconds = {
        "load": loaded - start,
        "calibrate": calibrated - loaded,
        "quantize": time.perf_counter() - calibrated,
    }
    return Prepared(model, tokenizer, report, described, digest, seconds, _peak(device))


def calibration_set(experiment: Experiment) -> CalibrationSet:
    """The states that a model which is calibrated is calibrated on, without quantizing it.

    Raises:
        CheckpointError, CalibrationError: as `prepare`.
    """
    found = _collect(experiment, *_load(experiment, check_device(experiment.common.device)))
    assert found is not None
    return found


def quantize_as(
    experiment: Experiment,
    model: Transformer,
    states: Sequence[TokenBatch],
    work_folder: Path | None = None,
) -> dict[str, Any]:
    """Quantize `model` in place as the experiment says, and pack it where that is its execution.

    Returns:
        The report of its steps, see QuantReport.
    """
    report = quantize(
        model,
        experiment.method,
        experiment.quant,
        calibration=states,
        iaaq=experiment.iaaq,
        work_folder=work_folder,
    )
    if experiment.quant is not None and experiment.common.execution == "packed":
        pack_model(model)
    return report.to_dict()


def _restore(
    experiment: Experiment, saved: SavedModel, device: torch.device, start: float
) -> Prepared:
    """A saved model, with the reports of its making."""
    tokenizer = load_saved_tokenizer(saved)
    packed = experiment.common.execution == "packed"
    model = load_quantized(saved, device=device, packed=packed)
    seconds = {"load": time.perf_counter() - start, "calibrate": 0.0, "quantize": 0.0}
    report, calibration = saved.made.get("report"), saved.made.get("calibration_report")
    peak = _peak(device)
    return Prepared(model, tokenizer, report or {}, calibration, saved.digest, seconds, peak)


def _peak(device: torch.device) -> int:
    return provenance.peak_memory(device)["peak_memory_bytes"] or 0


def _load(
    experiment: Experiment, device: torch.device
) -> tuple[Transformer, PreTrainedTokenizerBase, str]:
    """The full-precision model, its tokenizer and the checkpoint's digest."""
    settings = experiment.model
    folder = resolve_checkpoint(settings.checkpoint, settings.revision)
    tokenizer = load_tokenizer(str(folder), layout=settings.layout)
    architecture = load_config(folder, settings.layout).architecture
    if architecture != settings.architecture:
        raise CheckpointError(
            f"{settings.checkpoint} is a {architecture} checkpoint, but model={settings.name} "
            f"evaluates a {settings.architecture} model; choose a model option that fits it"
        )
    dtype = getattr(torch, experiment.common.dtype)
    # In float64, so that what is rounded to `dtype` is the exact function of the checkpoint.
    exact = dtype if settings.outliers is None else torch.float64
    model = load_model(str(folder), dtype=exact, device=device, layout=settings.layout)
    if settings.outliers is not None:
        add_outliers(model, tokenizer, settings.outliers)
    return model.to(dtype), tokenizer, checkpoint_digest(folder)


def _collect(
    experiment: Experiment, model: Transformer, tokenizer: PreTrainedTokenizerBase, digest: str
) -> CalibrationSet | None:
    settings, common = experiment.calibration, experiment.common
    if settings is None:
        return None
    return collect(
        settings,
        model,
        tokenizer,
        model_key=identity.forward_key(experiment, digest),
        embedded=experiment.model.embedded,
        data_root=common.data_folder,
        seed=common.seed,
        batch_size=CALIBRATION_BATCH,
        needs_scores=experiment.cgq is not None and experiment.cgq.needs_scores,
        folder=common.runs_folder / ".cache" / "calibration",
    )


def _quantize(
    experiment: Experiment, model: Transformer, calibration: CalibrationSet | None, digest: str
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Quantize on a calibration set; returns reports of what was done, and of the set."""
    if calibration is None:
        return quantize_as(experiment, model, []), None
    cgq = experiment.cgq
    states = [
        TokenBatch(batch.tokens, batch.attention_mask, batch_weights(batch, cgq))
        for batch in batches(calibration, CALIBRATION_BATCH, model.config.pad_token_id)
    ]
    kept = _weights_folder(experiment, digest, calibration)
    with _one_maker(kept, model.config.n_layers):
        report = quantize_as(experiment, model, states, kept)
    return report, {
        "name": calibration.name,
        "digest": calibration.digest,
        "report": dict(calibration.report),
        "cgq": None if cgq is None else cgq.report(calibration),
    }


def _weights_folder(experiment: Experiment, digest: str, calibration: CalibrationSet) -> Path:
    """Folder of rounded blocks, named by everything that decides them, code included."""
    config = experiment.cell_config(experiment.tasks[0])
    key = identity.weights_identity(config) | identity.circumstances(digest)
    key["calibration"] = calibration.digest
    root = experiment.common.runs_folder / ".cache" / "weights"
    return root / f"{experiment.method.name}-{config_hash(key)[:16]}"


@contextmanager
def _one_maker(folder: Path, blocks: int) -> Iterator[None]:
    """One job rounds the blocks of `folder`; the others wait for it, and then read them at once."""
    with ExitStack() as held:
        if not all_intact(folder, blocks):
            held.enter_context(locked(folder / ".lock"))
            if all_intact(folder, blocks):
                held.close()
        yield
