"""Chunks: a sharded and a torn evaluation give the floats and the costs of an undisturbed one."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.evaluation import harness
from dllmquant_exp.evaluation.chunks import ShardsMissing, consecutive, shard_caches
from dllmquant_exp.evaluation.harness import DiffusionLM
from dllmquant_exp.evaluation.settings import TaskSettings
from dllmquant_exp.models.transformer import Transformer

LIKELIHOOD = TaskSettings(
    harness_task="test", variant="likelihood", metric="acc", source="test",
    estimator="llada", mc_num=4, mc_batch_size=4,
)  # fmt: skip
GENERATION = TaskSettings(
    harness_task="test", variant="generation", metric="exact_match", source="test",
    gen_length=12, steps=6, block_length=6, remasking="low_confidence",
)  # fmt: skip


def requests(kind: str) -> list[Instance]:
    made = []
    for doc_id in range(11):
        context = f"Question {'why? ' * (doc_id % 4)}"
        answers: list[Any] = [" yes", " no"] if kind == "loglikelihood" else [{"until": []}]
        for idx, answer in enumerate(answers):
            made.append(
                Instance(
                    request_type=kind, doc={"text": context}, arguments=(context, answer),
                    idx=idx, metadata=("task", doc_id, 1),
                )
            )  # fmt: skip
    return made


CASES = [("loglikelihood", LIKELIHOOD), ("generate_until", GENERATION)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "BATCHES_PER_SAVE", 1)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda x: x if type(x) is str else "")
def test_shards_together_are_the_whole_to_the_last_bit(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: str,
    settings: TaskSettings,
) -> None:
    def ask(**options: Any) -> tuple[Any, DiffusionLM]:
        lm = DiffusionLM(llada, tokenizer, settings, seed=7, batch_size=2, **options)
        return getattr(lm, kind)(requests(kind)), lm

    expected, whole = ask()
    files = [tmp_path / f"requests-{k}-of-3.jsonl" for k in range(3)]
    for k in (2, 0):
        with pytest.raises(ShardsMissing, match="chunks are not answered yet"):
            ask(cache_path=files[k], other_caches=shard_caches(tmp_path), shard=(k, 3))
    sizes = [path.stat().st_size for path in files if path.exists()]
    assert len(sizes) == 2 and min(sizes) > max(sizes) / 4, "the work is shared evenly"
    last, _ = ask(cache_path=files[1], other_caches=shard_caches(tmp_path), shard=(1, 3))
    merged, lm = ask(other_caches=shard_caches(tmp_path))
    assert last == merged == expected
    assert (lm.forwards, lm.token_forwards) == (whole.forwards, whole.token_forwards)
    assert lm.cache.seconds_before > 0


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda x: x if type(x) is str else "")
def test_a_file_torn_anywhere_gives_the_same_answers_and_costs(
    llada: Transformer,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    kind: str,
    settings: TaskSettings,
) -> None:
    path = tmp_path / "requests.jsonl"

    def ask() -> tuple[Any, tuple[int, int]]:
        lm = DiffusionLM(llada, tokenizer, settings, seed=7, batch_size=4, cache_path=path)
        return getattr(lm, kind)(requests(kind)), (lm.forwards, lm.token_forwards)

    expected = ask()
    content = path.read_bytes()
    for cut in (1, len(content) // 3, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:cut])
        assert ask() == expected


def test_consecutive_never_separates_a_group() -> None:
    items = ["a1", "a2", "b1", "b2", "b3", "c1"]
    found = list(consecutive(items, 3, lambda item: item[0]))
    assert found == [["a1", "a2", "b1", "b2", "b3"], ["c1"]]
