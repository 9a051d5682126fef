"""Record a figure: measure it once; a recording of the very same settings is read instead."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pkgutil import resolve_name
from typing import Any

from dllmquant_exp.probes.decodes import Subject
from dllmquant_exp.probes.probe import Probe, changed_settings
from dllmquant_exp.reporting.figures.catalog import catalog
from dllmquant_exp.reporting.figures.recordings import (
    FIGURE_VERSION,
    FigureData,
    figure_folder,
    load_recording,
    save_recording,
)
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import SCHEMA_VERSION, config_hash


def figure_config(probe: Probe, figure: str) -> dict[str, Any]:
    """Everything that decides what is recorded for a figure; its hash names the recording."""
    kind = catalog()[figure]
    settings = asdict(probe.settings) | {"seed": probe.seed}
    return {
        "figure": figure,
        "schema_version": SCHEMA_VERSION,
        "figure_version": FIGURE_VERSION,
        **probe.key(),
        "settings": {name: settings[name] for name in kind.reads},
        "quantized": resolve_name(kind.models)(probe) if kind.models else {},
    }


def record(probe: Probe, figure: str, subject: Callable[[], Subject]) -> FigureData:
    """The recording of one figure in `<runs_dir>/figures`, measured first where there is none.

    Args:
        figure: one with a `measure` in the catalog.
        subject: loads the model; not called where the figure is recorded.

    Raises:
        ResultError: a recording that cannot be read.
        ProbeError, CheckpointError, ...: what the measurement cannot do.
    """
    config = figure_config(probe, figure)
    model, digest = probe.experiment.model, config_hash(config)
    folder = figure_folder(probe.runs_dir, figure, model.name, digest)
    if folder.exists():
        return load_recording(folder)
    started, start = provenance.now(), time.perf_counter()
    loaded = subject()
    ready = time.perf_counter()
    measured = resolve_name(catalog()[figure].measure)(loaded)
    info = {
        "schema_version": SCHEMA_VERSION,
        "figure_version": FIGURE_VERSION,
        "figure": figure,
        "model": {
            "name": model.name,
            "embedded": model.embedded,
            "outliers": model.outliers is not None,
        },
        "config": config,
        "config_hash": digest,
        "changed": changed_settings(probe, figure),
        "seed": probe.seed,
        "words": [word for word in probe.words if not word.startswith("runs_dir=")],
        "labels": dict(measured.labels),
        "numbers": dict(measured.numbers),
        "versions": provenance.versions(),
        "source": provenance.source(),
        "hardware": provenance.hardware(loaded.device),
        "timing": {
            "started_at": started,
            "seconds_to_load": round(ready - start, 3),
            "seconds_to_measure": round(time.perf_counter() - ready, 3),
        },
    }
    save_recording(folder, measured.arrays, info)
    return load_recording(folder)
