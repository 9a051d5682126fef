"""Per-item scores and answers that lm-eval's own code does not give.

mc2 survives long answers, letters and numbers are found in free text. Programs: see programs.py.

Task files name these functions, for example

    process_results: !function dllmquant_exp.evaluation.scoring.score_number
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

NO_ANSWER = "[no answer]"

# From the surest sign of an answer to the weakest; within one, the last match counts, except that
# a response which opens with its letter has answered.
STATED = re.compile(
    r"(?:answer|option|choice)\s*(?:is|would be|:)\s*(?:option\s*)?[\s(*\[\"'{$\\]*"
    r"(?:boxed\{|text\{)*([A-E])(?![A-Za-z])",
    re.IGNORECASE,
)
BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\s*\(?([A-E])\b")
OPENING = re.compile(r"^[\s(*\[\"']*([A-E])(?:[)\].:,;*\"'\n]|\s*$|<)")
ENCLOSED = re.compile(r"[(\[]([A-E])[)\]]")
STANDING = re.compile(r"(?<![A-Za-z'])([A-E])(?![A-Za-z'])(?!\s+[a-z])")


def score_mc2(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Probability mass on the true answers, log-likelihoods normalized over all answers.

    lm-eval exponentiates first, which turns long answers' log-likelihoods below -745 into 0 / 0.
    """
    values = [value for value, _ in results]
    highest = max(values)
    mass = [math.exp(value - highest) for value in values]
    labels = doc["mc2_targets"]["labels"]
    true = math.fsum(m for m, label in zip(mass, labels, strict=True) if label == 1)
    return {"mc2": true / math.fsum(mass)}


def extract_letter(text: str) -> str:
    """The option letter that a free-text answer names, or "[no answer]".

    Understands "B", "(B)", "B. Paris", "The answer is B.", "**Answer:** B", "\\boxed{B}" and a
    letter standing alone; "A" as an article ("A cat ...") is not taken for an option.
    """
    if opening := OPENING.search(text):
        return opening.group(1)
    for pattern in (BOXED, STATED, ENCLOSED, STANDING):
        if found := pattern.findall(text.replace("**", "")):
            return str(found[-1]).upper()
    return NO_ANSWER


# OpenCompass's rule, which LLaDA's evaluation uses: the first of these forms that is anywhere in a
# text decides, by the first option in what it caught. Forms in Chinese are left out.
FIRST_OPTION = (
    r"[\s:,]([ABCD])[,.]?$",
    r"(?i)ANSWER\s*:\s*([ABCD])",
    r"[Tt]he answer is:?\s+\(?([ABCD])\)?",
    r"[Tt]he answer is option:?\s+\(?([ABCD])\)?",
    r"[Tt]he correct answer is:?\s+\(?([ABCD])\)?",
    r"[Tt]he correct answer is option:?\s+\(?([ABCD])\)?",
    r"[Tt]he correct answer is:?.*?boxed{([ABCD])}",
    r"[Tt]he correct option is:?.*?boxed{([ABCD])}",
    r"[Tt]he correct answer option is:?.*?boxed{([ABCD])}",
    r"[Tt]he answer to the question is:?\s+\(?([ABCD])\)?",
    r"^([ABCD])[\s,:.]",
    r"1\.\s?(.*)$",
    r"boxed\{([ABCD])\}",
    r"([ABCD]):",
    r"([ABCD])",
)


def first_option(text: str) -> str:
    """The option A to D that a response names, or "[no answer]"; see FIRST_OPTION."""
    text = text.strip().replace("**", "").strip()
    for form in FIRST_OPTION:
        if found := re.search(form, text, re.DOTALL):
            for option in "ABCD":
                if option in found.group(1):
                    return option
    return NO_ANSWER


def last_number(text: str) -> str:
    """The last number before a further "Question:", or "[no answer]"; OpenCompass's rule."""
    numbers = re.findall(r"-?\d+\.\d+|-?\d+", text.split("Question:")[0])
    return str(numbers[-1]) if numbers else NO_ANSWER


def score_number(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """exact_match of a number, as a number: 18.0 is 18."""
    right = float(doc["answer"].split("#### ")[1].replace(",", ""))
    found = math.nan if results[0] == NO_ANSWER else float(results[0])
    return {"exact_match": float(abs(found - right) < 1e-6)}


def four_options(dataset: Any) -> Any:
    """The questions of a split that have four options, as lm-eval's `process_docs`."""
    return dataset.filter(lambda doc: len(doc["choices"]["text"]) == 4)


def _filter(extract: Callable[[str], str]) -> Callable[..., list[list[str]]]:
    """An extractor as an lm-eval filter function: one list of responses per item."""

    def apply(responses: Iterable[Sequence[str]], docs: Sequence[Any]) -> list[list[str]]:
        return [[extract(text) for text in texts] for texts in responses]

    return apply


extract_letters = _filter(extract_letter)
first_options = _filter(first_option)
last_numbers = _filter(last_number)
