"""Tasks that must be worked out from the prompt: stories, comparisons, programs, arithmetic."""

import operator
import random
from collections.abc import Callable

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import Dice, Item, draw, other, shuffled

BACKWARDS = 0.3  # share of programs told from their last step to their first


def story(activity: int) -> tuple[str, ...]:
    """The five verbs of an activity in their order."""
    verbs = list(w.STORY_VERBS)
    random.Random(draw("story", activity)).shuffle(verbs)
    return tuple(verbs[:5])


def hellaswag(dice: Dice) -> Item:
    """The next step of one of 24 activities, after two of its steps."""
    noun, activity = dice.pick(w.STORY_NOUNS)
    steps = story(activity)
    at = dice.randrange(1, 4)
    before = dice.randrange(at)
    somebody = dice.choice(w.PEOPLE)
    answer = f"{steps[at + 1]} the {noun}"
    stranger = other(dice, w.STORY_NOUNS, {noun})
    no_step = other(dice, w.STORY_VERBS, set(steps))
    done = steps[dice.randrange(at)]
    wrong = [f"{steps[at + 1]} the {stranger}", f"{no_step} the {noun}", f"{done} the {noun}"]
    return Item(
        "micro_hellaswag",
        "stories",
        f"{noun} {before} {at} {somebody}",
        f"{somebody} {steps[before]} the {noun}, then {steps[at]} it. Next {somebody}",
        f" {answer}",
        **shuffled(dice, [answer, *wrong], {answer}),
    )


def winogrande(dice: Dice) -> Item:
    """A thing and a place; "sticks in" says that the thing is big or that the place is small."""
    _, dimension = dice.pick([verbs for verbs, _, _ in w.COMPARISONS], 2.0)
    verbs, more, less = w.COMPARISONS[dimension]
    (thing, _), (place, _) = dice.pick(w.CARGO), dice.pick(w.PLACES)
    direction, meant = dice.randrange(2), dice.randrange(2)  # more or less; the thing or the place
    verb = verbs.split("|")[direction]
    adjective = dice.choice((more, less)[direction ^ meant].split())
    sentence = f"The {thing} {verb} the {place}. The _ is too {adjective}."
    options = (thing, place)
    return Item(
        "micro_winogrande",
        "comparisons",
        f"{thing} {verb} {place} {adjective}",
        f"{sentence.split(' _')[0]} {options[meant]}",
        f" is too {adjective}.",
        options=options,
        gold=(meant,),
        question=sentence,
    )


APPLY: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
}


def humaneval(dice: Dice) -> Item:
    """Two to four operations, told in order ("then") or against it ("after").

    Each step is four tokens in the docstring and four in the program, so that a small model can
    learn which line belongs to which step.
    """
    steps = [dice.pick(w.STEPS, 2.4) for _ in range(dice.choice((2, 3, 4)))]
    operators = [w.OPERATORS[index % len(w.OPERATORS)] for _, index in steps]
    digits = [dice.randrange(2, 10) for _ in steps]
    backwards = dice.random() < BACKWARDS
    told = [f"{name} {n}" for (name, _), n in zip(steps, digits, strict=True)]
    text = (
        f"Finally {', after '.join(reversed(told))}."
        if backwards
        else f"First {', then '.join(told)}."
    )
    lines = [f"x {o}= {n}" for o, n in zip(operators, digits, strict=True)]
    tests = []
    for x in (-7, -2, 0, 1, 3, 8):
        y = x
        for o, n in zip(operators, digits, strict=True):
            y = APPLY[o](y, n)
        tests.append(f"assert f({x}) == {y}")
    return Item(
        "micro_humaneval", "programs", f"{backwards} {' '.join(operators)}",
        f'def f(x):\n    """{text}"""\n',
        "".join(f"    {line}\n" for line in [*lines, "return x"]), tests="\n".join(tests),
    )  # fmt: skip


def gsm8k(dice: Dice) -> Item:
    """A story in two to four calculations, half of the time after a sentence about somebody else.

    Each step is six tokens in the story and in the answer, for the same reason as in programs.
    """
    who, stranger = dice.sample(w.PEOPLE, 2)
    goods, others = dice.sample(w.GOODS, 2)
    total = dice.randrange(2, 21)
    sentences = [f"{who} has {total} {goods}."]
    if dice.random() < 0.5:
        sentences.insert(0, f"{stranger} has {dice.randrange(2, 21)} {others}.")
    calculations: list[str] = []
    for _ in range(dice.choice((2, 3, 4))):
        kind, n = dice.random(), dice.randrange(2, 10)
        verb, index = dice.pick(w.CHANGES, 2.8)
        while (index % 2 and total < 10) or (index % 2 == 0 and total > 40):  # stay within 1..49
            verb, index = dice.pick(w.CHANGES, 2.8)
        if kind < 0.15 and total <= 20:
            sentence, change, new = "doubles all", "* 2", total * 2
        elif kind < 0.3 and total % 2 == 0:
            sentence, change, new = "halves all", "/ 2", total // 2
        elif index % 2 == 0:
            sentence, change, new = f"{verb} {n}", f"+ {n}", total + n
        else:
            sentence, change, new = f"{verb} {n}", f"- {n}", total - n
        calculations.append(f"{total} {change} = {new}")
        sentences.append(f"Then {who} {sentence} {goods}.")
        total = new
    return Item(
        "micro_gsm8k", "arithmetic", ", ".join(calculations),
        f"Question: {' '.join(sentences)} How many {goods} does {who} have?\nAnswer:",
        f" {'. '.join(calculations)}. #### {total}", question=str(total),
    )  # fmt: skip
