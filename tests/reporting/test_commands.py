"""`report table=...`, `claims` and `audit` as a shell sees them: screen, files and exit status."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dllmquant_exp.__main__ import main
from dllmquant_exp.reporting import claim_verdicts, table, table_cells
from dllmquant_exp.reporting.audit import audit
from dllmquant_exp.reporting.paper import paper_rows
from dllmquant_exp.reporting.results import ResultError

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
        "table3.csv", "table3.html", "table3.md", "table3.tex",
        "table3_cells.csv", "table3_cells.parquet",
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
    assert len(list((tmp_path / "there" / "deep").iterdir())) == 4
    assert not (third / "report").exists()


def test_tables_go_to_wandb_where_that_is_asked_for(call: Call, third: Path) -> None:
    assert call("table=table3", "tracking=offline")[0] == 0
    (media,) = (third / "report").glob("wandb/offline-run-*/files/media/table")
    files = {path.name.split("_")[0]: json.loads(path.read_text()) for path in media.iterdir()}
    assert sorted(files) == ["cells", "table3"]
    names = files["cells"]["columns"]
    shown = [dict(zip(names, line, strict=True)) for line in files["cells"]["data"]]
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
    page = table("table3").loc[(slice(None), "score"), :].droplevel("model")
    assert page["GSM8K"].tolist()[:4] == ["50.0 ±26.3"] * 4
    assert page["Hum."].tolist()[:4] == ["-", "-", "failed", "-"]


def test_all_tables_share_a_folder_and_one_list_of_cells(call: Call, third: Path) -> None:
    status, out, _ = call("table=all")
    assert status == 1 and "missing: Table 1: no results" in out
    names = {path.name for path in (third / "report").iterdir()}
    assert {"table1.md", "table6.tex", "cells.csv", "cells.parquet"} <= names
    assert set(pd.read_parquet(third / "report" / "cells.parquet")["table"]) == {3}


def test_models_of_the_embedded_preset_are_expected(
    call: Call, write_cell: WriteCell, tmp_path: Path
) -> None:
    write_cell("rtn", "gsm8k", [1], model="micro_llada")
    status, out, _ = call("table=table3")
    assert status == 1 and "missing: micro_llada: every cell of Table 3" in out


def test_results_of_no_row_are_mentioned(call: Call, third: Path, write_cell: WriteCell) -> None:
    write_cell("awq", "gsm8k", [1], change=lambda config: config.update(iaaq={}))
    status, out, _ = call("table=table3")
    assert status == 0
    assert "1 results are of no row of the paper's tables; report sweep=tables" in out


def test_claims_are_printed_and_written(call: Call, third: Path) -> None:
    status, out, _ = call("claims")
    flat = " ".join(out.split())
    assert status == 1 and "undecided" in flat and "not measured: micro" in flat
    frame = pd.read_csv(third / "report" / "claims.csv").set_index("claim")
    assert frame.loc["both_beat_mask", "verdict"] == "undecided"
    assert frame.loc["both_beat_mask", "effect"] == 0 and frame.loc["both_beat_mask", "n"] == 20
    assert frame.loc["tmas_on_awq", "verdict"] == "not measured"
    text = (third / "report" / "claims.md").read_text(encoding="utf-8")
    assert "the command figures figure=2" in text


def test_claims_need_no_controls_to_be_complete(
    call: Call, write_cell: WriteCell, tmp_path: Path
) -> None:
    tasks = ("truthfulqa", "arc", "hellaswag", "winogrande", "piqa", "mmlu", "ceval", "humaneval",
             "gsm8k")  # fmt: skip
    for row in {row for number in (1, 2, 3, 5, 6) for row in paper_rows(number)}:
        for task in tasks:
            write_cell(row, task, [1, 0])
    status, out, _ = call("claims", "format=csv")
    assert status == 0 and "(a control)" in out and "not measured:" not in out
    assert call("table=all", "format=csv")[0] == 0


def test_claims_of_an_empty_sweep(call: Call, tmp_path: Path) -> None:
    (tmp_path / "runs" / "tables").mkdir(parents=True)
    status, out, _ = call("claims")
    assert status == 1 and "missing: no results of any row" in out


def test_the_audit_needs_no_results(call: Call, tmp_path: Path) -> None:
    status, out, err = call("audit", "folder=paper")
    assert (status, err) == (0, "")
    findings = audit()
    flat = " ".join(out.split())
    assert all(" ".join(finding.sentence.split()) in flat for finding in findings)
    assert len(pd.read_csv(tmp_path / "paper" / "audit.csv")) == len(findings)
    assert (tmp_path / "paper" / "audit.md").read_text(encoding="utf-8").startswith("# What does")


def test_frames_are_what_the_commands_write(call: Call, third: Path) -> None:
    call("table=table3")
    written = pd.read_parquet(third / "report" / "table3_cells.parquet")
    pd.testing.assert_frame_equal(table_cells("table3"), written, check_dtype=False)
    text = pd.read_csv(third / "report" / "table3.csv", index_col=[0, 1, 2], dtype=str)
    pd.testing.assert_frame_equal(table("table3"), text, check_dtype=False)
    assert claim_verdicts().set_index("claim").loc["both_beat_score", "n"] == 20
    with pytest.raises(ResultError, match="no sweep 'nope'"):
        table("table3", sweep="nope")
