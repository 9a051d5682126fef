"""Local files become the hub's rows, or an error that names the file and what it should hold."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from dllmquant_exp.evaluation.local_data import SOURCES, DataError, check_data_root, local_rows

PIQA = {"goal": "g", "sol1": "a", "sol2": "b", "label": 1}


def write(folder: Path, name: str, rows: list[Any], packed: bool = True) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path = folder / (f"{name}.jsonl.gz" if packed else f"{name}.jsonl")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_rows_come_back_by_split(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, "piqa_val", [PIQA | {"extra": 1}], packed)
    assert local_rows(tmp_path, "baber/piqa", None) == {"validation": [PIQA]}


def test_arc_test_rows_get_letters(tmp_path: Path) -> None:
    served = {"text": ["w", "x", "y"], "label": ["A", "B", "C"]}
    ours = {"id": "1", "question": "q", "choices": ["w", "x", "y"], "gold": 2}
    hub = {"id": "2", "question": "q", "choices": served, "answerKey": "B"}
    write(tmp_path, "arc_challenge_test", [ours])
    write(tmp_path, "arc_challenge_val", [hub])
    rows = local_rows(tmp_path, "allenai/ai2_arc", "ARC-Challenge")
    assert rows["test"] == [{"id": "1", "question": "q", "choices": served, "answerKey": "C"}]
    assert rows["validation"] == [hub]


def test_subjects_are_kept_apart(tmp_path: Path) -> None:
    def row(subject: str, question: str) -> dict[str, Any]:
        return {"question": question, "subject": subject, "choices": list("wxyz"), "answer": 0}

    for name in ("mmlu_dev", "mmlu_validation", "mmlu_test"):
        write(tmp_path, name, [row("art", "1"), row("law", "2"), row("art", "3")])
    rows = local_rows(tmp_path, "cais/mmlu", "art")
    assert [r["question"] for r in rows["test"]] == ["1", "3"]
    with pytest.raises(DataError, match="no rows for subject 'music'"):
        local_rows(tmp_path, "cais/mmlu", "music")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"piqa_val.jsonl.gz is missing: point data_root"):
        local_rows(tmp_path, "baber/piqa", None)


def test_a_missing_field_is_named_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "piqa_val", [PIQA, {"goal": "g"}])
    message = "line 2: no field sol1, sol2, label; expected fields: goal, sol1, sol2, label"
    with pytest.raises(DataError, match=message):
        local_rows(tmp_path, "baber/piqa", None)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "piqa_val.jsonl").write_text('{"goal": \n')
    with pytest.raises(DataError, match=r"piqa_val.jsonl, line 1: not JSON"):
        local_rows(tmp_path, "baber/piqa", None)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "piqa_val", [PIQA] * 100)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"piqa_val.jsonl.gz cannot be read"):
        local_rows(tmp_path, "baber/piqa", None)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "piqa_val", [])
    with pytest.raises(DataError, match="has no rows"):
        local_rows(tmp_path, "baber/piqa", None)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "piqa_val", [PIQA])
    local_rows(tmp_path, "baber/piqa", None)
    write(tmp_path, "piqa_val", [PIQA | {"goal": "another"}])
    assert local_rows(tmp_path, "baber/piqa", None)["validation"][0]["goal"] == "another"


def test_an_unknown_data_set_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot serve data set 'x/y'; it serves: truthfulqa/"):
        local_rows(tmp_path, "x/y", None)


def test_all_missing_files_are_listed_at_once(tmp_path: Path) -> None:
    write(tmp_path, "gsm8k_test", [{}])
    with pytest.raises(DataError, match=r"lacks gsm8k_train.jsonl.gz, piqa_val.jsonl.gz"):
        check_data_root(tmp_path, ["openai/gsm8k", "baber/piqa"])
    with pytest.raises(DataError, match="is not a folder"):
        check_data_root(tmp_path / "nowhere", [])


COUNTS = {
    "truthfulqa/truthful_qa": {"validation": 817},
    "allenai/ai2_arc": {"validation": 299, "test": 1172},
    "Rowan/hellaswag": {"validation": 10042},
    "allenai/winogrande": {"validation": 1267},
    "baber/piqa": {"validation": 1838},
    "openai/openai_humaneval": {"test": 164},
    "openai/gsm8k": {"train": 7473, "test": 1319},
}


@pytest.mark.parametrize("dataset", COUNTS)
def test_the_official_splits_are_whole(data_root: Path, dataset: str) -> None:
    rows = local_rows(data_root, dataset, None)
    assert {split: len(part) for split, part in rows.items()} == COUNTS[dataset]


def test_every_source_has_real_files(data_root: Path) -> None:
    check_data_root(data_root, list(SOURCES))
