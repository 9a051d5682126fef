"""Per-item scores that lm-eval's own code does not give.

Programs run in the sandbox, mc2 survives long answers, and letters are found in free text.

Task files name these functions, for example

    filter_list: [{name: program, filter: [{function: take_first}]}]
    process_results: !function dllmquant_exp.evaluation.scoring.score_program
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from dllmquant_exp.evaluation.sandbox import run_program

PROGRAM_SECONDS = 10.0
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


def checks_of(doc: dict[str, Any]) -> str:
    """The trusted half of an item: its prompt for the helpers that tests use, and its tests.

    Tests that call a helper get the prompt's. A response that replaces the helper (HumanEval/32
    multiplies its results by `poly`) changes its own answers alone.
    """
    name = doc["entry_point"]
    return f"{doc['prompt']}\n{name} = answer({name!r})\n{doc['test']}\ncheck({name})\n"


def score_program(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """pass@1 of one response: its program runs in the sandbox, with the reason as a note.

    doc: needs `prompt` (Python that is complete by itself, as with HumanEval's docstrings), `test`
        (which defines `check`) and `entry_point`.
    """
    program = f"{doc['prompt']}{results[0]}\n"
    verdict = run_program(program, checks_of(doc), timeout=PROGRAM_SECONDS)
    return {"pass@1": float(verdict.passed), "note": verdict.reason}


def score_chat_program(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """As `score_program`, for a response that continues a code fence: it ends where that closes."""
    return score_program(doc, [results[0].split("```", 1)[0]])


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


def extract_letters(
    responses: Iterable[Sequence[str]], docs: Sequence[dict[str, Any]]
) -> list[list[str]]:
    """`extract_letter` as an lm-eval filter function: one list of responses per item."""
    return [[extract_letter(text) for text in texts] for texts in responses]
