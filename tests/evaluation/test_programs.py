"""Programs in responses, as each model's authors take them out, and their checks."""

import sys
from pathlib import Path

import pytest

from dllmquant_exp.evaluation.local_data import local_rows
from dllmquant_exp.evaluation.programs import sanitized, score_program

DOC = {
    "prompt": "def double(x):\n    '''Twice x.'''\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4",
    "entry_point": "double",
}


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


BODY = "    return 2 * x\n"
WHOLE = f"def double(x):\n{BODY}"


@pytest.mark.parametrize(
    ("response", "passes"),
    [
        (f"Sure:\n```python\n{WHOLE}```\nDone. ```python\nraise\n```", True),  # the first block
        (f"```\n{WHOLE}```", True),
        (f"```python\n{BODY}```", True),  # behind the prompt, which has the signature
        (BODY, True),
        (WHOLE, True),
        (f"It is:\n{WHOLE}", False),
        (f"```python\n{WHOLE}", False),  # never closed
        ("", False),
    ],
)
def test_a_fenced_program_is_the_first_block(response: str, passes: bool) -> None:
    score = score_program(DOC, [response], reading="fenced", seconds=3.0)
    assert score["pass@1"] == float(passes)


@pytest.mark.parametrize(
    ("response", "kept"),
    [
        (BODY, ["double"]),
        (f"```python\n{WHOLE}```\nThat is it.", ["double"]),
        (f"{BODY}\nThis explains it.", ["double"]),
        (f"{BODY}\ndef helper(x):\n    return x\nprint(1)", ["double"]),
        ("    return helper(x)\n\ndef helper(x):\n    return 2 * x\n", ["double", "helper"]),
        (f"def show(x):\n    print(x)\n{WHOLE}    show(x)", ["double"]),
        (f"import math\n{WHOLE}\ndef unused():\n    return 1", ["double"]),
    ],
)
def test_a_sanitized_program_is_what_the_entry_point_needs(response: str, kept: list[str]) -> None:
    code = sanitized(DOC, response)
    names = [line.split("(")[0].split()[-1] for line in code.splitlines() if "def " in line]
    assert names == kept
    assert ("import math" in code) == ("import math" in response)
    assert score_program(DOC, [response], reading="sanitized")["note"] == "passed"


@pytest.mark.parametrize("response", ["(" * 5000, "x = " + "-" * 9000 + "1", "\0", "    return"])
def test_nothing_sensible_is_sanitized_to_a_failure(response: str) -> None:
    assert score_program(DOC, [response], reading="sanitized")["pass@1"] == 0.0


def test_a_program_has_as_long_as_its_task_says() -> None:
    slow = "    import time\n    time.sleep(1.5)\n    return 2 * x"
    assert score_program(DOC, [slow], seconds=0.5)["note"].startswith("timed out")
    assert score_program(DOC, [slow], seconds=8.0)["note"] == "passed"


@pytest.mark.parametrize("reading", ["continued", "fenced", "sanitized"])
def test_humanevals_own_solutions_pass(data_root: Path, reading: str) -> None:
    for row in local_rows(data_root, "openai/openai_humaneval", None)["test"][::41]:
        score = score_program(row, [row["canonical_solution"]], reading=reading)
        assert score["note"] == "passed", row["task_id"]
