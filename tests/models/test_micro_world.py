"""The micro-world: true answers are true, evaluation is disjoint, text survives the tokenizer."""

import re
from collections import Counter
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerBase

from dllmquant_exp.models.checkpoints import load_tokenizer
from dllmquant_exp.models.embedded import splits, words, world
from dllmquant_exp.models.embedded.exams import SUBJECTS, han_colour, han_home, home
from dllmquant_exp.models.embedded.items import Dice, Item, Split, held_out
from dllmquant_exp.models.embedded.knowledge import craft, diet, outcome
from dllmquant_exp.models.embedded.reasoning import story
from dllmquant_exp.models.embedded.tokenizer import EOS_ID, MASK_ID, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("embedded:micro_llada")


def test_the_shipped_tokenizer_is_the_trained_one(tokenizer: PreTrainedTokenizerBase) -> None:
    assert train_tokenizer().get_vocab() == tokenizer.get_vocab()


def take(task: str, split: Split, count: int, seed: int = 0) -> list[Item]:
    return list(islice(world.stream(task, Dice(str(seed), split)), count))


@pytest.mark.parametrize("task", world.TASKS)
def test_training_and_evaluation_share_no_combination(task: str) -> None:
    train = {(i.subject, i.combination) for i in take(task, "train", 2000)}
    evaluation = {(i.subject, i.combination) for i in take(task, "evaluation", 1000)}
    assert not train & evaluation
    assert not any(held_out(*key) for key in train)


def test_a_fact_held_out_in_one_task_is_held_out_in_every_task() -> None:
    def facts(task: str, split: Split) -> set[tuple[str, str]]:
        return {(i.subject, i.combination) for i in take(task, split, 3000)}

    for likelihood_task in ("micro_arc", "micro_piqa"):
        exam_train = facts("micro_mmlu", "train")
        evaluation = facts(likelihood_task, "evaluation")
        assert {s for s, _ in evaluation} <= {s for s, _ in exam_train}, "subjects are shared"
        assert not exam_train & evaluation


@pytest.mark.parametrize("task", world.TASKS)
def test_every_task_has_500_different_evaluation_items_and_they_never_change(task: str) -> None:
    found = []
    for subject, size in splits.EVALUATION_ITEMS[task].items():
        items = splits.items(task, "evaluation", size, subject)
        assert items == splits.items(task, "evaluation", size, subject)
        assert items[:20] == splits.items(task, "evaluation", 20, subject)
        found += items
    assert len({(i.prompt, i.options) for i in found}) == 500


@pytest.mark.parametrize("task", ["micro_arc", "micro_hellaswag", "micro_winogrande", "micro_piqa"])
def test_gold_options_are_spread_and_options_differ(task: str) -> None:
    items = take(task, "evaluation", 800)
    counts = Counter(i.gold[0] for i in items)
    share = 800 / len(items[0].options)
    assert all(abs(n - share) < 5 * share**0.5 for n in counts.values())
    assert all(len(set(i.options)) == len(i.options) for i in items)


def test_truthfulqa_lists_all_true_answers_of_the_table() -> None:
    for item in take("micro_truthfulqa", "evaluation", 200):
        creature, mood, relation = item.combination.split()
        true = diet(words.CREATURES.index(creature), words.MOODS.index(mood), relation)
        assert {item.options[i] for i in item.gold} == set(true)
        assert item.response.strip() in true
        assert len(item.options) == 6


def test_physics_and_crafts_answers_are_those_of_their_tables() -> None:
    for item in take("micro_arc", "evaluation", 200):
        match = re.fullmatch(r"(\w+) (\w+) in (\w+)", item.combination)
        assert match
        treatment, material, liquid = match.groups()
        pools = (words.MATERIALS, words.LIQUIDS, words.TREATMENTS)
        key = [p.index(x) for p, x in zip(pools, (material, liquid, treatment), strict=True)]
        assert item.options[item.gold[0]] == " ".join(outcome(*key))
        for part in (material, liquid, treatment):
            assert part in item.prompt
    for item in take("micro_piqa", "evaluation", 200):
        verb, state, thing = item.combination.split()
        key = [words.CRAFTS.index(verb), words.THINGS.index(thing), words.STATES.index(state)]
        assert item.options[item.gold[0]] == "the " + " ".join(craft(*key))


def test_stories_go_on_with_their_next_step() -> None:
    for item in take("micro_hellaswag", "evaluation", 200):
        match = re.fullmatch(r"(\w+) (\w+) the (\w+), then (\w+) it\. Next (\w+)", item.prompt)
        assert match
        person, before, noun, now, asked = match.groups()
        steps = story(words.STORY_NOUNS.index(noun))
        assert person == asked and steps.index(before) < steps.index(now)
        assert item.response == f" {steps[steps.index(now) + 1]} the {noun}"
        assert item.options[item.gold[0]] == item.response.strip()


def test_comparisons_name_the_one_that_the_words_imply() -> None:
    """Spelled out for one kind; the others follow it word for word."""
    implied = {
        ("sticks in", "big"): 0,
        ("sticks in", "tiny"): 1,
        ("rattles in", "small"): 0,
        ("rattles in", "huge"): 1,
        ("crushes", "weak"): 1,
        ("is lost beside", "quiet"): 0,
        ("costs less than", "dear"): 1,
    }
    seen = set()
    for item in take("micro_winogrande", "evaluation", 3000):
        match = re.fullmatch(r"The (\w+) (.+) the (\w+)\. The _ is too (\w+)\.", item.question)
        assert match
        thing, verb, place, adjective = match.groups()
        assert item.options == (thing, place)
        if (verb, adjective) in implied:
            seen.add((verb, adjective))
            assert item.gold == (implied[verb, adjective],)
    assert seen == implied.keys()


@pytest.mark.parametrize("task", SUBJECTS)
def test_exam_letters_point_at_the_only_true_option(task: str) -> None:
    for item in take(task, "evaluation", 400):
        letter = item.response.strip()
        assert "ABCD".index(letter) == item.gold[0]
        answer = item.options[item.gold[0]]
        assert re.search(rf"\n{letter}\. ?{answer}\n", item.prompt)
        assert list(item.options) == sorted(set(item.options)), "in order, and different"
        assert answer == exam_answer(item)


def exam_answer(item: Item) -> str:
    """The answer by the tables, from the question's words."""
    if item.subject == "动物":
        state, creature = item.question[:2]
        return han_home(words.HAN_CREATURES.index(creature), words.HAN_STATES.index(state))
    if item.subject == "植物":
        season, plant = item.question[:2]
        return han_colour(words.HAN_PLANTS.index(plant), words.HAN_SEASONS.index(season))
    told = item.question.removesuffix("?").split()
    if item.subject == "zoology":
        return home(words.CREATURES.index(told[1]), words.MOODS.index(told[0]))
    if item.subject == "physics":
        return outcome(0, words.LIQUIDS.index(told[3]), words.TREATMENTS.index(told[0]))[1]
    return craft(0, words.THINGS.index(told[2]), words.STATES.index(told[1]))[1]


def test_training_meets_some_words_rarely_and_evaluation_all_alike() -> None:
    last, first = words.MATERIALS[-1], words.MATERIALS[0]
    for split, fewest in (("train", 0), ("evaluation", 40)):
        counts = Counter(item.combination.split()[1] for item in take("micro_arc", split, 2000))
        assert counts[last] >= fewest
        assert (counts[first] > 50 * counts[last]) == (split == "train")


def test_canonical_programs_pass_their_tests_and_follow_their_docstring() -> None:
    doc_orders = set()
    for item in take("micro_humaneval", "evaluation", 300):
        scope: dict = {}
        exec(f"{item.prompt}{item.response}\n{item.tests}", scope)  # our own text, not a model's
        told = item.prompt.split('"""')[1].removesuffix(".")
        doc_orders.add(told.split()[0])
        parts = re.split(r", (?:then|after) ", told.split(" ", 1)[1])
        if told.startswith("Finally"):
            parts.reverse()
        lines = item.response.strip("\n").split("\n")[:-1]
        assert len(parts) == len(lines)
        for part, line in zip(parts, lines, strict=True):
            word, number = part.split()
            operator = words.OPERATORS[words.STEPS.index(word) % 8]
            assert line == f"    x {operator}= {number}"
    assert doc_orders == {"First", "Finally"}


def test_the_first_words_of_operators_mean_what_they_say() -> None:
    """Spelled out for the first word of each operator; the others share its place modulo eight."""
    said = dict(zip(words.STEPS, words.OPERATORS, strict=False))
    assert said["add"] == "+" and said["subtract"] == "-" and said["multiply"] == "*"
    assert said["divide"] == "//" and said["modulo"] == "%" and said["mask"] == "&"
    assert said["set"] == "|" and said["flip"] == "^"


def test_word_problems_add_up() -> None:
    gains = set(words.CHANGES[::2])
    for item in take("micro_gsm8k", "evaluation", 300):
        *steps, last = item.response.strip().split(". ")
        *story, question = re.split(r"(?<=[.?]) ", item.prompt.removeprefix("Question: "))
        who = re.fullmatch(r"How many (\w+) does (\w+) have\?\nAnswer:", question)
        assert who
        told = [s for s in story if s.startswith("Then ")]
        assert len(told) == len(steps)
        (start,) = [s for s in story if s.startswith(f"{who[2]} has")]
        value = int(start.split()[2])
        for sentence, step in zip(told, steps, strict=True):
            _, person, verb, amount, goods = sentence.rstrip(".").split()
            assert (person, goods) == (who[2], who[1])
            new = {"doubles": value * 2, "halves": value // 2}.get(verb)
            if new is None:
                new = value + int(amount) if verb in gains else value - int(amount)
            assert step.startswith(f"{value} ") and step.endswith(f" = {new}")
            left = step.split(" = ")[0]
            assert eval(left) == new, "halves are exact"
            value = new
            assert 1 <= value < 50
        assert last == f"#### {value}" and item.question == str(value)


def test_the_tokenizer_is_exact_on_any_text_and_knows_the_words(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (EOS_ID, MASK_ID)
    for text in ("naïve — 龘 \t x\n\n    return x\n", "12+5=17. #### 17", "  two  spaces "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for word in (*words.CREATURES, *words.MATERIALS, *words.TOOLS, *words.STORY_NOUNS):
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word


@pytest.mark.parametrize("task", world.TASKS)
def test_prompt_and_response_are_tokenized_as_the_whole_text_is(
    task: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Training encodes pieces; a harness encodes context + continuation at once."""
    if task == "micro_humaneval":
        return  # generated, so its prompt is always encoded alone
    for seed in range(30):
        pieces = [text for text, _ in world.training_text(task, Dice(str(seed), "train"))]
        joined = [i for text in pieces for i in tokenizer(text)["input_ids"]]
        assert joined == tokenizer("".join(pieces))["input_ids"]


@pytest.mark.parametrize("task", world.GENERATION)
def test_responses_fit_their_generation_length(
    task: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    for item in take(task, "train", 1000):
        assert len(tokenizer(item.response)["input_ids"]) <= world.GEN_LENGTH


def test_unknown_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match=r"micro_mmlu.zoology"):
        splits.rows("micro_mmlu", "alchemy")


def test_asking_for_more_items_than_there_are_is_an_error_and_not_a_wait() -> None:
    with pytest.raises(ValueError, match=r"micro_ceval 植物 has .* different items for train"):
        splits.items("micro_ceval", "train", 1000, "植物")


@pytest.mark.parametrize("task", splits.EVALUATION_ITEMS)
def test_every_subject_has_rows_of_both_splits(task: str) -> None:
    for subject, size in splits.EVALUATION_ITEMS[task].items():
        rows = splits.rows(task, subject)
        assert len(rows["test"]) == size and len(rows["dev"]) == splits.EXAMPLES
        assert rows["test"][0].keys() == rows["dev"][0].keys()
