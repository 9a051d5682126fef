"""Tables: what is put in one, what is left out, and that no failure or label is lost."""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dllmquant_exp.reporting.frame import Cell, line_of, to_frame
from dllmquant_exp.reporting.render import AVERAGE
from dllmquant_exp.reporting.samples import Entry
from dllmquant_exp.reporting.statistics.intervals import Estimate, average, wilson
from dllmquant_exp.reporting.statistics.paired import paired_difference
from dllmquant_exp.reporting.tables.lines import CHANGE, SCORE, Table, score_grids
from dllmquant_exp.reporting.tables.sweep_table import build_tables, missing, print_tables, to_csv

FP = (1, 1, 1, 0, 1, 1, 0, 1, 1, 1)
RTN = (1, 0, 0, 0, 1, 1, 1, 0, 1, 0)


def cell(
    method: str,
    task: str = "piqa",
    scores: tuple[float, ...] | None = FP,
    *,
    seed: int = 0,
    quant: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    finished_at: str = "2025-01-01",
    decoding: str = "published",
    checkpoint: str = "embedded:micro",
    label: str | None = None,
    first: int = 0,
    row: str = "",
    row_label: str = "",
    order: int = 1,
) -> Cell:
    """A line of the frame: a result of `method` with these item scores; None for a failed cell."""
    plain = method == "fp"
    return line_of(
        Path(f"{method}-{task}-{seed}"),
        {
            "status": "failed" if scores is None else "finished",
            "cell": {
                "model": "micro",
                "method": method,
                "quant": None if plain else "w4a4",
                "task": task,
                "label": label or {"piqa": "PIQA", "gsm8k": "GSM8K", "arc": "Arc."}[task],
                "kind": "micro",
                "seed": seed,
                "embedded": True,
                "decoding": decoding,
            },
            "row": {"name": row, "label": row_label},
            "config": {
                "model": {"checkpoint": checkpoint},
                "method": {"name": method},
                "quant": None
                if plain
                else {"weight_bits": 4, "activation_bits": 4, **(quant or {})},
                "task": {"name": task},
                "seed": seed,
                "limit": None,
                "data_root": None,
                **(config or {}),
            },
            "config_hash": "x",
            "timing": {"finished_at": finished_at},
            "error": None
            if scores is not None
            else {"message": "ValueError: it broke\nsecond line"},
            "score": None if scores is None else sum(scores) / len(scores),
            "chance": 0.5 if task == "piqa" else 0.25,
            "items": [
                {"subtask": "t", "doc_id": first + i, "score": s}
                for i, s in enumerate(scores or ())
            ][::order],
        },
    )


def entries(table: Table, row: int) -> list[Entry]:
    return table.rows[row].of(table.tasks)


def line(table: Table, row: int, place: str) -> Any:
    """One line of a table's long form."""
    lines = table.lines.set_index(["line", "place"])
    return lines.loc[(row, place)]


def only(cells: list[Cell]) -> Table:
    (table,) = build_tables(to_frame(cells))
    return table


def printed(cells: list[Cell], width: int = 80) -> str:
    out = io.StringIO()
    print_tables(build_tables(to_frame(cells)), ["x.json: broken"], Console(file=out, width=width))
    return out.getvalue()


def test_rows_and_columns_are_in_the_papers_order() -> None:
    table = only([cell(m, t) for m in ("rtn", "fp") for t in ("gsm8k", "piqa", "arc")])
    assert list(table.tasks) == ["arc", "piqa", "gsm8k"]
    assert [row.name for row in table.rows] == ["fp", "rtn\nw4a4"]
    assert table.chance == {"arc": 0.25, "piqa": 0.5, "gsm8k": 0.25}


def test_numbers_are_those_of_the_statistics() -> None:
    table = only([cell("fp"), cell("rtn", scores=RTN), cell("fp", "arc"), cell("rtn", "arc", RTN)])
    assert limits(table, 0, "piqa") == around(wilson(8, 10))
    assert limits(table, 0, AVERAGE) == around(average([wilson(8, 10), wilson(8, 10)]))
    change = paired_difference([float(x) for x in RTN], [float(x) for x in FP])
    assert limits(table, 1, "piqa", CHANGE) == around(change)
    assert limits(table, 1, AVERAGE, CHANGE) == around(average([change, change]))
    assert np.isnan(limits(table, 0, AVERAGE, CHANGE)).all()


def limits(table: Table, row: int, place: str, names: Sequence[str] = SCORE) -> tuple[float, ...]:
    """A value and its limits as fractions."""
    found = line(table, row, place)
    return tuple(found[name] / 100 for name in names)


def around(estimate: Estimate) -> Any:
    return pytest.approx((estimate.value, estimate.low, estimate.high))


def test_items_are_paired_by_name_not_by_place() -> None:
    there = only([cell("fp"), cell("rtn", scores=RTN)])
    back = only([cell("fp"), cell("rtn", scores=RTN, order=-1)])
    assert limits(there, 1, "piqa", CHANGE) == limits(back, 1, "piqa", CHANGE)


def test_other_items_give_no_difference_and_a_note() -> None:
    table = only([cell("fp"), cell("rtn", first=100)])
    assert table.lines["change"].isna().all()
    assert any("other items than fp" in note for note in table.notes)


def test_seeds_are_averaged_item_by_item() -> None:
    table = only([cell("fp", scores=(1, 0)), cell("fp", scores=(1, 1), seed=1)])
    (entry,) = entries(table, 0)
    assert entry.sample is not None and entry.sample.scores.tolist() == [[1, 0], [1, 1]]
    assert entry.score is not None and entry.score.estimate.value == 0.75


def test_several_seeds_widen_the_interval_by_their_spread() -> None:
    """Two runs, right on everything and wrong on everything: half, and no idea where."""
    table = only([cell("awq", scores=(1,) * 10), cell("awq", scores=(0,) * 10, seed=1)])
    assert limits(table, 0, "piqa") == (0.5, 0.0, 1.0)


def test_settings_that_older_results_lack_make_no_row() -> None:
    cells = [cell("rtn", quant={"added_later": None}), cell("rtn", task="arc")]
    assert [row.name for row in only(cells).rows] == ["rtn\nw4a4"]


def test_nested_settings_tell_rows_apart() -> None:
    cells = [cell("rtn", quant={"attention": {"p_bits": bits}}) for bits in (4, 16)]
    names = [row.name for row in only(cells).rows]
    assert names == ["rtn\nw4a4\nattention.p_bits=16", "rtn\nw4a4\nattention.p_bits=4"]


def test_a_failed_cell_shows_and_costs_the_average() -> None:
    cells = [cell("fp"), cell("fp", "arc"), cell("rtn"), cell("rtn", "arc", None)]
    table = only(cells)
    assert [e.state for e in entries(table, 1)] == ["failed", "finished"]
    averages = table.lines[table.lines["place"] == AVERAGE]["score"]
    assert averages.notna().tolist() == [True, False]
    text = printed(cells)
    assert "failed" in text and "rtn, arc, seed 0: ValueError: it broke" in text
    assert "second line" not in text


def test_a_missing_cell_is_a_dash() -> None:
    table = only([cell("fp"), cell("fp", "arc"), cell("rtn")])
    assert [e.state for e in entries(table, 1)] == ["missing", "finished"]


def test_a_finished_cell_wins_over_a_failed_one_and_the_newest_over_others() -> None:
    table = only([
        cell("fp", scores=None, finished_at="2025-03-01"),
        cell("fp", scores=(0, 0), finished_at="2025-01-01"),
        cell("fp", scores=(1, 1), finished_at="2025-02-01"),
    ])  # fmt: skip
    assert [e.score and e.score.estimate.value for e in entries(table, 0)] == [1.0]
    assert any("several results" in note for note in table.notes)


@pytest.mark.parametrize(
    "difference",
    [{"config": {"limit": 5}}, {"config": {"dtype": "float64"}}, {"decoding": "smoke"},
     {"checkpoint": "elsewhere"}],
    ids=str,
)  # fmt: skip
def test_what_is_not_comparable_gets_a_table_of_its_own(difference: dict[str, Any]) -> None:
    assert len(build_tables(to_frame([cell("fp"), cell("rtn", **difference)]))) == 2


def test_results_of_other_threads_are_compared() -> None:
    cells = [cell("fp", config={"threads": None}), cell("rtn", config={"threads": 1})]
    assert [row.name for row in only(cells).rows] == ["fp", "rtn\nw4a4"]


def test_rows_of_the_same_bits_are_told_apart() -> None:
    cells = [cell("rtn", quant={"grid": "a"}), cell("rtn", quant={"grid": "b"}, scores=RTN)]
    assert [row.name for row in only(cells).rows] == ["rtn\nw4a4\ngrid=a", "rtn\nw4a4\ngrid=b"]


def test_stand_ins_smoke_and_limits_are_labelled() -> None:
    text = printed([cell("fp", decoding="smoke", config={"limit": 3})], width=200)
    assert "micro is an embedded stand-in, not one of the paper's models." in text
    assert "decoding=smoke: not the published settings." in text
    assert "limit=3" in text
    assert "checkpoint: elsewhere" in printed([cell("fp", checkpoint="elsewhere")])
    assert "unreadable: x.json: broken" in text


def test_nine_tasks_fit_a_terminal_and_no_number_is_cut() -> None:
    labels = ("Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K")
    cells = [
        cell(method, task="piqa", scores=scores, label=label)
        for method, scores in (("fp", FP), ("rtn", RTN))
        for label in labels
    ]
    cells = [one._replace(task=one.label) for one in cells]
    lines = printed(cells).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    narrow = printed(cells, width=40)
    assert "…" not in narrow and "C-EVAL" in narrow


def test_csv_has_every_number() -> None:
    cells = [cell("fp"), cell("rtn", scores=RTN), cell("fp", "arc")]
    text = to_csv(build_tables(to_frame(cells)))
    rows = list(csv.DictReader(io.StringIO(text)))
    rtn = next(r for r in rows if r["row"] == "rtn w4a4" and r["task"] == "piqa")
    assert float(rtn["score"]) == 50 and float(rtn["change"]) == pytest.approx(-30)
    assert (rtn["n"], rtn["seeds"], rtn["config_hash"]) == ("10", "0", "x")
    absent = next(r for r in rows if r["row"] == "rtn w4a4" and r["task"] == "arc")
    assert (absent["state"], absent["score"]) == ("missing", "")
    assert {r["task"] for r in rows} == {"piqa", "arc", "average"}
    averages = {r["row"]: r for r in rows if r["task"] == "average"}
    both = hashlib.sha256(b"x x").hexdigest()
    assert (averages["fp"]["n"], averages["fp"]["config_hash"]) == ("20", both)
    assert (averages["rtn w4a4"]["state"], averages["rtn w4a4"]["n"]) == ("missing", "0")


def test_seeds_are_named_and_those_that_a_task_lacks_are_missing() -> None:
    cells = [cell("fp", task) for task in ("piqa", "arc")]
    cells += [cell("rtn", t, seed=s) for t in ("piqa", "arc") for s in (0, 1, 2)]
    whole = only(cells)
    assert "seed 0 (fp); seeds 0, 1, 2 (rtn w4a4)." in whole.notes and missing(whole) == []
    partial = only(cells[:-1])
    assert missing(partial) == ["rtn w4a4: Arc.: seed 2"]
    note = "rtn w4a4: its average is of seed 0, 1; seed 2 is not there on every task."
    assert note in partial.notes
    assert "missing: rtn w4a4: Arc.: seed 2" in printed(cells[:-1], width=200)
    failed = [*cells[:-1], cell("rtn", "arc", None, seed=2)]
    assert missing(only(failed)) == [], "it failed, and is noted as such"


def test_tables_of_one_title_say_what_differs() -> None:
    cells = [cell("fp", config={"dtype": dtype, "limit": 3}) for dtype in ("a", "b")]
    assert {table.title for table in build_tables(to_frame(cells))} == {
        "micro, micro-world tasks; dtype=a",
        "micro, micro-world tasks; dtype=b",
    }
    assert only(cells[:1]).title == "micro, micro-world tasks"


def test_rows_of_the_papers_tables_have_their_names_and_long_values_are_short() -> None:
    rows = [cell("rtn", quant={"static": i}, row=f"row{i}") for i in (1, 2)]
    assert [row.name for row in only(rows).rows] == ["rtn\nw4a4\nrow1", "rtn\nw4a4\nrow2"]
    long = [cell("rtn", quant={"texts": [f"text {i}"] * 20}) for i in (1, 2)]
    first, second = (row.name for row in only(long).rows)
    assert first != second and first.startswith("rtn\nw4a4\ntexts=20 values (")


def test_items_are_those_of_the_rows() -> None:
    cells = [cell("fp"), cell("rtn", scores=RTN[:7]), cell("fp", "arc")]
    footer = dict(score_grids(only(cells))["score"].footer)
    assert footer["items"] == ("10", "7 to 10", "20")
    assert dict(score_grids(only(cells[1:]))["score"].footer)["items"][-1] == "-"


def test_a_row_that_was_recorded_has_its_own_label() -> None:
    cells = [cell("fp"), cell("rtn", row="mine", row_label="My rounding")]
    assert [row.name for row in only(cells).rows] == ["fp", "My rounding\nw4a4"]
    cells = [cell("fp"), cell("rtn", row="rtn", row_label="RTN")]
    assert [row.name for row in only(cells).rows] == ["fp", "rtn\nw4a4"], "as it was asked for"
