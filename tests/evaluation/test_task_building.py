"""Which items are evaluated, with which examples in front of them."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants as hub
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from dllmquant_exp.evaluation import task_building
from dllmquant_exp.evaluation.local_data import DataError
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.task_building import build_tasks, spread


def likelihood(task: str, **changes: Any) -> TaskSettings:
    values = {"variant": "likelihood", "metric": "acc", "source": "test", "mc_num": 1}
    values |= {"estimator": "llada", "mc_batch_size": 1}
    return TaskSettings(harness_task=task, **(values | changes))


@example_settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 40))
def test_spread_is_as_even_as_the_sizes_allow(sizes: list[int], limit: int) -> None:
    quotas = spread(sizes, limit)
    assert sum(quotas) == min(limit, sum(sizes))
    assert all(0 <= quota <= size for quota, size in zip(quotas, sizes, strict=True))
    for i, quota in enumerate(quotas):  # nobody with items left has less than others by two
        if quota < sizes[i]:
            assert quota >= max(quotas) - 1


def test_spread_without_a_limit_takes_all() -> None:
    assert spread([3, 0, 7], None) == [3, 0, 7]


def test_a_limit_below_the_number_of_subjects_takes_evenly_spaced_ones(data_root: Path) -> None:
    built = build_tasks(likelihood("mmlu"), data_root=data_root, limit=3)
    names = [member.name for member in built]
    assert names[0] == "mmlu_abstract_algebra"
    assert [len(member.doc_ids) for member in built] == [1, 1, 1]
    assert names[1][:6] < names[2][:6]  # from the middle and the end of the alphabet


def test_a_limit_above_it_takes_some_of_each(data_root: Path) -> None:
    built = build_tasks(likelihood("ceval-valid"), data_root=data_root, limit=60)
    assert len(built) == 52
    assert sum(len(member.doc_ids) for member in built) == 60


def test_limit_zero_is_refused(data_root: Path) -> None:
    with pytest.raises(SettingsError, match="limit = 0 must be at least 1"):
        build_tasks(likelihood("piqa"), data_root=data_root, limit=0)


def test_examples_from_the_evaluated_split_leave_the_item_out(tmp_path: Path) -> None:
    rows = [
        {"sentence": f"Row {i} has _ in it.", "option1": "x", "option2": "y", "answer": "1"}
        for i in range(6)
    ]
    file = tmp_path / "winogrande_xl_val.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = likelihood("winogrande", shots=5)
    (built,) = build_tasks(settings, data_root=tmp_path, limit=None)
    assert "the evaluated item left out" in built.notes[0]
    for doc_id in built.doc_ids:
        built.task.set_fewshot_seed(doc_id)
        context = built.task.fewshot_context(built.task.task_docs[doc_id], num_fewshot=5)[0]
        assert sorted(context.count(f"Row {i} ") for i in range(6)) == [1] * 6
        assert context.endswith(f"Row {doc_id} has x")


def test_a_filter_that_does_not_exist_lists_the_others(data_root: Path) -> None:
    settings = TaskSettings(
        harness_task="gsm8k",
        variant="generation",
        metric="exact_match",
        source="test",
        answer_filter="guess",
        gen_length=8,
        steps=8,
        block_length=8,
        remasking="random",
    )
    with pytest.raises(SettingsError, match=r"no answer filter 'guess'.*strict-match, flexible"):
        build_tasks(settings, data_root=data_root, limit=1)


def test_a_hub_out_of_reach_points_to_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = (
        "data set baber/piqa cannot be loaded .*Without a connection to the hub, set data_root"
    )
    with pytest.raises(DataError, match=message):
        build_tasks(likelihood("piqa"), data_root=None, limit=2)


def test_a_hub_data_set_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"goal": "To open a jar", "sol1": "twist", "sol2": "sing", "label": 0}
    served = datasets.DatasetDict({"validation": datasets.Dataset.from_list([row] * 3)})
    served["train"] = served["validation"]
    asked: list[Any] = []

    def load(path: str, name: str | None = None, **_: Any) -> datasets.DatasetDict:
        asked.append((path, name))
        return served

    monkeypatch.setattr(datasets, "load_dataset", load)
    (built,) = build_tasks(likelihood("piqa"), data_root=None, limit=2)
    assert asked == [("baber/piqa", None)]
    assert (len(built.doc_ids), built.notes) == (2, ())
    assert built.task.doc_to_text(built.task.task_docs[0]) == "Question: To open a jar\nAnswer:"


@pytest.mark.parametrize("answers", [True, False])
def test_a_hub_that_does_not_answer_is_looked_for_in_its_cache_alone(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    offline = []

    def load(*_: Any, **__: Any) -> None:
        offline.append((hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("out of reach")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(task_building, "_hub_answers", lambda: answers)
    before = (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    with pytest.raises(DataError, match="out of reach"):
        build_tasks(likelihood("piqa"), data_root=None, limit=2)
    assert offline == [before if answers else (True, True)]
    assert before == (hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
