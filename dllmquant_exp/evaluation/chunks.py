"""Requests are answered in chunks: what is kept together, resumed together and sharded together.

The content of a chunk never depends on the answers so far. A run that is killed and resumed, or
split over jobs, therefore puts the same rows into the same forward passes as an undisturbed one and
gets the same floats.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from dllmquant_exp.evaluation.request_cache import Cost, RequestCache
from dllmquant_exp.store.progress import progress

Item = TypeVar("Item")
Costly = tuple[Sequence[Any], int, int]  # answers, token forwards, forwards
Answer = Callable[[list[str], Callable[[float], None]], Costly]
CACHE_NAME = "requests.jsonl"  # in a cell's folder: the answers so far


class ShardsMissing(Exception):
    """This shard's requests are answered, and some of the others' are not."""


def shard_caches(folder: Path) -> list[Path]:
    """The files with the answers of a cell's shards, whatever their number was."""
    return sorted(folder.glob("requests-*-of-*.jsonl"))


def answer_chunks(
    cache: RequestCache,
    chunks: Sequence[list[str]],
    answer: Answer,
    shard: tuple[int, int] | None,
    name: str,
    disable_tqdm: bool,
) -> None:
    """Answer what is not in the cache yet, chunk by chunk.

    Args:
        chunks: keys of requests; together all of them, each once.
        answer: from the keys of a chunk, and a function to be told of answered requests.
        shard: (k, n) for every n-th chunk only, from the k-th on; None for all.

    Raises:
        ShardsMissing: chunks of other shards are not answered yet.
    """
    number, count = shard or (0, 1)
    known = [all(key in cache.answers for key in chunk) for chunk in chunks]
    done = sum(len(chunk) for chunk, is_known in zip(chunks, known, strict=True) if is_known)
    bar = nullcontext(_untold) if disable_tqdm else progress(name, sum(map(len, chunks)), done)
    with bar as advance:
        for i in range(number, len(chunks), count):
            if known[i]:
                continue
            start = time.monotonic()
            answers, token_forwards, forwards = answer(chunks[i], advance)
            cost = Cost(token_forwards, forwards, time.monotonic() - start)
            cache.add(dict(zip(chunks[i], answers, strict=True)), cost)
            known[i] = True
    if not all(known):
        raise ShardsMissing(f"{known.count(False)} of {len(known)} chunks are not answered yet")


def consecutive(
    items: Sequence[Item], size: int, group: Callable[[Item], object]
) -> Iterator[list[Item]]:
    """Consecutive runs of about `size` items that never separate neighbours of one group."""
    chunk: list[Item] = []
    for item in items:
        if len(chunk) >= size and group(item) != group(chunk[-1]):
            yield chunk
            chunk = []
        chunk.append(item)
    if chunk:
        yield chunk


def _untold(_: float) -> None:
    """Take progress that nobody wants to hear of."""
