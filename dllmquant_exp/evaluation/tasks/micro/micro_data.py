"""Data for the micro tasks' YAML files: lm-eval calls `load` with a file's dataset_kwargs."""

import datasets

from dllmquant_exp.evaluation.programs import score_program
from dllmquant_exp.evaluation.scoring import score_mc2
from dllmquant_exp.models.embedded import splits

__all__ = [
    "load",
    "score_mc2",
    "score_program",
    "winogrande_choices",
    "winogrande_target",
    "winogrande_text",
]


def load(task: str, subject: str = "", version: float = 1.0) -> datasets.DatasetDict:
    """All splits of one micro task, generated in memory.

    `version` is the task file's own, which lm-eval hands on; any other key is an error.
    """
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_list(rows)
            for name, rows in splits.rows(task, subject).items()
        }
    )


def winogrande_text(doc: dict) -> int:
    return int(doc["answer"]) - 1


def winogrande_choices(doc: dict) -> list[str]:
    before = doc["sentence"].split("_")[0]
    return [before + doc["option1"], before + doc["option2"]]


def winogrande_target(doc: dict) -> str:
    return doc["sentence"].split("_")[1].strip()
