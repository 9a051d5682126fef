"""Small experiments on a random checkpoint, made of the options of conf/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.models.checkpoints import random_checkpoint

GENERATION = TaskSettings(  # twelve tokens in blocks of six, two a step
    harness_task="test",
    variant="generation",
    metric="exact_match",
    source="test",
    gen_length=12,
    steps=6,
    block_length=6,
    remasking="low_confidence",
)


def option(group: str, name: str) -> Any:
    """The keys of a group's option."""
    return OmegaConf.to_container(OmegaConf.load(config_folder() / group / f"{name}.yaml"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in LLaDA's layout, with two blocks."""
    folder = tmp_path_factory.mktemp("checkpoint") / "llada"
    return random_checkpoint("llada", folder, d_model=32, n_layers=2)


def small_config(checkpoint: Path, runs_dir: Path, tasks: Sequence[str]) -> dict[str, Any]:
    """rtn in W4A4 on three items of each task, on one thread."""
    return {
        "model": {**option("model", "micro_llada"), "checkpoint": str(checkpoint)},
        "method": option("method", "rtn"),
        "quant": option("quant", "w4a4"),
        "calibration": {
            **option("calibration", "random"), "samples": 4, "texts": ["micro_arc"], "length": 8,
        },
        "task": {"name": "some", "tasks": {t: option("task", t)["tasks"][t] for t in tasks}},
        "evaluation": {"name": "published"},
        "decoding": {"name": "published", "mc_num": 2},
        "tracking": option("tracking", "off"),
        "sweep": "s", "runs_dir": str(runs_dir), "data_root": None, "limit": 3, "seed": 0,
        "device": "cpu", "dtype": "float32", "batch_size": 4, "threads": 1, "execution": "fake",
    }  # fmt: skip
