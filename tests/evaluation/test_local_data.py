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


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "baber/piqa": ("piqa_val", PIQA),
    "Rowan/hellaswag": (
        "hellaswag_val",
        {"ind": 1, "activity_label": "a", "ctx_a": "b", "ctx_b": "c", "ctx": "b c", "label": "3",
         "endings": list("wxyz"), "source_id": "s", "split": "val", "split_type": "indomain"},
    ),
    "allenai/winogrande": (
        "winogrande_xl_val", {"sentence": "_", "option1": "a", "option2": "b", "answer": "2"},
    ),
    "cais/mmlu": (
        "mmlu_test", {"question": "q", "subject": "art", "choices": list("wxyz"), "answer": 1},
    ),
    "ceval/ceval-exam": (
        "ceval_val", {"subject": "art", "id": "1", "question": "q", "A": "w", "B": "x", "C": "y",
                      "D": "z", "answer": "B"},
    ),
    "allenai/ai2_arc": (
        "arc_challenge_test", {"id": "1", "question": "q", "choices": list("wxyz"), "gold": 1},
    ),
    "openai/gsm8k": ("gsm8k_test", {"question": "q", "answer": "so #### 4"}),
    "truthfulqa/truthful_qa": (
        "truthfulqa_mc", {"question": "q", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
                          "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
    ),
}  # fmt: skip


def served(folder: Path, dataset: str, **changes: Any) -> dict[str, Any]:
    """The second of two rows of a data set, the other files of which have good rows."""
    file, row = ROWS[dataset]
    for name in SOURCES[dataset].files.values():
        write(folder, name, [row, row | (changes if name == file else {})])
    rows = local_rows(folder, dataset, "art")
    (split,) = (split for split, name in SOURCES[dataset].files.items() if name == file)
    return rows[split][1]


@pytest.mark.parametrize(
    ("dataset", "field", "given", "meant"),
    [
        ("baber/piqa", "label", "1", 1),
        ("baber/piqa", "label", " 0", 0),
        ("Rowan/hellaswag", "label", 2, "2"),
        ("allenai/winogrande", "answer", 1, "1"),
        ("cais/mmlu", "answer", "3", 3),
        ("cais/mmlu", "answer", "C", 2),
        ("ceval/ceval-exam", "answer", "A ", "A"),
        ("allenai/ai2_arc", "gold", "2", "C"),
        ("truthfulqa/truthful_qa", "mc2_targets", {"choices": ["a", "b"], "labels": ["0", "1"]},
         {"choices": ["a", "b"], "labels": [0, 1]}),
    ],
)  # fmt: skip
def test_labels_are_read_as_what_they_mean(
    tmp_path: Path, dataset: str, field: str, given: Any, meant: Any
) -> None:
    row = served(tmp_path, dataset, **{field: given})
    found = row[{"gold": "answerKey"}.get(field, field)]
    assert found == meant and type(found) is type(meant)


@pytest.mark.parametrize(
    ("dataset", "field", "given"),
    [
        *(("baber/piqa", "label", value) for value in ("", "a", 2, -1, None, True, 0.5, [0])),
        ("baber/piqa", "goal", None),
        ("baber/piqa", "sol1", 3),
        *(("Rowan/hellaswag", "label", value) for value in ("", None, "4", -1)),
        *(("Rowan/hellaswag", "endings", value) for value in (list("wxy"), "wxyz", [1, 2, 3, 4])),
        *(("allenai/winogrande", "answer", value) for value in ("", "0", 3)),
        *(("cais/mmlu", "answer", value) for value in (4, "E", "", None)),
        *(("cais/mmlu", "choices", value) for value in (list("wxyzv"), None)),
        *(("ceval/ceval-exam", "answer", value) for value in ("", "E", 0)),
        *(("allenai/ai2_arc", "gold", value) for value in (4, -1, None, "A")),
        ("allenai/ai2_arc", "choices", "wxyz"),
        *(("openai/gsm8k", "answer", value) for value in ("", "4", 4, "4 ####")),
        ("allenai/winogrande", "sentence", "no blank"),
        *(("truthfulqa/truthful_qa", "mc1_targets", {"choices": ["a", "b"], "labels": value})
          for value in ([0, 0], [1], [1, 2], None)),
    ],
)  # fmt: skip
def test_a_row_without_a_usable_label_or_text_is_named(
    tmp_path: Path, dataset: str, field: str, given: Any
) -> None:
    where = rf"{ROWS[dataset][0]}\.jsonl\.gz, line 2: \S+ = .* (is|has) "
    with pytest.raises(DataError, match=where):
        served(tmp_path, dataset, **{field: given})


def test_a_row_of_arc_without_an_answer_is_named(tmp_path: Path) -> None:
    choices = {"text": ["w", "x"], "label": ["1", "2"]}
    row = {"id": "1", "question": "q", "choices": choices}
    for name in ("arc_challenge_val", "arc_challenge_test"):
        write(tmp_path, name, [row | {"answerKey": "2"}, row | {"answerKey": 1}])
    rows = local_rows(tmp_path, "allenai/ai2_arc", None)["validation"]
    assert [row["answerKey"] for row in rows] == ["2", "1"]
    write(tmp_path, "arc_challenge_test", [row | {"answerKey": "2"}, row])
    with pytest.raises(
        DataError, match=r"_test\.jsonl\.gz, line 2: answerKey = None is not one of"
    ):
        local_rows(tmp_path, "allenai/ai2_arc", None)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "text",
    ["{}\n{}\n", "{}\n\n{}\n\n", "\ufeff{}\n{}", "{}\r\n{}\r\n", "\ufeff{}\r\n \t\r\n{}\r\n"],
    ids=["plain", "blank lines", "byte order mark", "CRLF", "all of it"],
)
def test_lines_are_read_as_common_loaders_read_them(
    tmp_path: Path, text: str, packed: bool
) -> None:
    row = PIQA | {"goal": "a\u2028b"}  # which ends a line for some
    content = text.replace("{}", json.dumps(row, ensure_ascii=False)).encode()
    path = tmp_path / ("piqa_val.jsonl.gz" if packed else "piqa_val.jsonl")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert local_rows(tmp_path, "baber/piqa", None) == {"validation": [row, row]}


def test_a_small_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dllmquant_exp.store.jsonl.LARGEST_FILE", 1 << 20)
    (tmp_path / "piqa_val.jsonl.gz").write_bytes(gzip.compress(b" " * (1 << 21)))
    with pytest.raises(DataError, match=r"piqa_val\.jsonl\.gz has more than 1 MiB unpacked"):
        local_rows(tmp_path, "baber/piqa", None)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"label": NaN}', '{"label": 1, "label": 0}', '{"label": 1e999}']
)
def test_an_odd_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "piqa_val.jsonl").write_text(json.dumps(PIQA) + "\n" + line)
    with pytest.raises(DataError, match=r"piqa_val\.jsonl, line 2: not JSON"):
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
