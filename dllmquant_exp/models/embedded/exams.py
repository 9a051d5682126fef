"""Lettered exams of the micro-world, in English and in Chinese characters.

The options of a question are four of its subject's six answers, in alphabetical order, as many
exams list them: so knowing the answer already says something about its letter, which a model of
this size needs in order to begin learning what letters mean.
"""

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import LETTERS, Dice, Item, draw
from dllmquant_exp.models.embedded.knowledge import craft, outcome

SUBJECTS = {"micro_mmlu": ("zoology", "physics", "crafts"), "micro_ceval": ("动物", "植物")}


def home(creature: int, mood: int) -> str:
    return w.HOMES[draw("home", creature % 6, mood % 3) % len(w.HOMES)]


def han_home(creature: int, state: int) -> str:
    return w.HAN_HOMES[draw("han", creature % 6, state % 3) % len(w.HAN_HOMES)]


def han_colour(plant: int, season: int) -> str:
    return w.HAN_COLOURS[draw("colour", plant % 4, season) % len(w.HAN_COLOURS)]


def lettered(
    dice: Dice, task: str, subject: str, question: str, true: str, pool: tuple[str, ...]
) -> Item:
    """A question with four options of a pool, of which exactly one is true."""
    wrong = dice.sample([word for word in pool if word != true], 3)
    options = tuple(sorted([true, *wrong]))
    gold = options.index(true)
    chinese = task == "micro_ceval"
    mark = "." if chinese else ". "
    listed = "".join(f"\n{x}{mark}{o}" for x, o in zip(LETTERS, options, strict=True))
    return Item(
        task=task,
        subject=subject,
        combination=question.removesuffix("?").removesuffix("？"),
        prompt=f"问：{question}{listed}\n答案：" if chinese else f"{question}{listed}\nAnswer:",
        response=LETTERS[gold] if chinese else f" {LETTERS[gold]}",
        options=options,
        gold=(gold,),
        question=question,
    )


def mmlu(dice: Dice, subject: str | None = None) -> Item:
    """zoology: where a creature in a mood lives; physics: how something happens; crafts: how."""
    subject = subject or dice.choice(SUBJECTS["micro_mmlu"])
    if subject == "zoology":
        (creature, c), (mood, m) = dice.pick(w.CREATURES), dice.pick(w.MOODS)
        question, true, pool = f"{mood} {creature}?", home(c, m), w.HOMES
    elif subject == "physics":
        (liquid, i), (treatment, t) = dice.pick(w.LIQUIDS), dice.pick(w.TREATMENTS)
        material, _ = dice.pick(w.MATERIALS)
        question, true = f"{treatment} {material} in {liquid}?", outcome(0, i, t)[1]
        pool = w.ADVERBS
    else:
        (thing, t), (state, s) = dice.pick(w.THINGS), dice.pick(w.STATES)
        verb, _ = dice.pick(w.CRAFTS)
        question, true, pool = f"{verb} {state} {thing}?", craft(0, t, s)[1], w.MANNERS
    return lettered(dice, "micro_mmlu", subject, question, true, pool)


def ceval(dice: Dice, subject: str | None = None) -> Item:
    """动物: where an animal lives; 植物: the colour of a plant."""
    subject = subject or dice.choice(SUBJECTS["micro_ceval"])
    if subject == "动物":
        (creature, c), (state, s) = dice.pick(w.HAN_CREATURES), dice.pick(w.HAN_STATES)
        question, true, pool = f"{state}{creature}住什么？", han_home(c, s), w.HAN_HOMES
    else:
        (plant, p), (season, s) = dice.pick(w.HAN_PLANTS), dice.pick(w.HAN_SEASONS)
        question, true, pool = f"{season}{plant}什么色？", han_colour(p, s), w.HAN_COLOURS
    return lettered(dice, "micro_ceval", subject, question, true, pool)
