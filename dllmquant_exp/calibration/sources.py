"""Sources of calibration texts and prompts: training splits only.

Embedded models calibrate on the micro-world's training combinations, the official ones on the
training files of three of the paper's data sets, in the rows of the hub: `data_root` holds them as
.jsonl or .jsonl.gz beside the evaluation files; without it the hub does.

Texts are disjoint from what is evaluated by construction, and checked once more by hash.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from dllmquant_exp.calibration.states import CalibrationError
from dllmquant_exp.models.embedded import splits, world
from dllmquant_exp.models.embedded.items import Dice
from dllmquant_exp.store.jsonl import find_rows, read_rows

Row = Mapping[str, Any]
DRAWS = 50  # texts drawn per text asked for, before a task counts as too small


@dataclass(frozen=True)
class CalibrationText:
    """One training item.

    prompt, response: what a model is given and what a good answer is
    items: the texts that must not be in an evaluation, as `disjoint` wants them
    """

    prompt: str
    response: str
    items: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.prompt + self.response


@dataclass(frozen=True)
class TrainingData:
    """A data set's training split.

    file: its name under `data_root`, without an ending; hub: data set and configuration
    evaluated: file and split of the items that the data set's task evaluates
    convert: a row -> prompt and response
    item: a row, of any split -> the text that identifies it
    """

    file: str
    hub: tuple[str, str | None]
    evaluated: tuple[str, str]
    fields: tuple[str, ...]
    convert: Callable[[Row], tuple[str, str]]
    item: Callable[[Row], str]

    def checked(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, which a text can be made of (ValueError: it cannot)."""
        try:
            self.convert(row)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"no text can be made of {row!r:.200} ({error!r})") from error
        return row


def _winogrande(row: Row) -> tuple[str, str]:
    """The sentence with its true option, split behind the option as in lm-eval's task."""
    before, after = str(row["sentence"]).split("_", 1)
    return before + str(row[f"option{row['answer']}"]), after


def _piqa(row: Row) -> tuple[str, str]:
    solution = row[f"sol{int(row['label']) + 1}"]
    return f"Question: {row['goal']}\nAnswer:", f" {solution}"


def _gsm8k(row: Row) -> tuple[str, str]:
    return f"Question: {row['question']}\nAnswer:", f" {row['answer']}"


OFFICIAL: dict[str, TrainingData] = {
    "winogrande": TrainingData(
        "winogrande_xl_train",
        ("allenai/winogrande", "winogrande_xl"),
        ("winogrande_xl_val", "validation"),
        ("sentence", "option1", "option2", "answer"),
        _winogrande,
        lambda row: str(row["sentence"]),
    ),
    "piqa": TrainingData(
        "piqa_train",
        ("baber/piqa", None),
        ("piqa_val", "validation"),
        ("goal", "sol1", "sol2", "label"),
        _piqa,
        lambda row: f"{row['goal']} {row['sol1']} {row['sol2']}",
    ),
    "gsm8k": TrainingData(
        "gsm8k_train",
        ("openai/gsm8k", "main"),
        ("gsm8k_test", "test"),
        ("question", "answer"),
        _gsm8k,
        lambda row: str(row["question"]),
    ),
}


TextSource = Callable[[Sequence[str], int], list[CalibrationText]]  # data sets, how many texts


def text_source(embedded: bool, data_root: Path | None, seed: int) -> TextSource:
    """Different training texts of named data sets, taking turns; none is an evaluation item.

    A smaller count gives the first of them. Asking raises CalibrationError or DataError where texts
    are missing, broken or too few.
    """

    def texts(names: Sequence[str], count: int) -> list[CalibrationText]:
        _check_known(names, embedded)
        streams = []
        for n, name in enumerate(names):
            share = len(range(n, count, len(names)))
            if embedded:
                streams.append(embedded_texts(name, share, seed=seed))
            else:
                streams.append(official_texts(name, share, seed=seed, data_root=data_root))
                disjoint(streams[-1], official_evaluation_items(name, data_root))
        found = [streams[i % len(names)][i // len(names)] for i in range(count)]
        if embedded:
            evaluated = map(embedded_evaluation_items, world.TASKS)
            disjoint(found, chain.from_iterable(evaluated))
        return found

    return texts


def embedded_texts(task: str, count: int, *, seed: int) -> list[CalibrationText]:
    """`count` different training texts of a task of the micro-world.

    Raises:
        CalibrationError: fewer different texts than asked for.
    """
    dice = Dice(f"calibration {seed} {task}", "train")
    found: dict[str, CalibrationText] = {}
    for _ in range(DRAWS * count):
        if len(found) == count:
            break
        text = _embedded_text(task, dice)
        found.setdefault(text.text, text)
    if len(found) < count:
        raise CalibrationError(
            f"{task} has {len(found)} different training texts in {DRAWS * count} draws, not "
            f"{count}; ask for fewer, or add tasks"
        )
    return list(found.values())


def _embedded_text(task: str, dice: Dice) -> CalibrationText:
    """Everything but the last response is the prompt; an exam's questions are items each."""
    pieces = [text for text, _ in world.training_text(task, dice)]
    body = pieces[1:] if task in world.SHOTS else pieces  # an exam begins with its title
    items = tuple(
        question.removeprefix("\n\n") + answer
        for question, answer in zip(body[::2], body[1::2], strict=True)
    )
    return CalibrationText("".join(pieces[:-1]), pieces[-1], items)


@cache
def embedded_evaluation_items(task: str) -> tuple[str, ...]:
    """All evaluation items of a task of the micro-world, as `disjoint` compares them."""
    return tuple(
        item.prompt + item.response
        for subject, count in splits.EVALUATION_ITEMS[task].items()
        for item in splits.items(task, "evaluation", count, subject)
    )


def official_texts(
    name: str, count: int, *, seed: int, data_root: Path | None
) -> list[CalibrationText]:
    """`count` items of a training split, in random order.

    Raises:
        CalibrationError: a missing file, or too few rows.
        DataError: a broken file.
    """
    data = OFFICIAL[name]
    rows = _rows(data, data.file, "train", data_root)
    if len(rows) < count:
        raise CalibrationError(f"{name} has {len(rows)} training rows, fewer than {count}")
    order = random.Random(f"calibration {seed} {name}").sample(range(len(rows)), len(rows))
    chosen = [rows[i] for i in order[:count]]
    return [CalibrationText(*data.convert(row), (data.item(row),)) for row in chosen]


def official_evaluation_items(name: str, data_root: Path | None) -> list[str]:
    """The evaluation items of a data set's task, as `disjoint` compares them.

    Raises:
        CalibrationError: a missing file.
        DataError: a broken one.
    """
    data = OFFICIAL[name]
    return [data.item(row) for row in _rows(data, *data.evaluated, data_root)]


def check_texts(
    names: Sequence[str], count: int, embedded: bool, data_root: Path | None, seed: int
) -> None:
    """Refuse data sets that cannot give `count` texts, as far as files on this disk tell.

    Raises:
        CalibrationError: no such data set, missing files, too few rows, or evaluated ones.
        DataError: a broken file.
    """
    if not embedded and data_root is not None:
        check_files(names, data_root)
    if count:
        _check_known(names, embedded)
        if not embedded and data_root is not None:
            text_source(embedded, data_root, seed)(names, count)


def _check_known(names: Sequence[str], embedded: bool) -> None:
    known = list(world.TASKS if embedded else OFFICIAL)
    unknown = ", ".join(name for name in names if name not in known)
    if unknown or not names:
        raise CalibrationError(
            f"no training data {unknown or 'given'} for calibration; there are: {', '.join(known)}"
        )


def check_files(names: Sequence[str], data_root: Path) -> None:
    """Raise one CalibrationError that names every file missing from `data_root` for these sets."""

    def missing(name: str) -> list[str]:
        files = (OFFICIAL[name].file, OFFICIAL[name].evaluated[0]) if name in OFFICIAL else ()
        return [f"{file}.jsonl.gz" for file in files if find_rows(data_root, file) is None]

    lacking = [file for name in names for file in missing(name)]
    there = [name for name in OFFICIAL if not missing(name)]
    texts = f"set model.calibration.texts=[{','.join(there)}], which is there" if there else ""
    advice = texts or "leave data_root unset to take them from the hub"
    if lacking:
        raise CalibrationError(
            f"data_root = {data_root} lacks {', '.join(lacking)}: calibrating on "
            f"{' and '.join(names)} needs the training split, and the evaluated one to be disjoint "
            f"from it; {advice}, or add the files (dllmquant ls task lists all of them)"
        )


def disjoint(texts: Iterable[CalibrationText], evaluation_items: Iterable[str]) -> None:
    """Check that no calibration text is an evaluation item, by hash.

    Case and white space do not count.

    Raises:
        CalibrationError: naming some that are.
    """
    evaluated = {_hash(item) for item in evaluation_items}
    shared = [item for text in texts for item in text.items if _hash(item) in evaluated]
    if shared:
        shown = "; ".join(repr(item[:80]) for item in shared[:3])
        raise CalibrationError(
            f"{len(shared)} calibration texts are evaluation items, for example {shown}: calibrate "
            "on a training split"
        )


def _hash(text: str) -> bytes:
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()


def _rows(data: TrainingData, file: str, split: str, data_root: Path | None) -> Sequence[Row]:
    """One split, from the file of that name or from the hub."""
    if data_root is None:
        return _hub_rows(data, file, split)
    path = find_rows(data_root, file)
    if path is None:
        raise CalibrationError(
            f"{data_root / file}.jsonl.gz is missing: calibration needs the training split, and "
            "the evaluated one to be disjoint from it, in the hub's fields "
            f"({', '.join(data.fields)}); put them there, or leave data_root unset to use the hub"
        )
    return read_rows(path, data.fields, data.checked)


def _hub_rows(data: TrainingData, file: str, split: str) -> Sequence[Row]:
    import datasets  # seconds to import, and not needed with data_root or an embedded model

    path, config = data.hub
    try:
        rows: Sequence[Row] = datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the hub client raises many kinds
        raise CalibrationError(
            f"the split {split} of {path} cannot be read from the hub ({error}); set data_root to "
            f"a folder with {file}.jsonl.gz"
        ) from error
    return rows
