"""`report table=...`, `claims` and `audit` as a shell sees them: screen, files and exit status."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made_results import TASKS

from dllmquant_exp.__main__ import main
from dllmquant_exp.reporting import claim_verdicts, commands, results, table, table_cells
from dllmquant_exp.reporting.paper import paper_rows
from dllmquant_exp.reporting.paper.audit import audit
from dllmquant_exp.store.results import ResultError
from dllmquant_exp.store.tracking import TrackingError

WriteCell = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]
ROWS = ("quarot_tmas", "quarot_tmas_mask", "quarot_tmas_score", "quarot_tmas_cgq")


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """call(words...): exit status, output and error stream."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["report", *words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


@pytest.fixture
def third(write_cell: WriteCell, tmp_path: Path) -> Path:
    """A complete Table 3 in runs/tables; the folder of its cells."""
    for row in ROWS:
        for task in ("gsm8k", "humaneval"):
            write_cell(row, task, [1, 0] * 5)
    return tmp_path / "runs" / "tables"


def test_a_complete_table_is_printed_and_written(call: Call, third: Path) -> None:
    status, out, err = call("table=table3")
    assert (status, err) == (0, "")
    assert "Table 3." in out and "masked states" in " ".join(out.split())
    assert "GPTQ+ CGQ w." in out and "50.0" in out and "written to runs/tables/report" in out
    assert sorted(path.name for path in (third / "report").iterdir()) == [
        "table3.csv", "table3.md", "table3.tex", "table3_cells.csv",
    ]  # fmt: skip
    cells = list(csv.DictReader((third / "report" / "table3_cells.csv").open(encoding="utf-8")))
    assert len(cells) == 8 and {cell["n"] for cell in cells} == {"10"}
    for cell in cells:
        folder = f"micro-{cell['row']}-{cell['task']}-s0-{cell['config_hash'][:8]}"
        assert json.loads((third / folder / "result.json").read_text())["score"] == 0.5
    again = call("table=table3")
    assert again[:2] == (status, out), "its own files are no results"


def test_format_and_folder_are_chosen(call: Call, third: Path, tmp_path: Path) -> None:
    status, out, _ = call("table=table3", "format=latex,csv", "folder=there/deep")
    assert status == 0 and "written to there/deep: table3.tex, table3.csv" in out
    assert len(list((tmp_path / "there" / "deep").iterdir())) == 3
    assert not (third / "report").exists()


def test_tables_go_to_wandb_where_that_is_asked_for(call: Call, third: Path) -> None:
    assert call("table=table3", "tracking=offline")[0] == 0
    (media,) = (third / "report").glob("wandb/offline-run-*/files/media/table")
    files = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in media.iterdir()}
    assert sorted(files) == ["table3", "table3_cells"]
    names = files["table3_cells"]["columns"]
    shown = [dict(zip(names, line, strict=True)) for line in files["table3_cells"]["data"]]
    assert sorted(cell["row"] for cell in shown) == sorted([*ROWS, *ROWS])
    assert {cell["score"] for cell in shown} == {50.0}  # percent, as in the table
    assert call("table=table3")[0] == 0, "the record beside the files is no result"


def test_what_is_missing_failed_or_broken_is_named_and_the_rest_reported(
    call: Call, third: Path, write_cell: WriteCell
) -> None:
    empty, cut, _, gone = (write_cell(row, "humaneval", [1, 0] * 5) for row in ROWS)
    empty.write_text("")
    cut.write_text(cut.read_text()[:500])
    write_cell(ROWS[2], "humaneval", None)
    gone.unlink()
    foreign = third / "other-project" / "result.json"
    foreign.parent.mkdir()
    foreign.write_text('{"loss": 0.1}')
    (third / "notes").mkdir()
    (third / "stray.txt").write_text("x")

    status, out, err = call("table=table3")
    assert (status, err) == (1, "")
    lines = [line for line in out.splitlines() if line.startswith(("mis", "fail", "unread"))]
    assert lines[:4] == [
        "missing: micro, quarot_tmas: Hum.",
        "missing: micro, quarot_tmas_mask: Hum.",
        "failed: micro, quarot_tmas_score: Hum.: seed 0: ValueError: it broke",
        "missing: micro, quarot_tmas_cgq: Hum.",
    ]
    broken = {str(path.relative_to(third)): "not a readable" for path in (empty, cut)}
    broken[str(foreign.relative_to(third))] = "schema_version is None"
    assert len(lines) == 4 + len(broken)
    for line in lines[4:]:
        (reason,) = (reason for path, reason in broken.items() if path in line)
        assert line.startswith("unreadable: runs/tables/") and reason in line
    with pytest.warns(UserWarning, match="unreadable: ") as warned:
        page = table("table3").loc[(slice(None), "score"), :].droplevel("model")
    assert len(warned) == len(broken)
    assert page["GSM8K"].tolist()[:4] == ["50.0 ±26.3"] * 4
    assert page["Hum."].tolist()[:4] == ["-", "-", "failed", "-"]


def test_all_tables_share_a_folder_and_one_list_of_cells(call: Call, third: Path) -> None:
    status, out, _ = call("table=all")
    assert status == 1 and "missing: Table 1: no results" in out
    names = {path.name for path in (third / "report").iterdir()}
    assert {"table1.md", "table4.csv", "table6.tex", "cells.csv"} <= names
    assert set(pd.read_csv(third / "report" / "cells.csv")["table"]) == {3}


def test_results_of_no_row_are_mentioned(call: Call, third: Path, write_cell: WriteCell) -> None:
    write_cell("awq", "gsm8k", [1], change=lambda config: config.update(iaaq={}))
    status, out, _ = call("table=table3")
    assert status == 0
    assert "1 results are of no row of the paper's tables; report sweep=tables" in out


def test_one_model_is_reported_alone(call: Call, third: Path, write_cell: WriteCell) -> None:
    write_cell("rtn", "gsm8k", [1], model="micro_llada")
    (third / "micro_llada-awq-piqa-s0-0123abcd").mkdir()
    status, out, _ = call("table=table3", "model=micro")
    assert status == 0 and "micro_llada" not in out
    status, out, _ = call("table=table3", "model=micro_llada,micro")
    assert status == 1 and "missing: micro_llada: every cell of Table 3" in out
    assert "unfinished: micro_llada-awq-piqa-s0-0123abcd" in out
    out = call("claims", "model=micro")[1]
    assert "not measured: micro" in out and "micro_llada" not in out
    status, _, err = call("claims", "model=micro_dream")
    assert status == 2 and "no results of model 'micro_dream' in this sweep (there: micro" in err
    (shown,) = set(table("table3", models=["micro"]).index.get_level_values("model"))
    assert shown == "micro (embedded stand-in), W4A4"


def test_a_sweeps_report_fails_where_something_is_not_there(
    call: Call, third: Path, write_cell: WriteCell
) -> None:
    assert call("sweep=tables")[0] == 0
    write_cell(ROWS[0], "gsm8k", [1, 0] * 5, seed=1)
    for words in ((), ("format=csv",)):
        status, out, err = call("sweep=tables", *words)
        flat = " ".join((out + err).split())
        assert status == 1 and "missing: " in flat and "Hum.: seed 1" in flat
    write_cell(ROWS[0], "humaneval", None, seed=1)
    assert call("sweep=tables")[0] == 1, "a failed cell"
    shutil.rmtree(third)
    third.mkdir()
    status, _, err = call("sweep=tables")
    assert status == 1 and "no results in runs/tables yet" in err


def test_recordings_and_hidden_folders_are_no_sweeps(call: Call, third: Path) -> None:
    for name in ("figures", ".cache"):
        (third.parent / name).mkdir()
    status, _, err = call("sweep=figures")
    assert status == 2 and "no sweep 'figures' in runs (sweeps there: tables)" in err
    status, _, err = call("sweep=tables", "sweep=figures")
    assert status == 2 and "sweep is given twice" in err


def test_files_are_there_where_wandb_is_not(
    call: Call, third: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise TrackingError("W&B could not start")

    monkeypatch.setattr(commands, "log_tables", lost)
    status, out, err = call("table=table3", "tracking=offline")
    assert status == 2 and "W&B could not start" in err and "written to" in out
    assert (third / "report" / "table3.md").exists()


def test_all_tables_are_complete_with_table_4_only(
    call: Call, write_cell: WriteCell, write_speed: WriteCell
) -> None:
    write_all_rows(write_cell, "micro")
    status, out, _ = call("table=all", "format=csv")
    missing = [line for line in out.splitlines() if line.startswith("missing: ")]
    assert (status, missing) == (1, ["missing: Table 4: no results"])
    for row in ("rtn", "quarot"):
        write_speed(row, "micro")
    status, out, _ = call("table=all", "format=csv")
    assert status == 1 and "missing: micro, dllmquant_plusplus: speed" in out
    write_speed("dllmquant_plusplus", "micro")
    assert call("table=all", "format=csv")[0] == 0


def test_claims_that_lack_controls_or_figures_or_speed_are_not_complete(
    call: Call, write_cell: WriteCell
) -> None:
    write_all_rows(write_cell, "micro")
    status, out, _ = call("claims", "format=csv")
    (line,) = [line for line in out.splitlines() if line.startswith("not measured: ")]
    assert status == 1 and "row=quarot_tmas and row=quarot calibrated on as many states" in line
    assert "the command figures figure=2; the command figures figure=6" in line
    assert "table=table4 (row=dllmquant_plusplus)" in line
    assert "(Hum." not in line and "nine tasks" not in line, "all rows of the tables are there"


def test_claims_name_unfinished_cells(call: Call, third: Path) -> None:
    (third / "micro-awq-piqa-s0-0123abcd").mkdir()
    assert "unfinished: micro-awq-piqa-s0-0123abcd: no result yet" in call("claims")[1]


def test_written_files_say_which_seeds_are_not_in_a_number(
    call: Call, third: Path, write_cell: WriteCell
) -> None:
    for row in ROWS:
        for task in ("gsm8k", "humaneval"):
            write_cell(row, task, [1, 0] * 5, seed=1)
    write_cell(ROWS[1], "gsm8k", None, seed=1)
    shutil.rmtree(next(third.glob(f"micro-{ROWS[2]}-humaneval-s1-*")))
    assert call("table=table3")[0] == 1
    failed = f"failed: {ROWS[1]}: GSM8K: seed 1: ValueError: it broke"
    missing = f"missing: {ROWS[2]}: Hum.: seed 1"
    text = (third / "report" / "table3.md").read_text(encoding="utf-8")
    assert f"- incomplete: {failed}; {missing}." in text
    cells = pd.read_csv(third / "report" / "table3_cells.csv", dtype={"seeds": str})
    cells = cells.set_index(["row", "column"])
    partial = cells[cells["state"] == "partial"]
    assert set(partial.index) == {(ROWS[1], "GSM8K"), (ROWS[2], "Hum.")}
    assert set(partial["seeds"]) == {"0"}
    assert set(cells["state"].drop(partial.index)) == {"finished"}
    assert set(cells["seeds"].drop(partial.index)) == {"0 1"}


def write_all_rows(write_cell: WriteCell, model: str) -> None:
    """Every cell of Tables 1, 2, 3, 5 and 6."""
    for row in {row for number in (1, 2, 3, 5, 6) for row in paper_rows(number)}:
        for task in TASKS:
            write_cell(row, task, [1, 0], model=model)


def test_claims_of_an_empty_sweep(call: Call, tmp_path: Path) -> None:
    (tmp_path / "runs" / "tables").mkdir(parents=True)
    status, out, _ = call("claims")
    assert status == 1 and "missing: no results of any row" in out


def test_the_audit_needs_no_results(call: Call, tmp_path: Path) -> None:
    status, out, err = call("audit", "folder=paper")
    assert (status, err) == (0, "")
    findings = audit()
    assert "Contradictions (" in out and "59.87" in out
    assert len(pd.read_csv(tmp_path / "paper" / "audit.csv")) == len(findings)
    text = (tmp_path / "paper" / "audit.md").read_text(encoding="utf-8")
    assert text.startswith("# What does") and all(f"| {of.where} " in text for of in findings)


@pytest.fixture
def mixed(third: Path, write_cell: WriteCell, write_speed: WriteCell) -> Path:
    """Table 3 of `micro` without one cell, a preset's model without most, speed, a corrupt file."""
    write_cell("rtn", "gsm8k", [1, 0], model="micro_llada")
    write_speed("rtn", "micro_llada")
    write_speed("dllmquant_plusplus", "micro")
    cut = write_cell("quarot_tmas", "humaneval", [1, 0] * 5)
    cut.write_text(cut.read_text()[:500])
    return third / "report"


@pytest.mark.parametrize("name", ["table1", "table3", "table4"])
def test_frames_of_tables_are_what_the_commands_write(call: Call, mixed: Path, name: str) -> None:
    assert call(f"table={name}")[0] == 1
    with pytest.warns(UserWarning, match="unreadable: .*not a readable result file"):
        cells, text = table_cells(name), table(name)
    written = pd.read_csv(mixed / f"{name}_cells.csv", dtype=str)
    read = pd.read_csv(io.StringIO(cells.to_csv(index=False)), dtype=str)
    pd.testing.assert_frame_equal(read, written)
    index = list(range(text.index.nlevels))
    written = pd.read_csv(mixed / f"{name}.csv", index_col=index, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(text, written, check_dtype=False)
    expected = {"micro_llada"} | ({"micro_dream", "micro_llada_1_5"} if name != "table3" else set())
    assert expected <= set(cells["model"]), "what a preset spans is there, be it missing"


def test_the_frame_of_claims_is_what_the_command_writes(call: Call, mixed: Path) -> None:
    assert call("claims")[0] == 1
    with pytest.warns(UserWarning, match="unreadable: .*not a readable result file"):
        found = claim_verdicts()
    written = pd.read_csv(mixed / "claims.csv", keep_default_na=False, na_values=[""])
    texts = {"unit": "", "comparison": "", "covers": "", "needs": ""}
    pd.testing.assert_frame_equal(found, written.fillna(texts), check_dtype=False)
    measured = found.set_index(["model", "claim"])["effect"]
    assert measured["micro (embedded stand-in), W4A4", "both_beat_score"] == 0
    assert measured["micro (embedded stand-in), W4A4", "speed_up"] == pytest.approx(2)
    assert set(found["model"]) == {
        "micro (embedded stand-in), W4A4", "micro_llada (embedded stand-in), W4A4",
        "micro_llada_1_5 (embedded stand-in)", "micro_dream (embedded stand-in)",
    }  # fmt: skip


def test_frames_refuse_what_is_not_there(third: Path, call: Call) -> None:
    with pytest.raises(ResultError, match="no sweep 'nope'"):
        table("table3", sweep="nope")
    with pytest.raises(ResultError, match=r"is not one of: table1, .*, table4, table5, table6$"):
        table("all")


def test_the_frame_of_results_has_a_line_per_cell(call: Call, mixed: Path) -> None:
    with pytest.warns(UserWarning, match="unreadable: .*not a readable result file"):
        found = results()
    files = list(mixed.parent.glob("*/result.json"))
    assert len(found) == len(files) - 1, "one file is cut"
    line = found[(found["row"] == "rtn") & (found["task"] == "gsm8k")].iloc[0]
    assert (line["model"], line["score"], line["n"]) == ("micro_llada", 0.5, 2)
