"""Scores of single items against closed forms and lm-eval's own code."""

import math
import sys
from typing import Any

import pytest

from dllmquant_exp.evaluation.scoring import (
    NO_ANSWER,
    extract_letter,
    extract_letters,
    score_chat_program,
    score_mc2,
    score_program,
)

DOC = {
    "prompt": "def double(x):\n    '''Twice x.'''\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4",
    "entry_point": "double",
}


def test_mc2_is_the_share_of_the_true_answers() -> None:
    doc = {"mc2_targets": {"labels": [1, 0, 1]}}
    values = [math.log(0.2), math.log(0.5), math.log(0.1)]
    score = score_mc2(doc, [(value, False) for value in values])["mc2"]
    assert score == pytest.approx((0.2 + 0.1) / 0.8, abs=1e-12)


def test_mc2_survives_long_answers() -> None:
    doc = {"mc2_targets": {"labels": [1, 0]}}
    shifted = score_mc2(doc, [(-2000.0, False), (-2001.0, False)])["mc2"]
    assert shifted == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)


def test_a_program_is_prompt_response_and_tests() -> None:
    right = score_program(DOC, ["    return x + x"])
    assert right == {"pass@1": 1.0, "note": "passed"}
    wrong = score_program(DOC, ["    return x"])
    assert wrong["pass@1"] == 0.0
    assert wrong["note"].startswith("failed: AssertionError")


def test_tests_use_the_prompts_helper_and_not_the_responses() -> None:
    """As HumanEval/32: its tests multiply the result by the prompt's own `poly`."""
    doc = {
        "prompt": "def poly(x):\n    return x - 3\n\ndef root():\n    '''Of poly.'''\n",
        "test": "def check(candidate):\n    assert poly(candidate()) == 0",
        "entry_point": "root",
    }
    assert score_program(doc, ["    return 3"])["note"] == "passed"
    forged = score_program(doc, ["    return 4\n\ndef poly(x):\n    return 0"])
    assert forged["note"].startswith("failed: AssertionError")


def test_tests_may_call_the_function_by_its_name() -> None:
    doc = DOC | {"test": "def check(candidate):\n    assert candidate(2) == double(2) == 4"}
    assert score_program(doc, ["    return x + x"])["note"] == "passed"


def test_a_response_cannot_forge_a_pass() -> None:
    for response in ("    exit(0)", "    return x\nimport os\nos._exit(0)"):
        assert score_program(DOC, [response])["pass@1"] == 0.0


def test_the_program_does_not_run_in_this_process() -> None:
    response = "    import sys; sys.dllmquant_leak = 1\n    return 4"
    assert score_program(DOC, [response])["pass@1"] == 1.0
    assert not hasattr(sys, "dllmquant_leak")


def test_a_chat_response_ends_at_its_fence() -> None:
    response = "    return 2 * x\n```\nThis doubles x."
    assert score_chat_program(DOC, [response])["pass@1"] == 1.0
    assert score_program(DOC, [response])["pass@1"] == 0.0


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


def test_the_filter_keeps_the_shape() -> None:
    docs: list[dict[str, Any]] = [{}, {}]
    assert extract_letters([["A", "(B)"], ["?"]], docs) == [["A", "B"], [NO_ANSWER]]
