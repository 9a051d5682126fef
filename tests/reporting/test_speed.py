"""Table 4 from made-up results: the paper's columns, what is extrapolated, and what failed."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_results import MEASURED

from dllmquant_exp.__main__ import main
from dllmquant_exp.reporting.comparable import model_results
from dllmquant_exp.reporting.frame import Cell, read_result, to_frame
from dllmquant_exp.reporting.render import FORMATS, Section
from dllmquant_exp.reporting.speed import speed_document, speed_sections
from dllmquant_exp.reporting.tables.sweep_table import sweep_sections


@pytest.fixture
def cells(write_speed: Callable[..., Path]) -> list[Cell]:
    made = [("quarot", "llada_8b"), ("rtn", "llada_8b"), ("rtn", "micro_llada")]
    return [read_result(write_speed(*words)) for words in made]


def lines(section: Section, grid: str) -> list[tuple[str, ...]]:
    """The lines of a grid, each with its name."""
    return list(section.grids[grid].texts.itertuples(name=None))


def test_rows_stand_in_the_papers_columns_with_its_numbers(cells: list[Cell]) -> None:
    llada, micro = speed_sections(cells)
    assert llada.title == "llada_8b (its shape, random weights)"
    found = lines(llada, "speed")
    assert [name for name, *_ in found] == [
        "rtn\nW4A4", "rtn\nW4A8", "quarot\nW4A4", "quarot\nW4A8",
    ]  # fmt: skip
    assert found[0][1:] == (
        "2* (1.8 to 2.2)", "4 (3.6 to 4.4)", "2 (1.8 to 2.2)", "15.00 GiB", "5.00 GiB", "3.00",
    )  # fmt: skip
    assert found[1][2:4] == ("3.2 (2.88 to 3.52)", "1.6 (1.44 to 1.76)")
    assert lines(llada, "paper") == [("LLADA", "34.59", "50.14", "1.71", "15.89", "4.91", "3.24")]
    columns = [list(llada.grids[grid].texts.columns) for grid in ("speed", "paper")]
    assert columns[0] == columns[1]
    assert micro.title == "micro_llada (embedded stand-in)" and "paper" not in micro.grids


def test_blocks_parts_and_memory(cells: list[Cell]) -> None:
    section = speed_sections(cells)[0]
    assert lines(section, "block") == [
        ("bfloat16", "20 (20 to 30)", "1 (1 to 1)"),
        ("rtn\nW4A4, float32", "10 (10 to 10)", "2 (1.9 to 2.5)"),
        ("quarot\nW4A4, float32", "10 (10 to 10)", "2 (1.9 to 2.5)"),
    ]
    parts = section.grids["parts"].texts
    assert list(parts.columns) == ["linears", "rotations", "attention", "head", "rest"]
    assert lines(section, "parts")[0] == ("rtn\nW4A4", "50.0", "6.0", "20.0", "10.0", "20.0")
    # Full precision was measured on one block: the sum with the others is marked.
    assert lines(section, "resident")[:2] == [
        ("rtn\nfull precision, bfloat16", "15.00 GiB*", "22.50 GiB*", "30.00 GiB*"),
        ("rtn\nW4A4", "5.00 GiB", "7.50 GiB", "10.00 GiB"),
    ]
    assert len(lines(section, "resident")) == 4
    assert [saved for *_, saved in lines(section, "counted")] == ["1.00", "3.00", "3.75", "5.00"]


def test_cells_of_one_row_that_differ_are_lines_of_their_own(
    write_speed: Callable[..., Path],
) -> None:
    def read(machine: dict[str, Any], **quant: int) -> Cell:
        measured = {**MEASURED, "machine": {**MEASURED["machine"], **machine}}
        cell = read_result(write_speed("rtn", "llada_8b", measured))
        config = {**cell.config, "quant": {**cell.config["quant"], **quant}}
        return cell._replace(config=config, config_hash=str(quant))

    usual, narrow, slow = read({}), read({}, head_bits=8), read({"execution": "reference"})
    other = read_result(write_speed("quarot", "llada_8b"))
    (section,) = speed_sections([usual, narrow, other])
    assert [name for name, *_ in lines(section, "speed")[::2]] == [
        "rtn\nhead_bits=16\nW4A4", "rtn\nhead_bits=8\nW4A4", "quarot\nW4A4",
    ]  # fmt: skip
    assert list(section.lines["settings"].unique()) == ["head_bits=16", "head_bits=8", ""]
    assert any(note.startswith("rtn, head_bits=8: A CPU") for note in section.notes)
    (by_machine,) = speed_sections([usual, slow, usual])
    assert list(by_machine.lines["settings"].unique()) == [
        "execution=avx2", "execution=reference",
    ]  # fmt: skip
    assert "1 results have newer ones of the same settings, shown here." in by_machine.notes


def test_notes_say_how_it_was_measured(write_speed: Callable[..., Path]) -> None:
    slow = {**MEASURED, "machine": {"execution": "reference", "native_bfloat16": False,
                                    "load": [3.5, 4]}}  # fmt: skip
    written = [write_speed("rtn", "llada_8b", slow), write_speed("quarot", "llada_8b", None)]
    (section,) = speed_sections(map(read_result, written))
    text = " ".join(section.notes)
    assert "failed: quarot: ValueError: it broke" in text
    assert "A CPU, 2 threads, reference execution" in text
    assert "before and after: 3.5, 4" in text
    assert "* extrapolated" in text and "would be emulated" in text and "weights: random" in text


def test_speed_is_in_no_table_of_scores(cells: list[Cell], made: Any) -> None:
    scored = made("rtn", "gsm8k", [1, 0])
    assert model_results(to_frame([*cells, scored]))[0].model == "micro"
    assert model_results(to_frame(cells)) == [] and sweep_sections(to_frame(cells)) == []


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_numbers(cells: list[Cell], name: str) -> None:
    text = FORMATS[name][1](speed_document(speed_sections(cells)))
    assert "50.14" in text and "15.00 GiB" in text and "quarot" in text


def test_a_line_per_variant_with_what_stands_behind_it(cells: list[Cell]) -> None:
    frame = speed_document(speed_sections(cells)).lines
    assert len(frame) == 9 and set(frame["state"]) == {"finished"}
    found = frame.set_index(["model", "row", "variant"]).loc[("llada_8b", "quarot", "W4A4")]
    assert found["tokens_per_second"] == 4 and found["speedup"] == 2
    assert (found["type"], found["cpu"], found["load_after"]) == ("float32", "A CPU", 1.0)


def test_the_command_writes_table_4(
    cells: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "table=table4"]) == 1  # of nine cells one is there, and two of llada_8b
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("missing: ")][-7:] == [
        "missing: micro_llada, quarot: speed",
        "missing: micro_llada, dllmquant_plusplus: speed",
        "missing: micro_llada_1_5: every cell of Table 4",
        "missing: micro_dream: every cell of Table 4",
        "missing: llada_8b, dllmquant_plusplus: speed",
        "missing: llada_1_5: every cell of Table 4",
        "missing: dream_7b: every cell of Table 4",
    ]
    assert "Table 4." in out and "llada_8b (its shape, random weights)" in out
    folder = tmp_path / "runs" / "tables" / "report"
    assert sorted(path.name for path in folder.iterdir()) == [
        "table4.csv", "table4.html", "table4.md", "table4.tex", "table4_cells.csv",
    ]  # fmt: skip
    with (folder / "table4_cells.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    # Nine lines of what was measured; 3 * 3 rows of models without any, 1 + 2 of the others.
    assert Counter(line["state"] for line in written) == {"finished": 9, "missing": 15}
    assert main(["report", "sweep=tables"]) == 0
    assert "what the paper prints for LLADA" in capsys.readouterr().out


@pytest.mark.parametrize("embedded", [True, False])
def test_rows_of_the_preset_that_are_missing_or_failed_are_seen(
    write_speed: Callable[..., Path], embedded: bool
) -> None:
    model = "micro_llada" if embedded else "llada_8b"
    cells = [
        read_result(write_speed("rtn", model)),
        read_result(write_speed("quarot", model, None)),
    ]
    (section,) = speed_sections(cells, {model: embedded})
    assert section.faults == (
        f"missing: {model}, dllmquant_plusplus: speed",
        f"failed: {model}, quarot: speed: ValueError: it broke",
    )
    texts = section.grids["speed"].texts
    assert set(texts.loc["dllmquant_plusplus"]) == {"-"} and set(texts.loc["quarot"]) == {"failed"}
    states = section.lines.set_index("row")["state"]
    assert states.groupby(level=0).first().to_dict() == {
        "rtn": "finished", "quarot": "failed", "dllmquant_plusplus": "missing",
    }  # fmt: skip
    (without,) = speed_sections([], {model: embedded})
    assert ("stand-in" in without.title) == embedded
    assert without.faults == (f"missing: {model}: every cell of Table 4",)
