"""The micro-world's items as data sets in the fields of the tasks that they mirror."""

import re
from collections.abc import Callable
from itertools import islice

from dllmquant_exp.models.embedded import words, world
from dllmquant_exp.models.embedded.items import LETTERS, Dice, Item, Split

# Evaluation items of each subject; 500 in every task.
EVALUATION_ITEMS: dict[str, dict[str, int]] = {
    task: {"": 500} for task in world.TASKS if task not in world.SHOTS
} | {
    "micro_mmlu": {"zoology": 150, "physics": 175, "crafts": 175},
    "micro_ceval": {"动物": 430, "植物": 70},
}
# Two tasks would be close to their ceiling on words drawn evenly, so they are asked with the words
# that training meets least: the rarer half of the places, and programs with two of the eight rarest
# names of steps. Chosen from the words that the full-precision model failed on.
RARE_PLACES, RARE_STEPS = frozenset(words.PLACES[6:]), frozenset(words.STEPS[40:])
EXAMPLES = 8  # training items that may precede a question of an exam
DRAWS = 50  # draws per item asked for, before the micro-world is found too small


def truthfulqa(item: Item) -> dict:
    labels = [int(i in item.gold) for i in range(len(item.options))]
    targets = {"choices": list(item.options), "labels": labels}
    return {"question": item.prompt, "mc2_targets": targets}


def arc(item: Item) -> dict:
    choices = {"text": list(item.options), "label": list(LETTERS)}
    return {"question": item.prompt, "choices": choices, "answerKey": LETTERS[item.gold[0]]}


def hellaswag(item: Item) -> dict:
    return {"query": item.prompt, "choices": list(item.options), "label": item.gold[0]}


def winogrande(item: Item) -> dict:
    option1, option2 = item.options
    answer = str(item.gold[0] + 1)
    return {"sentence": item.question, "option1": option1, "option2": option2, "answer": answer}


def piqa(item: Item) -> dict:
    sol1, sol2 = item.options
    return {"goal": item.prompt, "sol1": sol1, "sol2": sol2, "label": item.gold[0]}


def mmlu(item: Item) -> dict:
    return {
        "question": item.question,
        "subject": item.subject,
        "choices": list(item.options),
        "answer": item.gold[0],
    }


def ceval(item: Item) -> dict:
    options = dict(zip(LETTERS, item.options, strict=True))
    return {"question": item.question, **options, "answer": LETTERS[item.gold[0]]}


def humaneval(item: Item) -> dict:
    assertions = item.tests.replace("assert f(", "    assert candidate(")
    return {
        "prompt": item.prompt,
        "canonical_solution": item.response,
        "test": f"def check(candidate):\n{assertions}\n",
        "entry_point": "f",
    }


def gsm8k(item: Item) -> dict:
    question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
    return {"question": question, "answer": item.response.strip()}


ROWS: dict[str, Callable[[Item], dict]] = {
    "micro_truthfulqa": truthfulqa,
    "micro_arc": arc,
    "micro_hellaswag": hellaswag,
    "micro_winogrande": winogrande,
    "micro_piqa": piqa,
    "micro_mmlu": mmlu,
    "micro_ceval": ceval,
    "micro_humaneval": humaneval,
    "micro_gsm8k": gsm8k,
}


def is_asked(item: Item) -> bool:
    """Whether evaluation uses an item that its split allows."""
    if item.task == "micro_winogrande":
        return item.options[1] in RARE_PLACES
    if item.task == "micro_humaneval":
        told = re.findall(r"[a-z]+", item.prompt.split('"""')[1])
        return sum(word in RARE_STEPS for word in told) >= 2
    return True


def items(task: str, split: Split, count: int, subject: str = "") -> list[Item]:
    """`count` different items of a split, the same ones at every call.

    Raises:
        ValueError: the split has fewer.
    """
    dice = Dice(f"{split} {task} {subject}", split)
    found: dict[tuple, Item] = {}
    for item in islice(world.stream(task, dice, subject or None), DRAWS * count):
        if split == "train" or is_asked(item):
            found.setdefault((item.prompt, item.options), item)
        if len(found) == count:
            return list(found.values())
    name = f"{task} {subject}".strip()
    raise ValueError(f"{name} has {len(found)} different items for {split}, not {count}")


def rows(task: str, subject: str = "") -> dict[str, list[dict]]:
    """The splits of a task (of one subject of an exam) as lists of rows.

    `test`: held-out combinations; `dev`: training combinations, for examples before a question.

    Raises:
        ValueError: no such task or subject.
    """
    sizes = EVALUATION_ITEMS.get(task, {})
    if subject not in sizes:
        known = ", ".join(f"{t}/{s}" if s else t for t, n in EVALUATION_ITEMS.items() for s in n)
        raise ValueError(f"no micro-world task {task!r}, subject {subject!r}; there are: {known}")
    row = ROWS[task]
    return {
        "dev": [row(item) for item in items(task, "train", EXAMPLES, subject)],
        "test": [row(item) for item in items(task, "evaluation", sizes[subject], subject)],
    }
