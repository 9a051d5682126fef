"""Measure a figure once: what is recorded already, for the very same settings, is read."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dllmquant_exp.probes.accumulation import accumulated_error, variant_configs
from dllmquant_exp.probes.activations import block_output_range, ffn_channels
from dllmquant_exp.probes.attention import softmax_and_values, softmax_over_blocks
from dllmquant_exp.probes.decode_grid import decode_and_noise
from dllmquant_exp.probes.measured import Measured
from dllmquant_exp.probes.sensitivity import layer_sensitivity, quant_config
from dllmquant_exp.probes.settings import READS, Probe, changed_settings
from dllmquant_exp.probes.subject import Subject
from dllmquant_exp.reporting.figures.recordings import (
    FIGURE_VERSION,
    FigureData,
    figure_folder,
    load_figure,
    save_arrays,
)
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import SCHEMA_VERSION, config_hash


def _nothing(_: Probe) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class _Kind:
    """How a figure is measured, and how its models are quantized; what else decides it is in
    `settings.READS`."""

    measure: Callable[[Subject], Measured]
    quantized: Callable[[Probe], dict[str, Any]] = _nothing


KINDS = {
    "figure1": _Kind(block_output_range),
    "figure2": _Kind(accumulated_error, variant_configs),
    "figure3": _Kind(softmax_and_values),
    "figure4": _Kind(decode_and_noise),
    "figure5": _Kind(softmax_over_blocks),
    "figure6": _Kind(ffn_channels),
    "figure9": _Kind(layer_sensitivity, quant_config),
}


def figure_config(probe: Probe, figure: str) -> dict[str, Any]:
    """Everything that decides what is recorded of a figure; its hash names the recording."""
    settings = asdict(probe.settings) | {"seed": probe.experiment.common.seed}
    return {
        "figure": figure,
        "schema_version": SCHEMA_VERSION,
        "figure_version": FIGURE_VERSION,
        **probe.key(),
        "settings": {name: settings[name] for name in READS[figure] if name in settings},
        "quantized": KINDS[figure].quantized(probe),
    }


def record(probe: Probe, figure: str, subject: Callable[[], Subject]) -> FigureData:
    """The data of one figure, from `<runs_dir>/figures`, where it is measured first if need be.

    Args:
        figure: one of KINDS.
        subject: loads the model; not called where the figure is recorded.

    Raises:
        ResultError: a recorded figure that cannot be read.
        ProbeError, CheckpointError, ...: what the measurement cannot do.
    """
    config = figure_config(probe, figure)
    name = probe.experiment.model.name
    digest = config_hash(config)
    folder = figure_folder(probe.runs_dir, figure, name, digest)
    if folder.exists():
        return load_figure(folder)
    started, start = provenance.now(), time.perf_counter()
    loaded = subject()
    device = next(loaded.model.parameters()).device
    ready = time.perf_counter()
    measured = KINDS[figure].measure(loaded)
    info = {
        "schema_version": SCHEMA_VERSION,
        "figure_version": FIGURE_VERSION,
        "figure": figure,
        "model": {
            "name": name,
            "embedded": probe.experiment.model.embedded,
            "outliers": probe.experiment.model.outliers is not None,
        },
        "config": config,
        "config_hash": digest,
        "changed": changed_settings(probe, figure),
        "seed": probe.experiment.common.seed,
        "words": [word for word in probe.words if not word.startswith("runs_dir=")],
        "labels": dict(measured.labels),
        "numbers": dict(measured.numbers),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "hardware": provenance.hardware(torch.device(device)),
        "timing": {
            "started_at": started,
            "seconds_to_load": round(ready - start, 3),
            "seconds_to_measure": round(time.perf_counter() - ready, 3),
        },
    }
    save_arrays(folder, measured.arrays, info)
    return load_figure(folder)
