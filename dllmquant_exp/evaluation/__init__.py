"""Evaluation: lm-eval tasks asked of a diffusion language model, scored item by item."""

from dllmquant_exp.evaluation.evaluate import ItemRecord, TaskResult, evaluate_task
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.local_data import DataError
from dllmquant_exp.evaluation.sandbox import SandboxError, Verdict, active_guards, run_program
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings, resolve_settings
from dllmquant_exp.evaluation.shards import answer_shard
from dllmquant_exp.evaluation.task_building import check_local_data

__all__ = [
    "DataError",
    "DiffusionLM",
    "ItemRecord",
    "SandboxError",
    "SettingsError",
    "TaskResult",
    "TaskSettings",
    "Verdict",
    "active_guards",
    "answer_shard",
    "check_local_data",
    "evaluate_task",
    "resolve_settings",
    "run_program",
]
