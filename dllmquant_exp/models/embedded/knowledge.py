"""Tasks that ask what is true in the micro-world: fixed tables over classes of words."""

import random

from dllmquant_exp.models.embedded import words as w
from dllmquant_exp.models.embedded.items import Dice, Item, draw, other, shuffled


def diet(creature: int, mood: int, relation: str) -> tuple[str, ...]:
    """The three true answers for a creature's family in a mood's class."""
    pool = list(w.RELATIONS[relation])
    random.Random(draw("diet", creature % 6, mood % 3, relation)).shuffle(pool)
    return tuple(pool[:3])


def outcome(material: int, liquid: int, treatment: int) -> tuple[str, str]:
    verb = w.OUTCOMES[draw("verb", material % 6, liquid % 5) % len(w.OUTCOMES)]
    adverb = w.ADVERBS[draw("adverb", liquid % 5, treatment % 4) % len(w.ADVERBS)]
    return verb, adverb


def craft(verb: int, thing: int, state: int) -> tuple[str, str]:
    tool = w.TOOLS[draw("tool", verb, thing % 6) % len(w.TOOLS)]
    manner = w.MANNERS[draw("manner", thing % 6, state % 3) % len(w.MANNERS)]
    return tool, manner


def truthfulqa(dice: Dice) -> Item:
    (creature, c), (mood, m) = dice.pick(w.CREATURES, 2.3), dice.pick(w.MOODS, 2.3)
    relation = dice.choice(tuple(w.RELATIONS))
    true = diet(c, m, relation)
    # Misconceptions: what the same family does in its other moods, then anything else.
    near = {a for mood_class in range(3) for a in diet(c, mood_class, relation)} - set(true)
    rest = [a for a in w.RELATIONS[relation] if a not in near and a not in true]
    false = [*dice.sample(sorted(near), len(near)), *dice.sample(rest, len(rest))][:3]
    return Item(
        "micro_truthfulqa", "zoology", f"{creature} {mood} {relation}",
        f"Question: What does a {mood} {creature} {relation}? Answer:", f" {dice.choice(true)}",
        **shuffled(dice, [*true, *false], set(true)),
    )  # fmt: skip


def arc(dice: Dice) -> Item:
    (material, m), (liquid, i), (treatment, t) = (
        dice.pick(pool, 2.9) for pool in (w.MATERIALS, w.LIQUIDS, w.TREATMENTS)
    )
    verb, adverb = outcome(m, i, t)
    no_verb, no_adverb = other(dice, w.OUTCOMES, {verb}), other(dice, w.ADVERBS, {adverb})
    answer = f"{verb} {adverb}"
    wrong = [f"{no_verb} {adverb}", f"{verb} {no_adverb}", f"{no_verb} {no_adverb}"]
    return Item(
        "micro_arc", "physics", f"{treatment} {material} in {liquid}",
        f"A {treatment} {material} {dice.choice(w.OBJECTS)} is put in {liquid}. It will",
        f" {answer}", **shuffled(dice, [answer, *wrong], {answer}),
    )  # fmt: skip


def piqa(dice: Dice) -> Item:
    (verb, v), (thing, t), (state, s) = (dice.pick(p, 3.1) for p in (w.CRAFTS, w.THINGS, w.STATES))
    tool, manner = craft(v, t, s)
    if dice.random() < 0.5:
        wrong = f"the {other(dice, w.TOOLS, {tool})} {manner}"
    else:
        wrong = f"the {tool} {other(dice, w.MANNERS, {manner})}"
    answer = f"the {tool} {manner}"
    return Item(
        "micro_piqa", "crafts", f"{verb} {state} {thing}",
        f"To {verb} the {state} {thing}, use", f" {answer}",
        **shuffled(dice, [answer, wrong], {answer}),
    )  # fmt: skip
