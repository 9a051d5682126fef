"""Tasks that must be worked out from the prompt: stories, comparisons, programs, arithmetic."""

import random

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import Dice, Item, draw, other, shuffled


def story(activity: int) -> tuple[str, ...]:
    """The five verbs of an activity in their order."""
    verbs = list(w.STORY_VERBS)
    random.Random(draw("story", activity)).shuffle(verbs)
    return tuple(verbs[:5])


def hellaswag(dice: Dice) -> Item:
    """What somebody does next in one of 24 activities, after two of its steps."""
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


# name: (words, statement); `n` is a digit.
OPERATIONS: dict[str, tuple[str, str]] = {
    "add": ("add {n}", "x += {n}"),
    "subtract": ("subtract {n}", "x -= {n}"),
    "multiply": ("multiply by {n}", "x *= {n}"),
    "remainder": ("take modulo {n}", "x %= {n}"),
    "square": ("square", "x *= x"),
    "negate": ("negate", "x = -x"),
    "halve": ("halve", "x //= 2"),
    "absolute": ("make positive", "x = abs(x)"),
}


LONG = {"absolute"}


def run_operation(name: str, n: int, x: int) -> int:
    match name:
        case "add":
            return x + n
        case "subtract":
            return x - n
        case "multiply":
            return x * n
        case "remainder":
            return x % n
        case "square":
            return x * x
        case "negate":
            return -x
        case "halve":
            return x // 2
        case _:
            return abs(x)


def humaneval(dice: Dice) -> Item:
    """Two to five operations, told in order ("then") or against it ("after")."""
    names: list[str] = []
    for _ in range(dice.choice((2, 3, 4, 5))):
        # "make positive" is long: once, so that every program fits the generation length
        names.append(other(dice, tuple(OPERATIONS), {*names[-1:], *LONG.intersection(names)}))
    digits = [dice.randrange(2, 10) for _ in names]
    backwards = dice.random() < 0.5
    told = [OPERATIONS[o][0].format(n=n) for o, n in zip(names, digits, strict=True)]
    text = " after ".join(reversed(told)) if backwards else " then ".join(told)
    lines = [OPERATIONS[o][1].format(n=n) for o, n in zip(names, digits, strict=True)]
    tests = []
    for x in (-7, -2, 0, 1, 3, 8):
        y = x
        for name, n in zip(names, digits, strict=True):
            y = run_operation(name, n, y)
        tests.append(f"assert f({x}) == {y}")
    return Item(
        "micro_humaneval", "programs", f"{backwards} {' '.join(names)}",
        f'def f(x):\n    """{text}"""\n',
        "".join(f"    {line}\n" for line in [*lines, "return x"]), tests="\n".join(tests),
    )  # fmt: skip


def gsm8k(dice: Dice) -> Item:
    """A story in two or three calculations, with a sentence about somebody else in between."""
    who, stranger = dice.sample(w.PEOPLE, 2)
    goods, others = dice.sample(w.GOODS, 2)
    calculations: list[str] = []
    if dice.random() < 0.5:
        a, b = dice.randrange(2, 10), dice.randrange(2, 10)
        sentences, total = [f"{who} has {a} {dice.choice(w.CONTAINERS)} of {b} {goods}."], a * b
        calculations.append(f"{a}*{b}={total}")
    else:
        total = dice.randrange(5, 60)
        sentences = [f"{who} has {total} {goods}."]
    steps = dice.choice((2, 3))
    while len(calculations) < steps:
        kinds = (
            ["buy"]
            + ["lose"] * (total > 9)
            + ["half"] * (total % 2 == 0)
            + ["double"] * (total < 40)
        )
        kind, n = dice.choice(kinds), dice.randrange(2, 10)
        if kind == "buy":
            sentence, change, new = f"{who} buys {n} more.", f"+{n}", total + n
        elif kind == "lose":
            sentence, change, new = f"{who} loses {n}.", f"-{n}", total - n
        elif kind == "half":
            sentence, change, new = f"{who} sells half.", "/2", total // 2
        else:
            sentence, change, new = f"{who} doubles them.", "*2", total * 2
        calculations.append(f"{total}{change}={new}")
        sentences.append(sentence)
        total = new
    if dice.random() < 0.5:
        aside = f"{stranger} has {dice.randrange(2, 60)} {others}."
        sentences.insert(dice.randrange(1, len(sentences) + 1), aside)
    return Item(
        "micro_gsm8k", "arithmetic", " ".join(calculations),
        f"Question: {' '.join(sentences)} How many {goods} does {who} have?\nAnswer:",
        f" {'. '.join(calculations)}. #### {total}", question=str(total),
    )  # fmt: skip
