"""Calibration texts come from training splits and are no evaluation items."""

import gzip
import json
from pathlib import Path

import pytest

from dllmquant_exp.calibration.sources import (
    CalibrationText,
    disjoint,
    embedded_evaluation_items,
    official_texts,
    text_source,
)
from dllmquant_exp.calibration.states import CalibrationError
from dllmquant_exp.models.embedded import world
from dllmquant_exp.store.jsonl import DataError

TASKS = list(world.TASKS)


def test_embedded_texts_take_turns_and_are_not_evaluated() -> None:
    texts = text_source(True, None, 0)(TASKS, 45)
    assert len({text.text for text in texts}) == 45
    assert texts[8].prompt.startswith("Question: ") and "####" in texts[8].response
    assert texts[17].prompt.startswith("Question: ") and "####" in texts[17].response
    assert texts[5].prompt.startswith("Exam: ") and texts[5].response.strip() in "ABCD"
    assert [len(text.items) for text in texts[:9]] == [1, 1, 1, 1, 1, 3, 3, 1, 1]
    evaluated = {item for task in TASKS for item in embedded_evaluation_items(task)}
    assert not evaluated & {item for text in texts for item in text.items}
    assert text_source(True, None, 1)(TASKS, 45) != texts
    assert text_source(True, None, 0)(TASKS, 20) == texts[:20]


@pytest.mark.parametrize("task", ["micro_mmlu", "micro_gsm8k"])
def test_an_evaluation_item_would_be_found(task: str) -> None:
    evaluated = embedded_evaluation_items(task)
    texts = [CalibrationText("", "", ("something else", evaluated[7].upper() + " \n"))]
    with pytest.raises(CalibrationError, match="1 calibration texts are evaluation items"):
        disjoint(texts, evaluated)


@pytest.mark.parametrize(
    ("embedded", "names", "message"),
    [
        (True, ["gsm8k"], "no training data gsm8k for calibration; there are: micro_"),
        (True, [], "no training data given"),
        (False, ["mmlu"], "no training data mmlu for calibration; there are: winogrande"),
        (False, [], "no training data given"),
    ],
)
def test_data_sets_that_do_not_exist(embedded: bool, names: list[str], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        text_source(embedded, None, 0)(names, 1)


def _write(path: Path, rows: list[dict]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_official_rows_become_prompts_and_responses(tmp_path: Path) -> None:
    winogrande = {
        "sentence": "The cup did not fit the box because the _ was small.",
        "option1": "cup",
        "option2": "box",
        "answer": "2",
    }
    piqa = {"goal": "To cut", "sol1": "use a saw", "sol2": "use soap", "label": 0}
    gsm8k = {"question": "1+1?", "answer": "2 #### 2"}
    _write(tmp_path / "winogrande_xl_train.jsonl.gz", [winogrande])
    _write(tmp_path / "piqa_train.jsonl.gz", [piqa])
    _write(tmp_path / "gsm8k_train.jsonl.gz", [gsm8k])
    (text,) = official_texts("winogrande", 1, seed=0, data_root=tmp_path)
    assert text.prompt == "The cup did not fit the box because the box"
    assert text.response == " was small." and text.items == (winogrande["sentence"],)
    (text,) = official_texts("piqa", 1, seed=0, data_root=tmp_path)
    assert text.text == "Question: To cut\nAnswer: use a saw"
    (text,) = official_texts("gsm8k", 1, seed=0, data_root=tmp_path)
    assert text.text == "Question: 1+1?\nAnswer: 2 #### 2" and text.items == ("1+1?",)


def test_official_texts_depend_on_the_seed(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": str(n)} for n in range(50)]
    _write(tmp_path / "gsm8k_train.jsonl.gz", rows)
    a, b, c = (official_texts("gsm8k", 10, seed=s, data_root=tmp_path) for s in (0, 0, 1))
    assert a == b != c and len({text.items for text in a}) == 10
    assert official_texts("gsm8k", 4, seed=0, data_root=tmp_path) == a[:4]


def test_official_texts_that_cannot_be_read(tmp_path: Path) -> None:
    def read(count: int = 1) -> None:
        official_texts("gsm8k", count, seed=0, data_root=tmp_path)

    with pytest.raises(CalibrationError, match=r"gsm8k_train.jsonl.gz is missing"):
        read()
    _write(tmp_path / "gsm8k_train.jsonl.gz", [{"question": "?", "answer": "!"}])
    with pytest.raises(CalibrationError, match="1 training rows, fewer than 2"):
        read(2)
    _write(tmp_path / "gsm8k_train.jsonl.gz", [{"question": "?"}])
    with pytest.raises(DataError, match="line 1: no field answer"):
        read()
    (tmp_path / "gsm8k_train.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read()


def test_a_source_takes_turns_and_refuses_evaluation_items(tmp_path: Path) -> None:
    names = [f"{n}?" for n in range(6)]
    _write(tmp_path / "gsm8k_train.jsonl.gz", [{"question": q, "answer": "1"} for q in names])
    _write(tmp_path / "gsm8k_test.jsonl.gz", [{"question": "other?", "answer": "1"}])
    piqa = [{"goal": q, "sol1": "a", "sol2": "b", "label": 0} for q in names]
    _write(tmp_path / "piqa_train.jsonl.gz", piqa)
    _write(tmp_path / "piqa_val.jsonl.gz", [piqa[0] | {"goal": "other?"}])
    source = text_source(False, tmp_path, 0)
    texts = source(("piqa", "gsm8k"), 5)
    assert [text.response for text in texts] == [" a", " 1", " a", " 1", " a"]
    assert source(("piqa", "gsm8k"), 3) == texts[:3]
    _write(tmp_path / "piqa_val.jsonl.gz", [piqa[4] | {"goal": " 4?  ", "label": 1}])
    with pytest.raises(CalibrationError, match="1 calibration texts are evaluation items"):
        source(("gsm8k", "piqa"), 12)
    (tmp_path / "piqa_val.jsonl.gz").unlink()
    with pytest.raises(CalibrationError, match=r"piqa_val.jsonl.gz is missing"):
        source(("gsm8k", "piqa"), 2)
