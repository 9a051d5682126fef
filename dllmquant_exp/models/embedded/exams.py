"""Lettered exams of the micro-world, in English and in Chinese characters."""

import random

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import LETTERS, Item, Options, draw, pick, shuffled
from dllmquant_exp.models.embedded.knowledge import craft, diet, outcome

SUBJECTS = {
    "micro_mmlu": ("zoology", "physics", "crafts", "arithmetic"),
    "micro_ceval": ("动物", "植物", "数学"),
}


def han_fact(creature: int, state: int, relation: str) -> str:
    pool = w.HAN_RELATIONS[relation]
    return pool[draw("han", creature % 6, state % 4, relation) % len(pool)]


def han_colour(plant: int, season: int) -> str:
    return w.HAN_COLOURS[draw("colour", plant % 4, season) % len(w.HAN_COLOURS)]


def han_number(n: int) -> str:
    tens = ("", "十", "二十")[n // 10]
    return tens + (w.HAN_DIGITS[n % 10] if n % 10 or not tens else "")


def lettered(rng: random.Random, true: str, pool: tuple[str, ...], truths: set[str]) -> Options:
    """Four options of which exactly one is true."""
    wrong = rng.sample([word for word in pool if word not in truths], 3)
    return shuffled(rng, [true, *wrong], {true})


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


def mmlu(rng: random.Random, subject: str | None = None) -> Item:
    subject = subject or rng.choice(SUBJECTS["micro_mmlu"])
    if subject == "zoology":
        (creature, c), (mood, m) = pick(rng, w.CREATURES), pick(rng, w.MOODS)
        relation = rng.choice(tuple(w.RELATIONS))
        true = diet(c, m, relation)
        answers = lettered(rng, rng.choice(true), w.RELATIONS[relation], set(true))
        combination, question = f"{creature} {mood} {relation}", f"{mood} {creature} {relation}?"
    elif subject == "physics":
        (material, i), (liquid, j), (treatment, t) = (
            pick(rng, pool) for pool in (w.MATERIALS, w.LIQUIDS, w.TREATMENTS)
        )
        verb, _ = outcome(i, j, t)
        answers = lettered(rng, verb, w.OUTCOMES, {verb})
        combination = f"{material} {liquid} {treatment}"
        question = f"{treatment} {material} in {liquid}?"
    elif subject == "crafts":
        (verb, v), (thing, t), (state, s) = (pick(rng, p) for p in (w.CRAFTS, w.THINGS, w.STATES))
        tool, _ = craft(v, t, s)
        answers = lettered(rng, tool, w.TOOLS, {tool})
        combination, question = f"{verb} {thing} {state}", f"{verb} {state} {thing}?"
    else:
        a, b, c = (rng.randrange(1, 10) for _ in range(3))
        total = a + b + c
        near = tuple(str(total + d) for d in (-3, -2, -1, 1, 2, 3) if total + d > 0)
        answers = lettered(rng, str(total), near, {str(total)})
        combination, question = f"{a} {b} {c}", f"{a}+{b}+{c}?"
    return exam_item("micro_mmlu", subject, combination, question, answers)


def ceval(rng: random.Random, subject: str | None = None) -> Item:
    subject = subject or rng.choice(SUBJECTS["micro_ceval"])
    if subject == "动物":
        (creature, c), (state, s) = pick(rng, w.HAN_CREATURES), pick(rng, w.HAN_STATES)
        relation = rng.choice(tuple(w.HAN_RELATIONS))
        true = han_fact(c, s, relation)
        answers = lettered(rng, true, w.HAN_RELATIONS[relation], {true})
        combination, question = f"{state}{creature}{relation}", f"{state}{creature}{relation}什么？"
    elif subject == "植物":
        (plant, p), (season, s) = pick(rng, w.HAN_PLANTS), pick(rng, w.HAN_SEASONS)
        true = han_colour(p, s)
        answers = lettered(rng, true, w.HAN_COLOURS, {true})
        combination, question = f"{season}{plant}", f"{season}{plant}什么色？"
    else:
        a, b, c = (rng.randrange(1, 9) for _ in range(3))
        total = a + b + c
        numerals = tuple(han_number(n) for n in range(max(1, total - 3), total + 4))
        answers = lettered(rng, han_number(total), numerals, {han_number(total)})
        digits = w.HAN_DIGITS
        combination = question = f"{digits[a]}加{digits[b]}加{digits[c]}？"
    return exam_item("micro_ceval", subject, combination, question, answers)
