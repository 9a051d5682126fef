"""Lettered exams of the micro-world, in English and in Chinese characters."""

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import LETTERS, Dice, Item, Options, draw, shuffled
from dllmquant_exp.models.embedded.knowledge import craft, diet, outcome

SUBJECTS = {
    "micro_mmlu": ("zoology", "physics", "crafts", "arithmetic", "reading"),
    "micro_ceval": ("动物", "植物", "数学", "阅读"),
}


def han_fact(creature: int, state: int, relation: str) -> str:
    pool = w.HAN_RELATIONS[relation]
    return pool[draw("han", creature % 4, state % 3, relation) % len(pool)]


def han_colour(plant: int, season: int) -> str:
    return w.HAN_COLOURS[draw("colour", plant % 4, season) % len(w.HAN_COLOURS)]


def han_number(n: int) -> str:
    tens = ("", "十", "二十")[n // 10]
    return tens + (w.HAN_DIGITS[n % 10] if n % 10 or not tens else "")


def lettered(dice: Dice, true: str, pool: tuple[str, ...], truths: set[str]) -> Options:
    """Four options of which exactly one is true."""
    wrong = dice.sample([word for word in pool if word not in truths], 3)
    return shuffled(dice, [true, *wrong], {true})


def exam_item(task: str, subject: str, combination: str, question: str, answers: Options) -> Item:
    letter = LETTERS[answers["gold"][0]]
    chinese = task == "micro_ceval"
    mark = "." if chinese else ". "
    listed = "".join(f"\n{x}{mark}{o}" for x, o in zip(LETTERS, answers["options"], strict=True))
    prompt = f"问：{question}{listed}\n答案：" if chinese else f"{question}{listed}\nAnswer:"
    return Item(
        task, subject, combination, prompt, letter if chinese else f" {letter}",
        options=answers["options"], gold=answers["gold"], question=question,
    )  # fmt: skip


def mmlu(dice: Dice, subject: str | None = None) -> Item:
    subject = subject or dice.choice(SUBJECTS["micro_mmlu"])
    if subject == "zoology":
        (creature, c), (mood, m) = dice.pick(w.CREATURES, 1.0), dice.pick(w.MOODS, 1.0)
        relation = dice.choice(tuple(w.RELATIONS))
        true = diet(c, m, relation)
        answers = lettered(dice, dice.choice(true), w.RELATIONS[relation], set(true))
        combination, question = f"{creature} {mood} {relation}", f"{mood} {creature} {relation}?"
    elif subject == "physics":
        (material, i), (liquid, j), (treatment, t) = (
            dice.pick(pool) for pool in (w.MATERIALS, w.LIQUIDS, w.TREATMENTS)
        )
        verb, _ = outcome(i, j, t)
        answers = lettered(dice, verb, w.OUTCOMES, {verb})
        combination = f"{material} {liquid} {treatment}"
        question = f"{treatment} {material} in {liquid}?"
    elif subject == "crafts":
        (verb, v), (thing, t), (state, s) = (dice.pick(p) for p in (w.CRAFTS, w.THINGS, w.STATES))
        tool, _ = craft(v, t, s)
        answers = lettered(dice, tool, w.TOOLS, {tool})
        combination, question = f"{verb} {thing} {state}", f"{verb} {state} {thing}?"
    elif subject == "reading":
        (one, other_one), (x, y) = dice.sample(w.PEOPLE, 2), dice.sample(w.GOODS, 2)
        owner, good = dice.choice([(one, x), (other_one, y)])
        answers = lettered(dice, good, w.GOODS, {good})
        combination = f"{one} {x} {other_one} {y} {owner}"
        question = f"{one} has {x}, {other_one} has {y}. {owner} has?"
    else:
        a, b, c = (dice.randrange(1, 10) for _ in range(3))
        total = a + b + c
        near = tuple(str(total + d) for d in (-3, -2, -1, 1, 2, 3) if total + d > 0)
        answers = lettered(dice, str(total), near, {str(total)})
        combination, question = f"{a} {b} {c}", f"{a}+{b}+{c}?"
    return exam_item("micro_mmlu", subject, combination, question, answers)


def ceval(dice: Dice, subject: str | None = None) -> Item:
    subject = subject or dice.choice(SUBJECTS["micro_ceval"])
    if subject == "动物":
        (creature, c), (state, s) = dice.pick(w.HAN_CREATURES, 1.0), dice.pick(w.HAN_STATES, 1.0)
        relation = dice.choice(tuple(w.HAN_RELATIONS))
        true = han_fact(c, s, relation)
        answers = lettered(dice, true, w.HAN_RELATIONS[relation], {true})
        combination, question = f"{state}{creature}{relation}", f"{state}{creature}{relation}什么？"
    elif subject == "植物":
        (plant, p), (season, s) = dice.pick(w.HAN_PLANTS), dice.pick(w.HAN_SEASONS)
        true = han_colour(p, s)
        answers = lettered(dice, true, w.HAN_COLOURS, {true})
        combination, question = f"{season}{plant}", f"{season}{plant}什么色？"
    elif subject == "阅读":
        one, other_one = dice.sample(w.HAN_CREATURES, 2)
        pool = w.HAN_RELATIONS["爱"]
        x, y = dice.sample(pool, 2)
        asked, true = dice.choice([(one, x), (other_one, y)])
        answers = lettered(dice, true, pool, {true})
        combination = question = f"{one}爱{x}，{other_one}爱{y}。{asked}爱什么？"
    else:
        a, b, c = (dice.randrange(1, 9) for _ in range(3))
        total = a + b + c
        numerals = tuple(han_number(n) for n in range(max(1, total - 3), total + 4))
        answers = lettered(dice, han_number(total), numerals, {han_number(total)})
        digits = w.HAN_DIGITS
        combination = question = f"{digits[a]}加{digits[b]}加{digits[c]}？"
    return exam_item("micro_ceval", subject, combination, question, answers)
