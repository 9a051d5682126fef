"""The one description of a cell: its configuration, hash and folder, and the keys of its caches.

Equal descriptions mean equal work. They hold settings alone; `circumstances` adds everything else
that decides bits, for caches that outlive a call.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from dllmquant_exp.config.quantized_model import DEFAULT_QUANT, QuantizedModel
from dllmquant_exp.config.task_config import SPEED, Task
from dllmquant_exp.store import provenance
from dllmquant_exp.store.results import config_hash
from dllmquant_exp.store.schema import TARGET, describe

if TYPE_CHECKING:
    from dllmquant_exp.config.experiment import Experiment

_SECTIONS = ("method", "quant", "calibration", "cgq", "iaaq")


def configuration(experiment: "Experiment", task: Task) -> dict[str, Any]:
    """Everything that can change a cell's result, and nothing else; its hash names the cell."""
    settings = describe(task.settings)
    common, scored = experiment.common, task.kind != SPEED
    more = {"source": task.source, "speed": None if task.speed is None else describe(task.speed)}
    more = {name: value for name, value in more.items() if value is not None}
    return {
        "model": _model(experiment),
        **{name: experiment.describe(name) for name in _SECTIONS},
        "task": {"name": task.name, "kind": task.kind, "settings": settings, **more},
        "data_root": common.data_root if experiment.reads_data_root(task) else None,
        "limit": common.limit if scored else None,
        "seed": common.seed,
        "device": common.device,
        "dtype": common.dtype if scored else None,
        "execution": None if experiment.quant is None else common.execution,
        "batch_size": common.batch_size if scored else None,
        "threads": common.threads,
        # Absent otherwise: results from before there were saved models keep their names.
        **({} if experiment.saved is None else {"saved": experiment.saved.digest[7:23]}),
    }


def cell_name(experiment: "Experiment", task: Task) -> str:
    """Folder name of a cell: what it is, and the first 8 digits of its configuration's hash."""
    quant = "" if experiment.quant_name in ("", DEFAULT_QUANT) else experiment.quant_name
    seed = f"s{experiment.common.seed}"
    parts = (experiment.model.name, method_label(experiment), quant, task.name, seed)
    return "-".join([*filter(None, parts), config_hash(configuration(experiment, task))[:8]])


def method_label(model: QuantizedModel) -> str:
    """The method and its components, as in `quarot+tmas+cgq`; those from outside by their class."""
    sampler = model.describe("calibration")
    found = {name: model.describe(name) for name in ("cgq", "iaaq")}
    parts = [model.method.name]
    if sampler is not None and sampler["name"] == "tmas":
        parts.append("tmas")
    for name, description in found.items():
        if description is not None:
            outside = str(description.get(TARGET, "")).rpartition(".")[2].lower()
            parts.append(outside or name)
    return "+".join(parts)


def calibration_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's configuration that decides its calibration set."""
    names = ("model", "calibration", "seed", "device", "dtype", "threads")
    return {name: config[name] for name in names}


def weights_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a cell's configuration that decides its rounded weights, beside the states.

    Attention is quantized while a model runs, and its bits round no weight.
    """
    quant = {name: value for name, value in config["quant"].items() if name != "attention"}
    names = ("model", "method", "cgq", "device", "dtype")
    return {name: config[name] for name in names} | {"quant": quant}


def saved_parts(experiment: "Experiment", digest: str | None) -> dict[str, str]:
    """Everything that decides a saved model, a short hash of each part: refusals name the parts.

    Threads count as they are set: null leaves their number to the machine that makes the model.

    Args:
        digest: the checkpoint's, where it is known without asking a hub.
    """
    common = experiment.common
    if experiment.saved is not None:
        parts: dict[str, Any] = {"saved": experiment.saved.digest, "export": common.export}
    else:
        collects = experiment.calibration is not None and not experiment.model.embedded
        settings = ("seed", "device", "dtype", "threads", "export")
        parts = {
            **{name: experiment.describe(name) for name in ("model", *_SECTIONS)},
            **{name: getattr(common, name) for name in settings},
            "checkpoint": digest,
            "data_root": common.data_root if collects else None,
            "code": provenance.code_digest(),
        }
    return {name: config_hash({name: part})[:16] for name, part in parts.items()}


def forward_key(experiment: "Experiment", digest: str) -> str:
    """Hash of everything that decides the numbers of a full-precision model on this machine."""
    outliers = _model(experiment)["outliers"]
    common = {name: getattr(experiment.common, name) for name in ("dtype", "device")}
    return config_hash({"outliers": outliers, **common, **circumstances(digest)})


def circumstances(digest: str) -> dict[str, Any]:
    """Everything beside settings that decides the bits of results."""
    threads, code = torch.get_num_threads(), provenance.code_digest()
    return {"checkpoint": digest, "threads": threads, "code": code}


def _model(experiment: "Experiment") -> dict[str, Any]:
    found = describe(experiment.model)
    names = ("name", "architecture", "checkpoint", "revision", "outliers")
    layout = {} if found["layout"] is None else {"layout": found["layout"]}
    return {name: found[name] for name in names} | layout
