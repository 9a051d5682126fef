"""Evaluation: lm-eval tasks asked of a diffusion language model, scored item by item."""

from dllmquant_exp.evaluation.evaluate import ItemRecord, TaskResult, evaluate_task
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.local_data import DataError, check_data_root
from dllmquant_exp.evaluation.sandbox import SandboxError, Verdict, active_guards, run_program
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings, resolve_settings
from dllmquant_exp.evaluation.shards import answer_shard

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
    "check_data_root",
    "evaluate_task",
    "resolve_settings",
    "run_program",
]
