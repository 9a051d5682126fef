"""The micro-world: a generated universe whose nine tasks mirror the paper's nine.

Every item is a **combination** (a creature, a mood and a relation; a sequence of operations; ...).
A fixed fifth of all combinations is held out by a hash: training draws from the rest, evaluation
from the held-out fifth only, so an evaluation item is never a rewording of a training item. The
answer follows from the classes of its words through fixed tables ("all wolves, lions, ... are one
family"), so held-out combinations can be inferred, and there is no label noise.

    combination --table--> true answer --+--> prompt, options, gold
                  distractors that are true of something near --+

| task             | mirrors        | an item asks for                         | answer           |
|------------------|----------------|------------------------------------------|------------------|
| micro_truthfulqa | TruthfulQA-MC2 | which of six are true (three are)        | mass on the true |
| micro_arc        | ARC-Challenge  | what happens to a material in a liquid   | 1 of 4           |
| micro_hellaswag  | HellaSwag      | the next step of an activity             | 1 of 4           |
| micro_winogrande | WinoGrande     | which of two things is meant              | 1 of 2           |
| micro_piqa       | PIQA           | which tool and manner for a craft        | 1 of 2           |
| micro_mmlu       | MMLU           | a lettered question, two examples before | letter           |
| micro_ceval      | C-Eval         | the same in Chinese characters           | letter           |
| micro_humaneval  | HumanEval      | a short function from its docstring      | runs its tests   |
| micro_gsm8k      | GSM8K          | a word problem in two or three steps     | number after #### |
"""

from collections.abc import Callable, Iterator
from itertools import islice

from dllmquant_exp.models.embedded.exams import SUBJECTS, ceval, mmlu
from dllmquant_exp.models.embedded.items import Dice, Item, held_out
from dllmquant_exp.models.embedded.knowledge import arc, piqa, truthfulqa
from dllmquant_exp.models.embedded.reasoning import gsm8k, hellaswag, humaneval, winogrande

TASKS: dict[str, Callable[..., Item]] = {
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
GENERATION = ("micro_humaneval", "micro_gsm8k")
GEN_LENGTH = 32  # response tokens of the generation tasks, in training as in evaluation
SHOTS = {"micro_mmlu": 2, "micro_ceval": 2}


def stream(task: str, dice: Dice, subject: str | None = None) -> Iterator[Item]:
    """Items without end of the split that the dice are for.

    `train` never yields a held-out combination, `evaluation` nothing else.
    """
    make = TASKS[task]
    while True:
        item = make(dice, subject) if subject else make(dice)
        if held_out(item.subject, item.combination) == (dice.split == "evaluation"):
            yield item


def exam_title(task: str, subject: str) -> str:
    return f"Exam: {subject}\n\n" if task == "micro_mmlu" else f"考试：{subject}\n\n"


def training_text(task: str, dice: Dice) -> list[tuple[str, bool]]:
    """A training sequence as pieces (text, is it response).

    A lettered exam is a title and questions of one subject, where every letter is response.
    """
    if task not in SHOTS:
        item = next(stream(task, dice))
        return [(item.prompt, False), (item.response, True)]
    subject = dice.choice(SUBJECTS[task])
    items = islice(stream(task, dice, subject), SHOTS[task] + 1)
    pieces = [(exam_title(task, subject), False)]
    for shot, item in enumerate(items):
        pieces += [("\n\n" * (shot > 0) + item.prompt, False), (item.response, True)]
    return pieces
