"""Evaluate a model on one task: build the requests, ask the model, score every item."""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.evaluation.chunks import CACHE_NAME, shard_caches
from dllmquant_exp.evaluation.diagnostics import diagnose
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.requests import ask, make_requests
from dllmquant_exp.evaluation.sandbox import active_guards
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.task_building import BuiltTask, build_tasks, quiet_libraries
from dllmquant_exp.models.transformer import Transformer

OTHER_METRICS = ("acc", "acc_norm")  # both follow from the same log-likelihoods


@dataclass(frozen=True)
class ItemRecord:
    """The outcome of one item.

    subtask, doc_id, doc_hash: which item it is (number in its split, hash of its content)
    score: in [0, 1]; these average to the task's score
    answer: the chosen option, or the text that the answer filter kept
    target: the right answer
    log_likelihoods: of the options, in nats, for likelihood tasks
    response: the model's whole response, for generation tasks
    note: why a program failed, or "passed"
    """

    subtask: str
    doc_id: int
    doc_hash: str
    score: float
    answer: str
    target: str
    log_likelihoods: tuple[float, ...] | None = None
    response: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class TaskResult:
    """A task's score and items, as `evaluate_task` returns them.

    score: mean of the items' scores, in [0, 1]; with average = members, of the members' means
    chance: score of guessing uniformly; None where nothing was declared
    token_forwards, forwards: tokens and rows that went through the model, resumed ones included
    truncated: requests whose context lost its beginning
    diagnostics: shares of what may have gone wrong, see diagnostics.py
    other_scores: each item's score by another metric that the same answers give (acc beside
        acc_norm), by metric
    notes: differences from the published procedure, and the guards that programs ran behind
    seconds: wall time of this call
    seconds_before: wall time of earlier calls and of other shards for answers that were kept
    """

    task: str
    label: str
    metric: str
    average: str
    score: float
    n: int
    chance: float | None
    items: tuple[ItemRecord, ...]
    token_forwards: int
    forwards: int
    truncated: int
    diagnostics: Mapping[str, float]
    other_scores: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]
    seconds: float
    seconds_before: float


def evaluate_task(
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    task_name: str,
    task_spec: Mapping[str, Any],
    settings: TaskSettings,
    *,
    data_root: Path | None,
    limit: int | None,
    seed: int,
    batch_size: int,
    cache_dir: Path | None = None,
    max_length: int | None = None,
) -> TaskResult:
    """Score `model` on a task as `settings` say.

    Args:
        task_spec: one entry of `task.tasks`; its `label` and `chance` are read here.
        data_root: folder of the official splits; None reads them from the hub.
        limit: items in all, groups included, spread evenly over their members.
        seed: of the masks and of sampling; the prompts do not depend on it.
        batch_size: rows per forward pass.
        cache_dir: where answers are kept, so that a killed evaluation goes on.
        max_length: tokens per sequence, at most the model's.

    Raises:
        SettingsError, DataError, SandboxError: with what to do about it.
    """
    started = time.monotonic()
    guards = _guards(settings)  # before the model is asked
    lm = DiffusionLM(
        model,
        tokenizer,
        settings,
        seed=seed,
        batch_size=batch_size,
        max_length=max_length,
        cache_path=None if cache_dir is None else cache_dir / CACHE_NAME,
        other_caches=[] if cache_dir is None else shard_caches(cache_dir),
    )
    built = build_tasks(settings, data_root=data_root, limit=limit)
    with quiet_libraries():
        make_requests(built, settings, lm)
        ask(lm, built)
        scored = [one for member in built for one in _score(member, settings)]
    items = [item for item, _ in scored]
    others = {name: tuple(other[name] for _, other in scored) for name in scored[0][1]}
    return TaskResult(
        task=task_name,
        label=str(task_spec.get("label", task_name)),
        metric=settings.metric,
        average=settings.average,
        score=average_score(items, settings.average),
        n=len(items),
        chance=_chance(built, items, settings, task_spec),
        items=tuple(items),
        token_forwards=lm.token_forwards,
        forwards=lm.forwards,
        truncated=lm.truncated,
        diagnostics=diagnose(
            sum(each.repeats or 1 for member in built for each in member.task._instances),
            [(item.response, item.answer) for item in items if item.response is not None],
            lm,
        ),
        other_scores=others,
        notes=tuple(dict.fromkeys(note for member in built for note in member.notes)) + guards,
        seconds=time.monotonic() - started,
        seconds_before=lm.cache.seconds_before,
    )


def average_score(items: Sequence[ItemRecord], average: str) -> float:
    """Mean of the items' scores; with average = members, mean of the members' means."""
    if average == "items":
        return math.fsum(item.score for item in items) / len(items)
    members: dict[str, list[ItemRecord]] = {}
    for item in items:
        members.setdefault(item.subtask, []).append(item)
    return math.fsum(average_score(each, "items") for each in members.values()) / len(members)


def _guards(settings: TaskSettings) -> tuple[str, ...]:
    """Name the guards that this task's programs run behind, as a note (SandboxError)."""
    if settings.metric != "pass@1":
        return ()
    return (f"programs ran behind: {', '.join(active_guards()) or 'nothing'}",)


Scored = tuple[ItemRecord, dict[str, float]]  # a record, and scores by other metrics


def _score(member: BuiltTask, settings: TaskSettings) -> list[Scored]:
    """One record per item. Programs run side by side, one per core: each is its own process."""
    member.task.apply_filters()
    groups: dict[int, list[Instance]] = {doc_id: [] for doc_id in member.doc_ids}
    for instance in member.task._instances:
        groups[int(instance.doc_id or 0)].append(instance)
    workers = len(os.sched_getaffinity(0)) if settings.metric == "pass@1" else 1
    with ThreadPoolExecutor(workers) as pool:
        return list(
            pool.map(lambda doc_id: _score_item(member, settings, doc_id, groups[doc_id]), groups)
        )


def _score_item(
    member: BuiltTask, settings: TaskSettings, doc_id: int, instances: list[Instance]
) -> Scored:
    task = member.task
    instances.sort(key=lambda instance: instance.idx)
    (filter_name,) = instances[0].filtered_resps
    results = [instance.filtered_resps[filter_name] for instance in instances]
    doc = instances[0].doc
    outcome = task.process_results(doc, results)
    others = {
        name: float(outcome[name])
        for name in OTHER_METRICS
        if name in outcome and settings.metric in OTHER_METRICS and name != settings.metric
    }
    common: dict[str, Any] = {
        "subtask": member.name,
        "doc_id": doc_id,
        "doc_hash": _hash(doc),
        "score": _metric(outcome, settings, member.name),
        "note": outcome.get("note"),
    }
    if settings.variant == "generation":
        record = ItemRecord(
            **common,
            answer=str(results[0]),
            target=_text_target(task, doc),
            response=str(instances[0].resps[0]),
        )
        return record, others
    values = tuple(float(value) for value, _ in results)
    choices = task.doc_to_choice(doc)
    record = ItemRecord(
        **common,
        answer=choices[_chosen(values, choices, settings.metric)],
        target=_choice_target(task, doc, choices, settings.metric),
        log_likelihoods=values,
    )
    return record, others


def _metric(outcome: Mapping[str, Any], settings: TaskSettings, name: str) -> float:
    if settings.metric not in outcome:
        raise SettingsError(
            f"task {name} has no metric {settings.metric}; it has: {', '.join(outcome)}"
        )
    value = float(outcome[settings.metric])
    if not 0 <= value <= 1:
        raise SettingsError(
            f"task {name}: {settings.metric} of an item is {value:g}, and scores must lie in "
            "[0, 1]; choose another metric"
        )
    return value


def _chosen(values: Sequence[float], choices: Sequence[str], metric: str) -> int:
    """Index of the option that the metric counts: by likelihood, per character for acc_norm."""
    if metric == "acc_norm":
        values = [value / len(choice) for value, choice in zip(values, choices, strict=True)]
    return max(range(len(values)), key=lambda i: values[i])


def _choice_target(task: Any, doc: Mapping[str, Any], choices: Sequence[str], metric: str) -> str:
    """The right option; for mc2 all true ones, one per line."""
    if metric == "mc2":
        labels = doc["mc2_targets"]["labels"]
        return "\n".join(c for c, label in zip(choices, labels, strict=True) if label == 1)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return str(choices[gold]) if isinstance(gold, int) else str(gold)


def _text_target(task: Any, doc: Mapping[str, Any]) -> str:
    """The answer text; for programs, whose answer is a test, the function's name."""
    return str(doc["entry_point"] if "entry_point" in doc else task.doc_to_target(doc))


def _chance(
    built: Sequence[BuiltTask],
    items: Sequence[ItemRecord],
    settings: TaskSettings,
    task_spec: Mapping[str, Any],
) -> float | None:
    """Score of guessing: from the options of the very items, else what the task declares."""
    if settings.variant == "generation":
        declared = task_spec.get("chance")
        return None if declared is None else float(declared)
    docs = [member.task.task_docs[i] for member in built for i in member.doc_ids]
    if settings.metric == "mc2":
        labels = [doc["mc2_targets"]["labels"] for doc in docs]
        shares = [sum(label == 1 for label in row) / len(row) for row in labels]
    else:
        shares = [1 / len(item.log_likelihoods or (0,)) for item in items]
    return math.fsum(shares) / len(shares)


def _hash(doc: Mapping[str, Any]) -> str:
    text = json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
