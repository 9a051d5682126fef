"""A part of a task's requests, so that several jobs can answer one task."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from dllmquant_exp.evaluation.chunks import CACHE_NAME, ShardsMissing, shard_caches
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.requests import ask, make_requests
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.evaluation.task_building import build_tasks, quiet_libraries
from dllmquant_exp.models.transformer import Transformer


def answer_shard(
    model: Transformer,
    tokenizer: PreTrainedTokenizerBase,
    settings: TaskSettings,
    *,
    shard: tuple[int, int],
    data_root: Path | None,
    limit: int | None,
    seed: int,
    batch_size: int,
    cache_dir: Path,
) -> bool:
    """Answer the requests of shard k of n, with the arguments of `evaluate_task`.

    The chunks that an unsharded evaluation answers one after the other are dealt out in turn.

    Returns:
        Whether the requests of all shards are answered by now. `evaluate_task` then asks the model
        nothing and returns the same evaluation as without shards.
    """
    number, count = shard
    ours = cache_dir / f"requests-{number}-of-{count}.jsonl"

    def others() -> list[Path]:
        unsharded = cache_dir / CACHE_NAME
        return [*([unsharded] if unsharded.exists() else []), *shard_caches(cache_dir)]

    lm = DiffusionLM(
        model,
        tokenizer,
        settings,
        seed=seed,
        batch_size=batch_size,
        cache_path=ours,
        other_caches=[path for path in others() if path != ours],
        shard=shard,
    )
    built = build_tasks(settings, data_root=data_root, limit=limit)
    with quiet_libraries():
        make_requests(built, settings, lm)
        for _ in range(2):
            try:
                ask(lm, built)
                return True
            except ShardsMissing:
                lm.cache.read(others())  # again: the last to look has to see them all
    return False
