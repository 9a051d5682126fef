"""Notebooks run: 01 and 02 on made-up files, 03 live. What is committed names no machine."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from made_figures import recorded
from made_results import LABELS
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from dllmquant_exp.reporting.figures.catalog import catalog

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPT = runpy.run_path(str(FOLDER / "execute.py"))
NOTEBOOKS = ("01_tables.ipynb", "02_figures.ipynb", "03_one_quantization.ipynb")
# Those that are committed with outputs: of 01 and 02 of real runs, never of made-up files.
EXECUTED = ("01_tables.ipynb", "02_figures.ipynb", "03_one_quantization.ipynb")
MACHINE = ("/home", "/work", "/tmp", "/root")
Execute = Callable[[str], NotebookNode]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Executes a notebook by name, on the runs folder that `write_cell` writes to."""
    monkeypatch.setenv("DLLMQUANT_RUNS", str(tmp_path / "runs"))
    return lambda name: SCRIPT["execute"](FOLDER / name)


@pytest.fixture
def results(write_cell: Callable[..., Path]) -> None:
    """Three rows of Table 1, ten items a task: 9, 4 and 7 of them right."""
    for row, right in (("fp", 9), ("rtn", 4), ("quarot", 7)):
        for task in LABELS:
            write_cell(row, task, [1] * right + [0] * (10 - right), model="micro_llada")


def committed(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / name, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode, kind: str) -> list[str]:
    """What cells show in one MIME type, or printed (`stdout`, `stderr`), in their order."""
    shown = [output for cell in code(notebook) for output in cell.outputs]
    texts = (o.text if o.get("name") == kind else o.get("data", {}).get(kind) for o in shown)
    return [text for text in texts if text is not None]


def strings(value: Any) -> Iterator[str]:
    """Every text in a notebook but pictures, whose base64 may spell anything."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from () if key == "image/png" else strings(part)


def test_every_notebook_is_known() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_committed_names_no_machine(name: str) -> None:
    notebook = committed(name)
    found = [text for text in strings(notebook) if any(path in text for path in MACHINE)]
    assert not found
    assert notebook.metadata == SCRIPT["METADATA"]
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_outputs_are_committed_where_they_are_real(name: str) -> None:
    notebook = committed(name)
    counts = [cell.execution_count for cell in code(notebook)]
    if name in EXECUTED:
        assert counts == list(range(1, len(counts) + 1))
        assert outputs(notebook, "image/png") and not outputs(notebook, "stderr")
    else:
        assert not any(counts) and not any(cell.outputs for cell in code(notebook))


def test_prints_of_a_cell_are_one_output_however_they_arrive(tmp_path: Path) -> None:
    prints = "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.5)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(prints)])
    nbformat.write(notebook, tmp_path / "prints.ipynb")
    assert outputs(SCRIPT["execute"](tmp_path / "prints.ipynb"), "stdout") == ["0\n1\n2\n"]


def test_machine_paths_are_noticed() -> None:
    pictures = {"data": {"image/png": "a/tmp", "text/plain": "b"}}
    assert list(strings({"outputs": [pictures, {"text": MACHINE[0]}]})) == ["b", MACHINE[0]]


@pytest.mark.usefixtures("results")
def test_tables_show_scores_changes_and_what_is_missing(execute: Execute) -> None:
    notebook = execute("01_tables.ipynb")
    table, changes, *_, counts, claims, _, severities, errors = outputs(notebook, "text/plain")
    assert table.count("90.0 -30") == 9 and table.count("90.0 -") == 10  # nine tasks, their average
    assert table.count("40.0 -23") == 9 and table.count("40.0 ±") == 1
    assert all(label in table for label in (*LABELS.values(), "Avg.", "micro_llada"))
    assert "micro_dream" in table, "a model of the preset that was not run is seen"
    assert "-50.00" in changes and "-20.00" in changes  # of rtn and quarot from fp
    assert "undecided" in counts and "under QuaRot" in claims
    assert "error" in severities and "Table 1" in errors
    missing = [line for text in outputs(notebook, "stdout") for line in text.splitlines()]
    assert missing == [
        f"No rows of table{n} were run: python -m dllmquant_exp {words}"
        for n, words in (
            (3, "table=table3 seed=0,1,2"), (4, "-m table=table4"), (6, "table=table6 seed=0,1,2"),
        )
    ]  # fmt: skip
    assert len(outputs(notebook, "image/png")) == 1
    assert not outputs(notebook, "stderr")


@pytest.mark.usefixtures("results")
def test_figures_are_drawn_with_captions_and_numbers(execute: Execute, tmp_path: Path) -> None:
    measured = [name for name, kind in catalog().items() if kind.measure]
    for name in measured:
        recorded(tmp_path / "runs" / "figures", name)
    notebook = execute("02_figures.ipynb")
    assert len(outputs(notebook, "image/png")) == len(catalog())
    captions = outputs(notebook, "text/markdown")
    for number, kind in enumerate(catalog().values(), 1):
        assert captions[number - 1].startswith(f"**Figure {number}.** {kind.caption}")
    numbers = [text for text in outputs(notebook, "text/plain") if "micro_llada" in text]
    assert len(numbers) == len(measured)
    # Of 0 ... 4: Student's t interval of the mean; as a ratio to 1, no upper limit from 5 prompts.
    assert "2 [0.0368, 3.96], n = 5" in numbers[0] and "2 [0, -], n = 5" in numbers[0]
    assert "own_states, INT4 rtn, last_over_first" in numbers[0] and "2.5, n = 1" in numbers[0]
    assert not outputs(notebook, "stderr")


@pytest.mark.parametrize(
    ("name", "command"), [(NOTEBOOKS[0], "table=all"), (NOTEBOOKS[1], "figures model=micro_llada")]
)
def test_without_files_the_command_that_makes_them_is_named(
    execute: Execute, name: str, command: str
) -> None:
    with pytest.raises(CellExecutionError, match=f"python -m dllmquant_exp {command}"):
        execute(name)


def test_a_quantization_runs_live_and_shows_what_is_committed(execute: Execute) -> None:
    def kinds(notebook: NotebookNode) -> list[list[str]]:
        return [
            [k for output in cell.outputs for k in sorted(output.get("data", {"printed": ""}))]
            for cell in code(notebook)
        ]

    live = execute("03_one_quantization.ipynb")
    assert len(outputs(live, "image/png")) == 4 and not outputs(live, "stderr")
    if "03_one_quantization.ipynb" in EXECUTED:
        assert kinds(live) == kinds(committed("03_one_quantization.ipynb"))
