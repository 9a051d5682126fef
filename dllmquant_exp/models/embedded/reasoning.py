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
    """Two interleaved stories; the ending continues the story of the person named last."""
    _, a = dice.pick(w.STORY_NOUNS)
    _, b = dice.pick([noun for noun in w.STORY_NOUNS if noun != w.STORY_NOUNS[a]])
    b += b >= a  # back to an index of the whole list
    at_a, at_b = dice.randrange(4), dice.randrange(4)
    first, second = dice.sample(w.PEOPLE, 2)

    def step(activity: int, at: int) -> str:
        return f"{story(activity)[at]} the {w.STORY_NOUNS[activity]}"

    asked_a = dice.random() < 0.5
    (own, at), (foreign, at_foreign) = ((a, at_a), (b, at_b)) if asked_a else ((b, at_b), (a, at_a))
    answer = step(own, at + 1)
    skip = dice.choice([i for i in range(5) if i not in (at, at + 1)])
    wrong = [step(foreign, at_foreign + 1), step(own, skip), step(own, at)]
    return Item(
        "micro_hellaswag", "stories", f"{a} {at_a} {b} {at_b}",
        f"{first} {step(a, at_a)}. {second} {step(b, at_b)}. Then {first if asked_a else second}",
        f" {answer}", **shuffled(dice, [answer, *wrong], {answer}),
    )  # fmt: skip


def winogrande(dice: Dice) -> Item:
    _, dimension = dice.pick([names for names, _, _ in w.COMPARISONS], 2.0)
    comparatives, more, less = w.COMPARISONS[dimension]
    pole, outcome_pole = dice.randrange(2), dice.randrange(2)
    word = dice.choice(comparatives.split("|")[pole].split())
    ending = dice.choice((more, less)[outcome_pole].split("/"))
    pair = dice.sample(w.PEOPLE, 2)
    gold = 0 if pole == outcome_pole else 1  # the first is what the word says, the second is not
    connector = dice.choice((", so", ". That is why"))
    sentence = f"{pair[0]} is {word} than {pair[1]}{connector} _ {ending}."
    return Item(
        "micro_winogrande", "comparisons", f"{word} {ending} {connector}",
        f"{sentence.split(' _')[0]} {pair[gold]}", f" {ending}.",
        options=tuple(pair), gold=(gold,), question=sentence,
    )  # fmt: skip


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
