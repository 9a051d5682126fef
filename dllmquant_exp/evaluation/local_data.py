"""The official evaluation splits from local files, in the schema that the hub serves.

`data_root` is a folder of gzipped JSON-lines files, one row per line (plain `.jsonl` works too):

    truthfulqa_mc  arc_challenge_{val,test}  hellaswag_val  winogrande_xl_val  piqa_val
    mmlu_{dev,validation,test}  ceval_{dev,val}  humaneval  gsm8k_{train,test}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dllmquant_exp.store.jsonl import DataError, Row, find_rows, read_rows

__all__ = ["DataError", "check_data_root", "local_rows", "split_file"]
Check = Callable[[Any], Any]  # from a value to the one that is meant; ValueError: neither


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    return value


def _texts(value: Any, count: int | None = None) -> list[str]:
    is_list = isinstance(value, list) and len(value) > 1 and len(value) == (count or len(value))
    if not is_list or not all(isinstance(item, str) for item in value):
        raise ValueError(f"is not a list of {count or 'several'} texts")
    return list(value)


def _four_texts(value: Any) -> list[str]:
    return _texts(value, 4)


def _anything(value: Any) -> Any:
    return value


def _one_of(*allowed: Any) -> Check:
    """A check for one of some values, which may be written as text."""

    def check(value: Any) -> Any:
        for meant in allowed:
            if not isinstance(value, bool | float) and str(value).strip() == str(meant):
                return meant
        raise ValueError(f"is not one of: {', '.join(map(repr, allowed))}")

    return check


def _index_or_letter(value: Any) -> int:
    letters = "ABCD"
    return letters.index(value) if value in tuple(letters) else int(_one_of(0, 1, 2, 3)(value))


def _targets(value: Any) -> dict[str, Any]:
    """TruthfulQA's options, each with 1 where it is true."""
    if not isinstance(value, dict) or not {"choices", "labels"} <= set(value):
        raise ValueError("has no choices and labels")
    choices, labels = _texts(value["choices"]), value["labels"]
    if not isinstance(labels, list) or len(labels) != len(choices):
        raise ValueError("has not as many labels as choices")
    labels = [_one_of(0, 1)(label) for label in labels]
    if 1 not in labels:
        raise ValueError("has no true choice")
    return {**value, "choices": choices, "labels": labels}


def _solution(value: Any) -> str:
    if not _text(value).partition("####")[2].strip():
        raise ValueError("has no #### in front of a result")
    return str(value)


def _sentence(value: Any) -> str:
    if "_" not in _text(value):
        raise ValueError("has no _ where the option belongs")
    return str(value)


@dataclass(frozen=True, eq=False)
class Source:
    """One hub data set as local files.

    files: split -> name of the file without its ending.
    fields: what every row must have, and a check of it.
    convert: row of the file -> row of the hub.
    subject_field: the field that says which of the data set's configurations a row belongs to.
    """

    files: Mapping[str, str]
    fields: Mapping[str, Check]
    convert: Callable[[Row], Row]
    subject_field: str | None = None

    def checked(self, row: Row) -> Row:
        """The row with its values as they are meant (ValueError: a row that cannot be used)."""
        row = row | {name: _value(row, name, check) for name, check in self.fields.items()}
        self.convert(row)  # which may refuse it too
        return row


def _value(row: Row, name: str, check: Check) -> Any:
    try:
        return check(row.get(name))
    except ValueError as error:
        raise ValueError(f"{name} = {row.get(name)!r:.60} {error}") from None


def _keep(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row.get(name) for name in names}


def _plain(files: Mapping[str, str], **fields: Check) -> Source:
    """A data set whose files hold the hub's own rows."""
    return Source(files, fields, _keep(*fields))


def _arc(row: Row) -> Row:
    """The test file holds choices as a list and the answer as an index; the hub has letters."""
    choices, labels = row["choices"], list("ABCDE")
    if "gold" in row:
        labels = labels[: len(_value(row, "choices", _texts))]
        answer = labels[_value(row, "gold", _one_of(*range(len(labels))))]
        served = {"text": choices, "label": labels}
    elif not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        raise ValueError(f"choices = {choices!r:.60} has no text and label")
    else:
        _texts(choices["label"], len(_texts(choices["text"])))
        answer, served = _value(row, "answerKey", _one_of(*choices["label"])), choices
    return {"id": row["id"], "question": row["question"], "choices": served, "answerKey": answer}


SOURCES: dict[str, Source] = {
    "truthfulqa/truthful_qa": _plain(
        {"validation": "truthfulqa_mc"},
        question=_text, mc1_targets=_targets, mc2_targets=_targets,
    ),
    "allenai/ai2_arc": Source(
        {"validation": "arc_challenge_val", "test": "arc_challenge_test"},
        {"id": _anything, "question": _text, "choices": _anything},
        _arc,
    ),
    "Rowan/hellaswag": _plain(
        {"validation": "hellaswag_val"},
        ind=_anything, activity_label=_text, ctx_a=_text, ctx_b=_text, ctx=_text,
        endings=_four_texts, source_id=_anything, split=_anything, split_type=_anything,
        label=_one_of("0", "1", "2", "3"),
    ),
    "allenai/winogrande": _plain(
        {"validation": "winogrande_xl_val"},
        sentence=_sentence, option1=_text, option2=_text, answer=_one_of("1", "2"),
    ),
    "baber/piqa": _plain(
        {"validation": "piqa_val"}, goal=_text, sol1=_text, sol2=_text, label=_one_of(0, 1)
    ),
    "cais/mmlu": Source(
        {"dev": "mmlu_dev", "validation": "mmlu_validation", "test": "mmlu_test"},
        {"question": _text, "subject": _text, "choices": _four_texts, "answer": _index_or_letter},
        _keep("question", "subject", "choices", "answer"),
        subject_field="subject",
    ),
    "ceval/ceval-exam": Source(
        {"dev": "ceval_dev", "val": "ceval_val"},
        {"subject": _text, "id": _anything, **dict.fromkeys(("question", *"ABCD"), _text),
         "answer": _one_of(*"ABCD")},
        _keep("id", "question", "A", "B", "C", "D", "answer"),
        subject_field="subject",
    ),
    "openai/openai_humaneval": _plain(
        {"test": "humaneval"},
        task_id=_text, prompt=_text, entry_point=_text, canonical_solution=_text, test=_text,
    ),
    "openai/gsm8k": _plain(
        {"train": "gsm8k_train", "test": "gsm8k_test"}, question=_text, answer=_solution
    ),
}  # fmt: skip


def local_rows(data_root: Path, dataset: str, config: str | None) -> dict[str, list[Row]]:
    """Every split of a data set that `data_root` has, as hub rows.

    Args:
        data_root: the folder of files described above.
        dataset: the hub's name, a key of SOURCES.
        config: the data set's configuration; the subject for MMLU and C-Eval.

    Raises:
        DataError: for an unknown data set, a missing file, a broken line, or a field that is
            missing or cannot be used.
    """
    if dataset not in SOURCES:
        raise DataError(
            f"data_root cannot serve data set {dataset!r}; it serves: {', '.join(SOURCES)}. Leave "
            "data_root unset to read it from the hub"
        )
    source = SOURCES[dataset]
    splits = {}
    for split, name in source.files.items():
        rows = read_rows(split_file(data_root, name), tuple(source.fields), source.checked)
        if source.subject_field is not None:
            rows = tuple(row for row in rows if row[source.subject_field] == config)
            if not rows:
                raise DataError(f"{name} in {data_root} has no rows for subject {config!r}")
        splits[split] = [source.convert(row) for row in rows]
    return splits


def check_data_root(data_root: Path, datasets: list[str]) -> None:
    """Raise one DataError that names every file missing from `data_root` for these data sets."""
    if not data_root.is_dir():
        raise DataError(
            f"data_root = {data_root} is not a folder; it should hold files such as "
            "gsm8k_test.jsonl.gz, or be left unset to read the data from the hub"
        )
    wanted = [name for d in datasets if d in SOURCES for name in SOURCES[d].files.values()]
    missing = [name for name in wanted if find_rows(data_root, name) is None]
    if missing:
        listed = ", ".join(f"{name}.jsonl.gz" for name in missing)
        raise DataError(
            f"data_root = {data_root} lacks {listed} (dllmquant ls task lists all files)"
        )


def split_file(data_root: Path, name: str) -> Path:
    """The file of a split, by its name without an ending (DataError: there is none)."""
    found = find_rows(data_root, name)
    if found is None:
        raise DataError(
            f"{data_root / name}.jsonl.gz is missing: point data_root at a folder that has it, or "
            "leave data_root unset to read the data from the hub"
        )
    return found
