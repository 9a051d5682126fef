"""From a task's configuration to an lm-eval task with its data, from the hub or local files."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import constants as hub
from huggingface_hub import get_session
from lm_eval.api.task import ConfigurableTask

from dllmquant_exp.evaluation.local_data import (
    SOURCES,
    DataError,
    check_data_root,
    local_rows,
    split_file,
)
from dllmquant_exp.evaluation.programs import score_program
from dllmquant_exp.evaluation.scoring import four_options
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.tasks import task_configs
from dllmquant_exp.store.jsonl import Row


@dataclass(frozen=True)
class BuiltTask:
    """An lm-eval task, which of its items to evaluate, and what a reader should know about it."""

    task: ConfigurableTask
    doc_ids: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.task.config.task)


def build_tasks(
    settings: TaskSettings, *, data_root: Path | None, limit: int | None
) -> list[BuiltTask]:
    """The task, or the members of the group that the limit reaches.

    Args:
        limit: items in all, spread evenly over the members; None for all items.

    Raises:
        DataError: data that is missing, malformed or out of reach.
        SettingsError: a task, an answer filter or a limit that does not exist.
    """
    if limit is not None and limit < 1:
        raise SettingsError(f"limit = {limit} must be at least 1, or null for all items")
    configs = task_configs(settings.harness_task, settings.include_path)
    if limit is not None and limit < len(configs):
        configs = [configs[i * len(configs) // limit] for i in range(limit)]
    built = [_build(config, settings, data_root, limit) for config in configs]
    quotas = spread([len(task.task_docs) for task, _ in built], limit)
    return [
        BuiltTask(task, tuple(range(quota)), notes)
        for (task, notes), quota in zip(built, quotas, strict=True)
        if quota
    ]


def spread(sizes: list[int], limit: int | None) -> list[int]:
    """Number of items to take from each group: `limit` in all, as evenly as the sizes allow.

    A remainder goes to evenly spaced groups. Example: spread([5, 1, 5], 8) = [4, 1, 3].
    """
    if limit is None or limit >= sum(sizes):
        return list(sizes)
    level = 0  # every group gives min(size, level), and some of the larger ones give one more
    while sum(min(size, level + 1) for size in sizes) <= limit:
        level += 1
    quotas = [min(size, level) for size in sizes]
    larger = [i for i, size in enumerate(sizes) if size > level]
    left = limit - sum(quotas)
    for k in range(left):
        quotas[larger[k * len(larger) // left]] += 1
    return quotas


def _build(
    config: dict[str, Any], settings: TaskSettings, data_root: Path | None, limit: int | None
) -> tuple[ConfigurableTask, tuple[str, ...]]:
    config = {**config, "num_fewshot": settings.shots}
    if not settings.shots:  # do not make ready what nobody will draw from
        config |= {"fewshot_split": None, "fewshot_config": {"samples": []}}
    notes: tuple[str, ...] = ()
    if data_root is not None and config.get("dataset_path") in SOURCES:
        config, notes = _from_local(config, settings, data_root, limit)
    try:
        with quiet_libraries(), _hub_or_its_cache(config):
            task = ConfigurableTask(config=config)
    except (OSError, ConnectionError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"task {config['task']}: data set {config.get('dataset_path')} cannot be loaded "
            f"({type(error).__name__}: {error}). Without a connection to the hub, set data_root to "
            "a folder with the official splits"
        ) from error
    _check_programs(task)
    _select_filter(task, settings)
    return task, notes


def _check_programs(task: ConfigurableTask) -> None:
    """Refuse rows that the sandbox's scoring cannot read (SettingsError)."""
    score = task.config.process_results
    if getattr(score, "func", score) is not score_program:
        return
    lacking = {"prompt", "test", "entry_point"} - set(task.task_docs[0])
    if lacking:
        raise SettingsError(
            f"task {task.config.task} runs programs, which the sandbox does for rows with prompt, "
            f"test and entry_point alone, as HumanEval has them; its rows lack "
            f"{', '.join(sorted(lacking))}"
        )


def check_local_data(settings: TaskSettings, data_root: Path) -> None:
    """Read a task's files, before a model is loaded.

    Raises:
        DataError: files that are missing, rows that are malformed, or too few for the examples.
    """
    configs = task_configs(settings.harness_task, settings.include_path)
    configs = [config for config in configs if config.get("dataset_path") in SOURCES]
    check_data_root(data_root, list(dict.fromkeys(config["dataset_path"] for config in configs)))
    for config in configs:
        _local_splits(config, settings, data_root)


def _local_splits(
    config: dict[str, Any], settings: TaskSettings, data_root: Path
) -> tuple[dict[str, list[Row]], str]:
    """The rows of each split that the files have, and the split that is evaluated."""
    rows = local_rows(data_root, config["dataset_path"], config.get("dataset_name"))
    evaluated = config.get("test_split") or config.get("validation_split")
    if evaluated not in rows:
        raise DataError(f"task {config['task']}: data_root has no {evaluated} split of its data")
    named = (config.get(key) for key in ("fewshot_split", "training_split"))
    examples = next((split for split in named if split in rows), evaluated)
    there = len(rows[examples]) - (examples == evaluated)  # without the evaluated item itself
    if not _has_fixed_examples(config) and there < settings.shots:
        name = SOURCES[config["dataset_path"]].files[examples]
        raise DataError(
            f"{split_file(data_root, name)}: {there} rows to take examples from, and "
            f"{config['task']} shows {settings.shots}"
        )
    return rows, evaluated


def _has_fixed_examples(config: dict[str, Any]) -> bool:
    return "samples" in (config.get("fewshot_config") or {})


def _from_local(
    config: dict[str, Any], settings: TaskSettings, data_root: Path, limit: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The configuration with its data replaced; splits that the files lack are left out."""
    rows, evaluated = _local_splits(config, settings, data_root)
    # Examples may need all rows, the evaluation only the first ones that are not left out.
    if not settings.shots and config.get("process_docs") is not four_options:
        rows[evaluated] = rows[evaluated][:limit]
    splits = {split: datasets.Dataset.from_list(part) for split, part in rows.items()}
    config = {**config, "custom_dataset": lambda **_: splits, "dataset_kwargs": None}
    for key in ("training_split", "validation_split", "fewshot_split"):
        if config.get(key) not in splits:
            config[key] = None
    if _has_fixed_examples(config) or config["fewshot_split"] or config["training_split"]:
        return config, ()
    # lm-eval leaves the evaluated item out of its own examples where both come from the test split
    config |= {"test_split": evaluated, "fewshot_split": evaluated}
    note = (
        f"{config['task']}: the {settings.shots} examples come from the {evaluated} split, the "
        "evaluated item left out, because data_root has no train split"
    )
    return config, (note,)


def _select_filter(task: ConfigurableTask, settings: TaskSettings) -> None:
    """Keep the one answer filter that the settings name."""
    names = [ensemble.name for ensemble in task._filters]
    wanted = settings.answer_filter
    if wanted is None and len(names) == 1:
        return
    if wanted not in names:
        raise SettingsError(
            f"task {task.config.task} has no answer filter {wanted!r}; set answer_filter to one "
            f"of: {', '.join(names)}"
        )
    task._filters = [ensemble for ensemble in task._filters if ensemble.name == wanted]


@contextlib.contextmanager
def _hub_or_its_cache(config: dict[str, Any]) -> Iterator[None]:
    """Look for a hub that does not answer in its cache alone, instead of for half a minute."""
    local = "custom_dataset" in config or "data_files" in (config.get("dataset_kwargs") or {})
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = before or not (local or _hub_answers())
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = before


@lru_cache(maxsize=1)
def _hub_answers() -> bool:
    try:
        get_session().head(hub.ENDPOINT, timeout=5)
    except Exception:  # of whatever HTTP library the client has
        return False
    return True


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """lm-eval's and datasets' remarks on settings that were chosen on purpose are not shown."""
    lm_eval_logger = logging.getLogger("lm_eval")
    level = lm_eval_logger.level
    bars = datasets.is_progress_bar_enabled()
    lm_eval_logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        lm_eval_logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
