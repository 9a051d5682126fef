"""Scores of single items against closed forms and lm-eval's own code."""

import math
from typing import Any

import pytest
from datasets import Dataset

from dllmquant_exp.evaluation.scoring import (
    NO_ANSWER,
    extract_letter,
    extract_letters,
    first_option,
    four_options,
    last_number,
    score_mc2,
    score_number,
)


def test_mc2_is_the_share_of_the_true_answers() -> None:
    doc = {"mc2_targets": {"labels": [1, 0, 1]}}
    values = [math.log(0.2), math.log(0.5), math.log(0.1)]
    score = score_mc2(doc, [(value, False) for value in values])["mc2"]
    assert score == pytest.approx((0.2 + 0.1) / 0.8, abs=1e-12)


def test_mc2_survives_long_answers() -> None:
    doc = {"mc2_targets": {"labels": [1, 0]}}
    shifted = score_mc2(doc, [(-2000.0, False), (-2001.0, False)])["mc2"]
    assert shifted == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        (" C.", "C"),
        ("(D)", "D"),
        ("A. Paris", "A"),
        ("B) it rains", "B"),
        ("B\nbecause of A", "B"),
        ("The answer is C.", "C"),
        ("the answer is (b)", "B"),
        ("**Answer:** D", "D"),
        ("Answer: **A**", "A"),
        ("First I thought the answer is A. But no: the answer is B.", "B"),
        ("So the result is \\boxed{C}", "C"),
        ("Because A and B are wrong, the correct option is D.", "D"),
        ("I choose (B) over (A)... no, (C)", "C"),
        ("It must be D", "D"),
        ("A cat sat on the mat.", NO_ANSWER),
        ("Beautiful", NO_ANSWER),
        ("", NO_ANSWER),
        ("42", NO_ANSWER),
    ],
)
def test_letters_in_free_text(text: str, letter: str) -> None:
    assert extract_letter(text) == letter


def test_other_questions_than_those_with_four_options_are_left_out() -> None:
    questions = [{"choices": {"text": ["a"] * count}} for count in (3, 4, 5)]
    assert four_options(Dataset.from_list(questions))["choices"] == [{"text": ["a"] * 4}]


def test_the_filter_keeps_the_shape() -> None:
    docs: list[dict[str, Any]] = [{}, {}]
    assert extract_letters([["A", "(B)"], ["?"]], docs) == [["A", "B"], [NO_ANSWER]]


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("B", "B"),
        ("B.", "B"),
        (" C\n", "C"),
        ("**D** because A is wrong", "D"),
        ("The answer is (B). A comes close.", "B"),
        ("Although C is near, the correct answer is D: it fits.", "D"),
        ("ANSWER: A\nfor B is wrong", "A"),
        ("I would say so. It must be C.", "C"),
        ("\\boxed{B} is right here", "B"),
        ("no letter at all", NO_ANSWER),
        ("Clearly, one of them", "C"),  # the rule takes any capital of an option, also a word's
        ("", NO_ANSWER),
    ],
)
def test_the_first_option_follows_opencompass(text: str, option: str) -> None:
    assert first_option(text) == option


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("9 * 2 = 18. The answer is 18.", "#### 18", 1.0),
        ("It is 18.0 dollars", "#### 18", 1.0),
        ("The answer is 18\n\nQuestion: what is 3?", "#### 18", 1.0),
        ("The answer is 1,800", "#### 1,800", 0.0),  # as published: 800 is the last number
        ("The answer is 1800", "#### 1,800", 1.0),
        ("-3", "#### -3", 1.0),
        ("none", "#### 1", 0.0),
    ],
)
def test_the_last_number_follows_opencompass(text: str, answer: str, score: float) -> None:
    assert score_number({"answer": answer}, [last_number(text)]) == {"exact_match": score}
