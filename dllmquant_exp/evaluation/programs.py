"""The program in a response to HumanEval, as the authors of each model take it out.

A task's YAML says which reading, and how long the program may run:

    program: {reading: fenced, seconds: 3.0}
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dllmquant_exp.evaluation.sandbox import run_program

MOST_LINES = 100  # of a text that `sanitized` searches for a program
SECONDS = 10.0
Row = Mapping[str, Any]


def continued(doc: Row, response: str) -> str:
    """The prompt and the response behind it, as lm-eval takes it."""
    return f"{doc['prompt']}{response}\n"


def fenced(doc: Row, response: str) -> str:
    """LLaDA's reading: the first fenced block, or the whole response where there is none.

    The prompt is put before it unless it has the function's signature.
    """
    blocks = re.findall(r"```\w*\n(.*?)```", response, re.DOTALL)
    code = blocks[0] if blocks else response
    return code if f"def {doc['entry_point']}(" in code else f"{doc['prompt']}{code}\n"


def sanitized(doc: Row, response: str) -> str:
    """Dream's reading: prompt and code, reduced to the functions that the entry point needs.

    The code is what stands in the response's Python fence, or before any fence. The longest run of
    lines of prompt and code that is valid Python counts.
    """
    code = response.split("```python\n", 1)[-1].split("```")[0]
    text = f"{doc['prompt']}\n{code}".replace("\t", "    ").replace("\r\n", "\n")
    tree = _longest_program(text.strip().splitlines()[:MOST_LINES])
    if tree is None:
        return ""
    definitions = dict(_definitions(tree))
    needed = _needed(doc["entry_point"], definitions)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    kept = [*imports, *(node for name, node in definitions.items() if name in needed)]
    return "\n".join(ast.unparse(node) for node in kept) + "\n"


READINGS: dict[str, Callable[[Row, str], str]] = {
    reading.__name__: reading for reading in (continued, fenced, sanitized)
}


def score_program(
    doc: dict[str, Any], results: list[str], reading: str = "continued", seconds: float = SECONDS
) -> dict[str, Any]:
    """pass@1 of one response: its program runs in the sandbox, with the reason as a note.

    Args:
        doc: needs `prompt` (Python that is complete by itself, as with HumanEval's docstrings),
            `test` (which defines `check`) and `entry_point`.
        reading: one of READINGS.
        seconds: wall time of the program.
    """
    program = READINGS[reading](doc, results[0])
    verdict = run_program(program, checks_of(doc), timeout=seconds)
    return {"pass@1": float(verdict.passed), "note": verdict.reason}


def checks_of(doc: Row) -> str:
    """The trusted half of an item: its prompt for the helpers that tests use, and its tests.

    Tests that call a helper get the prompt's. A response that replaces the helper (HumanEval/32
    multiplies its results by `poly`) changes its own answers alone.
    """
    name = doc["entry_point"]
    return f"{doc['prompt']}\n{name} = answer({name!r})\n{doc['test']}\ncheck({name})\n"


def _longest_program(lines: list[str]) -> ast.Module | None:
    """The run of lines with the most filled ones that parses; the first of equally long ones."""
    filled = [0]
    for line in lines:
        filled.append(filled[-1] + bool(line.strip()))
    spans = [(i, j) for i in range(len(lines)) for j in range(i + 1, len(lines) + 1)]
    for i, j in sorted(spans, key=lambda span: filled[span[0]] - filled[span[1]]):
        if filled[j] == filled[i]:
            return None
        try:
            return ast.parse("\n".join(lines[i:j]))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
    return None


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Classes, functions that return something, and variables, by name; later ones replace."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.FunctionDef):
            if any(isinstance(inner, ast.Return) for inner in ast.walk(node)):
                yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node


def _needed(entry_point: str, definitions: Mapping[str, ast.stmt]) -> set[str]:
    """The entry point, and every definition that it names, directly or through another one."""
    needed, waiting = set(), [entry_point]
    while waiting:
        name = waiting.pop()
        if name not in needed and name in definitions:
            nodes = ast.walk(definitions[name])
            waiting += [node.id for node in nodes if isinstance(node, ast.Name)]
        needed.add(name)
    return needed
