"""The official evaluation splits from local files, in the schema that the hub serves.

`data_root` is a folder of gzipped JSON-lines files, one row per line (plain `.jsonl` works too):

    truthfulqa_mc  arc_challenge_{val,test}  hellaswag_val  winogrande_xl_val  piqa_val
    mmlu_{dev,validation,test}  ceval_{dev,val}  humaneval  gsm8k_{train,test}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dllmquant_exp.store.jsonl import DataError, Row, find_rows, read_rows

__all__ = ["DataError", "check_data_root", "local_rows"]


@dataclass(frozen=True)
class Source:
    """One hub data set as local files.

    files: split -> name of the file without its ending.
    fields: what every row must have.
    convert: row of the file -> row of the hub.
    subject_field: the field that says which of the data set's configurations a row belongs to.
    """

    files: Mapping[str, str]
    fields: tuple[str, ...]
    convert: Callable[[Row], Row]
    subject_field: str | None = None


def _keep(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row.get(name) for name in names}


def _arc(row: Row) -> Row:
    """The test file holds choices as a list and the answer as an index; the hub has letters."""
    if "gold" not in row:
        return _keep("id", "question", "choices", "answerKey")(row)
    labels = list("ABCDE")[: len(row["choices"])]
    return {
        "id": row["id"],
        "question": row["question"],
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["gold"]],
    }


HELLASWAG = (
    "ind",
    "activity_label",
    "ctx_a",
    "ctx_b",
    "ctx",
    "endings",
    "source_id",
    "split",
    "split_type",
    "label",
)
SOURCES: dict[str, Source] = {
    "truthfulqa/truthful_qa": Source(
        {"validation": "truthfulqa_mc"},
        ("question", "mc1_targets", "mc2_targets"),
        _keep("question", "mc1_targets", "mc2_targets"),
    ),
    "allenai/ai2_arc": Source(
        {"validation": "arc_challenge_val", "test": "arc_challenge_test"},
        ("id", "question", "choices"),
        _arc,
    ),
    "Rowan/hellaswag": Source({"validation": "hellaswag_val"}, HELLASWAG, _keep(*HELLASWAG)),
    "allenai/winogrande": Source(
        {"validation": "winogrande_xl_val"},
        ("sentence", "option1", "option2", "answer"),
        _keep("sentence", "option1", "option2", "answer"),
    ),
    "baber/piqa": Source(
        {"validation": "piqa_val"},
        ("goal", "sol1", "sol2", "label"),
        _keep("goal", "sol1", "sol2", "label"),
    ),
    "cais/mmlu": Source(
        {"dev": "mmlu_dev", "validation": "mmlu_validation", "test": "mmlu_test"},
        ("question", "subject", "choices", "answer"),
        _keep("question", "subject", "choices", "answer"),
        subject_field="subject",
    ),
    "ceval/ceval-exam": Source(
        {"dev": "ceval_dev", "val": "ceval_val"},
        ("subject", "id", "question", "A", "B", "C", "D", "answer"),
        _keep("id", "question", "A", "B", "C", "D", "answer"),
        subject_field="subject",
    ),
    "openai/openai_humaneval": Source(
        {"test": "humaneval"},
        ("task_id", "prompt", "entry_point", "canonical_solution", "test"),
        _keep("task_id", "prompt", "entry_point", "canonical_solution", "test"),
    ),
    "openai/gsm8k": Source(
        {"train": "gsm8k_train", "test": "gsm8k_test"},
        ("question", "answer"),
        _keep("question", "answer"),
    ),
}


def local_rows(data_root: Path, dataset: str, config: str | None) -> dict[str, list[Row]]:
    """Every split of a data set that `data_root` has, as hub rows.

    Args:
        data_root: the folder of files described above.
        dataset: the hub's name, a key of SOURCES.
        config: the data set's configuration; the subject for MMLU and C-Eval.

    Raises:
        DataError: for an unknown data set, a missing file, a broken line or a missing field.
    """
    if dataset not in SOURCES:
        raise DataError(
            f"data_root cannot serve data set {dataset!r}; it serves: {', '.join(SOURCES)}. Leave "
            "data_root unset to read it from the hub"
        )
    source = SOURCES[dataset]
    splits = {}
    for split, name in source.files.items():
        rows = read_rows(_find(data_root, name), source.fields)
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


def _find(data_root: Path, name: str) -> Path:
    found = find_rows(data_root, name)
    if found is None:
        raise DataError(
            f"{data_root / name}.jsonl.gz is missing: point data_root at a folder that has it, or "
            "leave data_root unset to read the data from the hub"
        )
    return found
