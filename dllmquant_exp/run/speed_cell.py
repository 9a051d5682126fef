"""The cell of a speed task: from an experiment to the measurements of dllmquant_exp.speed.

An embedded model is loaded, without its outlier channels, which change no speed. A published
checkpoint gives only its shape: nothing is downloaded.
"""

import time
from pathlib import Path
from typing import Any

import torch

from dllmquant_exp.models.checkpoints import (
    checkpoint_digest,
    load_config,
    load_model,
    resolve_checkpoint,
)
from dllmquant_exp.models.published_shapes import published_shape
from dllmquant_exp.models.transformer import Transformer
from dllmquant_exp.run.cell import Cell, timing
from dllmquant_exp.speed.measure import measure_speed
from dllmquant_exp.speed.workload import Workload


def measure_speed_cell(cell: Cell, started_at: str) -> dict[str, Any]:
    """Measure a speed cell: its result has no items and no score, but times and bytes.

    Raises:
        CheckpointError: no such checkpoint or shape.
        SpeedError, QuantizationError: settings that cannot be measured.
    """
    start = time.perf_counter()
    experiment, task = cell.experiment, cell.task
    settings = experiment.model
    folder, config = None, None
    if settings.embedded or Path(settings.checkpoint).expanduser().is_dir():
        folder = resolve_checkpoint(settings.checkpoint, settings.revision)
        config = load_config(folder, settings.layout)

    def load(dtype: torch.dtype) -> Transformer:
        return load_model(str(folder), dtype=dtype, device=torch.device("cpu"))

    assert task.speed is not None
    workload = Workload(
        config=config or published_shape(settings.checkpoint),
        load=load if settings.embedded else None,
        method=experiment.method,
        quant=experiment.quant,
        iaaq=experiment.iaaq,
        decoding=task.settings.decoding(),
        settings=task.speed,
        seed=experiment.common.seed,
    )
    found = measure_speed(workload)
    content = {
        "speed": found | {"weights": "of the checkpoint" if settings.embedded else "random"},
        "summary": _summary(found),
        "checkpoint_digest": None if folder is None else checkpoint_digest(folder),
    }
    return cell.unscored(content, timing(started_at, {"measure": time.perf_counter() - start}))


def _summary(found: dict[str, Any]) -> str:
    parts = []
    for variant in found["variants"]:
        text = f"{variant['name']} {variant['tokens_per_second']['median']:.3g} tokens/s"
        if variant["speedup"] is not None:
            text += f" ({variant['speedup']['median']:.2f}x)"
        parts.append(text + (", extrapolated" if variant["extrapolated"] else ""))
    return "; ".join(parts)
