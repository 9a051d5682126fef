"""Tables: what is put in one, what is left out, and that no failure or label is lost."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from result_content import CELL, content
from rich.console import Console

from dllmquant_exp.reporting.commands import print_report
from dllmquant_exp.reporting.frame import Cell, line_of, to_frame
from dllmquant_exp.reporting.render import Section
from dllmquant_exp.reporting.reports import sweep_report
from dllmquant_exp.reporting.statistics.intervals import Estimate, average, wilson
from dllmquant_exp.reporting.statistics.paired import paired_difference
from dllmquant_exp.reporting.tables.lines import CHANGE, FLIPS, SCORE
from dllmquant_exp.reporting.tables.sweep_table import sweep_sections

FP = (1, 1, 1, 0, 1, 1, 0, 1, 1, 1)
RTN = (1, 0, 0, 0, 1, 1, 1, 0, 1, 0)
BITS: dict[str, Any] = {"weight_bits": 4, "activation_bits": 4}
LABELS = ("Truth.", "Arc.", "Hella.", "Wino.", "PIQA", "MMLU", "C-EVAL", "Hum.", "GSM8K")


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
    first: int = 0,
    row: str = "",
    row_label: str = "",
    order: int = 1,
) -> Cell:
    """A line of the frame: a result of `method` with these item scores; None for a failed cell."""
    plain, failed = method == "fp", scores is None
    items = [{"subtask": "t", "doc_id": first + i, "score": s} for i, s in enumerate(scores or ())][
        ::order
    ]
    about = {"model": "micro", "method": method, "task": task, "seed": seed, "decoding": decoding}
    label = {"piqa": "PIQA", "gsm8k": "GSM8K", "arc": "Arc."}.get(task, task)
    settings = {
        "model": {"checkpoint": checkpoint},
        "method": {"name": method},
        "quant": None if plain else BITS | (quant or {}),
        "task": {"name": task},
        "seed": seed,
        "limit": None,
        "data_root": None,
        **(config or {}),
    }
    value = content(
        cell={**CELL, **about, "quant": None if plain else "w4a4", "label": label},
        status="failed" if failed else "finished",
        row={"name": row, "label": row_label},
        config=settings,
        config_hash="x",
        timing={"finished_at": finished_at},
        error={"message": "ValueError: it broke\nsecond line"} if failed else None,
        score=np.mean(scores or [0]),
        chance=0.5 if task == "piqa" else 0.25,
        items=items,
    )
    return line_of(Path(f"{method}-{task}-{seed}"), value)


def only(cells: list[Cell]) -> Section:
    (table,) = sweep_sections(to_frame(cells))
    return table


def names(cells: list[Cell]) -> list[str]:
    """The rows of the only table."""
    return list(only(cells).grids["score"].texts.index[:-2])


def line(table: Section, row: str, task: str) -> Any:
    """One line of a table's long form."""
    return table.lines.set_index(["row", "task"]).loc[(row, task)]


def limits(table: Section, row: str, task: str, names: Sequence[str] = SCORE) -> tuple[float, ...]:
    """A value and its limits as fractions."""
    found = line(table, row, task)
    return tuple(found[name] / 100 for name in names)


def around(estimate: Estimate) -> Any:
    return pytest.approx((estimate.value, estimate.low, estimate.high))


def printed(cells: list[Cell], width: int = 80) -> str:
    out = io.StringIO()
    report = sweep_report(to_frame(cells), ["x.json: broken"])
    assert print_report(report, Console(file=out, width=width)) == 1
    return out.getvalue()


def test_rows_and_columns_are_in_the_papers_order() -> None:
    cells = [cell(m, t) for m in ("rtn", "fp") for t in ("gsm8k", "piqa", "arc")]
    texts = only(cells).grids["score"].texts
    assert list(texts.columns) == ["Arc.", "PIQA", "GSM8K", "Avg."]
    assert list(texts.index) == ["fp", "rtn\nw4a4", "chance", "items"]
    assert texts.loc["chance"].tolist() == ["25.0", "50.0", "25.0", "33.3"]


def test_numbers_are_those_of_the_statistics() -> None:
    table = only([cell("fp"), cell("rtn", scores=RTN), cell("fp", "arc"), cell("rtn", "arc", RTN)])
    assert limits(table, "fp", "piqa") == around(wilson(8, 10))
    assert limits(table, "fp", "average") == around(average([wilson(8, 10), wilson(8, 10)]))
    change = paired_difference([float(x) for x in RTN], [float(x) for x in FP])
    assert limits(table, "rtn w4a4", "piqa", CHANGE) == around(change)
    assert limits(table, "rtn w4a4", "average", CHANGE) == around(average([change, change]))
    assert line(table, "fp", "average")[list(CHANGE)].isna().all()
    assert list(table.grids["change"].texts.index) == ["rtn\nw4a4"]


def test_items_are_paired_by_name_not_by_place_and_only_where_they_are_the_same() -> None:
    there = only([cell("fp"), cell("rtn", scores=RTN)])
    back = only([cell("fp"), cell("rtn", scores=RTN, order=-1)])
    assert limits(there, "rtn w4a4", "piqa", CHANGE) == limits(back, "rtn w4a4", "piqa", CHANGE)
    other = only([cell("fp"), cell("rtn", first=100)])
    assert other.lines["change"].isna().all()
    assert any("other items than fp" in note for note in other.notes)


def test_several_seeds_widen_the_interval_by_their_spread() -> None:
    """Two runs, right on everything and wrong on everything: half, and no idea where."""
    table = only([cell("awq", scores=(1,) * 10), cell("awq", scores=(0,) * 10, seed=1)])
    assert limits(table, "awq w4a4", "piqa") == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {"added_later": None}, ["rtn\nw4a4"]),  # a setting that older results lack
        ({"grid": "a"}, {"grid": "b"}, ["rtn\nw4a4\ngrid=a", "rtn\nw4a4\ngrid=b"]),
        (
            {"attention": {"p_bits": 4}},
            {"attention": {"p_bits": 16}},
            ["rtn\nw4a4\nattention.p_bits=16", "rtn\nw4a4\nattention.p_bits=4"],
        ),
    ],
)
def test_settings_tell_rows_apart(first: Any, second: Any, expected: list[str]) -> None:
    assert names([cell("rtn", quant=first), cell("rtn", "arc", quant=second)]) == expected


def test_long_values_are_short() -> None:
    long = [cell("rtn", quant={"texts": [f"text {i}"] * 20}) for i in (1, 2)]
    first, second = names(long)
    assert first != second and first.startswith("rtn\nw4a4\ntexts=20 values (")


def test_rows_of_conf_row_and_of_a_user_have_their_names() -> None:
    rows = [cell("rtn", quant={"static": i}, row=f"row{i}") for i in (1, 2)]
    assert names(rows) == ["rtn\nw4a4\nrow1", "rtn\nw4a4\nrow2"]
    own = cell("rtn", row="mine", row_label="My rounding")
    assert names([cell("fp"), own]) == ["fp", "My rounding\nw4a4"]
    ours = cell("rtn", row="rtn", row_label="RTN")
    assert names([cell("fp"), ours]) == ["fp", "rtn\nw4a4"], "as it was asked for"


def test_a_failed_cell_shows_and_costs_the_average() -> None:
    cells = [cell("fp"), cell("fp", "arc"), cell("rtn"), cell("rtn", "arc", None)]
    table = only(cells)
    states = table.lines.set_index(["row", "task"])["state"]
    assert states["rtn w4a4", "arc"] == "failed" and states["rtn w4a4", "piqa"] == "finished"
    averages = table.lines[table.lines["task"] == "average"]["score"]
    assert averages.notna().tolist() == [True, False]
    text = printed(cells, width=200)
    assert "failed: rtn w4a4: Arc.: seed 0: ValueError: it broke" in text
    assert "second line" not in text and "unreadable: x.json: broken" in text


def test_a_missing_cell_is_a_dash_and_no_fault() -> None:
    table = only([cell("fp"), cell("fp", "arc"), cell("rtn")])
    assert line(table, "rtn w4a4", "arc")["state"] == "missing" and table.faults == ()
    assert table.grids["score"].texts.loc["rtn\nw4a4"].tolist()[0] == "-"


def test_a_finished_cell_wins_over_a_failed_one_and_the_newest_over_others() -> None:
    table = only([
        cell("fp", scores=None, finished_at="2025-03-01"),
        cell("fp", scores=(0, 0), finished_at="2025-01-01"),
        cell("fp", scores=(1, 1), finished_at="2025-02-01"),
    ])  # fmt: skip
    assert table.lines["score"].tolist() == [100.0]
    assert any("several results" in note for note in table.notes)


@pytest.mark.parametrize(
    "difference",
    [{"config": {"limit": 5}}, {"config": {"dtype": "float64"}}, {"decoding": "smoke"},
     {"checkpoint": "elsewhere"}],
    ids=str,
)  # fmt: skip
def test_what_is_not_comparable_gets_a_table_of_its_own(difference: dict[str, Any]) -> None:
    assert len(sweep_sections(to_frame([cell("fp"), cell("rtn", **difference)]))) == 2


def test_results_of_other_threads_are_compared() -> None:
    cells = [cell("fp", config={"threads": None}), cell("rtn", config={"threads": 1})]
    assert names(cells) == ["fp", "rtn\nw4a4"]


def test_tables_of_one_title_say_what_differs() -> None:
    cells = [cell("fp", config={"dtype": dtype, "limit": 3}) for dtype in ("a", "b")]
    assert {table.title for table in sweep_sections(to_frame(cells))} == {
        "micro, micro-world tasks; dtype=a",
        "micro, micro-world tasks; dtype=b",
    }
    assert only(cells[:1]).title == "micro, micro-world tasks"


def test_stand_ins_smoke_and_limits_are_labelled() -> None:
    notes = " ".join(only([cell("fp", decoding="smoke", config={"limit": 3})]).notes)
    assert "micro is an embedded stand-in, not one of the paper's models." in notes
    assert "decoding=smoke: not the published settings." in notes and "limit=3" in notes
    assert "checkpoint: elsewhere" in only([cell("fp", checkpoint="elsewhere")]).notes


def test_nine_tasks_fit_a_terminal_and_no_number_is_cut() -> None:
    cells = [
        cell(method, task, scores)
        for method, scores in (("fp", FP), ("rtn", RTN))
        for task in LABELS
    ]
    lines = printed(cells).splitlines()
    assert max(map(len, lines)) <= 80
    narrow = printed(cells, width=40)
    assert "…" not in "".join(lines) + narrow and "C-EVAL" in narrow


def test_the_long_form_has_every_number() -> None:
    cells = [cell("fp"), cell("rtn", scores=RTN), cell("fp", "arc")]
    text = sweep_report(to_frame(cells), ()).cells["cells"].to_csv(index=False)
    rows = pd.read_csv(io.StringIO(text), dtype={"seeds": str}).set_index(["row", "task"])
    rtn = rows.loc["rtn w4a4", "piqa"]
    assert rtn["score"] == 50 and rtn["change"] == pytest.approx(-30)
    assert (rtn["n"], rtn["seeds"], rtn["config_hash"]) == (10, "0", "x")
    both = hashlib.sha256(b"x x").hexdigest()
    assert tuple(rows.loc["fp", "average"][["n", "config_hash"]]) == (20, both)
    average = rows.loc["rtn w4a4", "average"]
    assert (average["state"], average["n"]) == ("missing", 0)


def test_flips_and_outputs_that_went_wrong_stand_beside_the_change() -> None:
    """An item is right from a score of one half on; below 1% only cut prompts are told."""
    rtn = [
        cell("rtn", scores=RTN, seed=seed)._replace(
            diagnostics={"cut_prompts": 0.002, "empty": 0.0, "truncated": 0.004, "unparsed": share}
        )
        for seed, share in ((0, 0.2), (1, 0.3))
    ]
    mc2 = [cell("fp", "gsm8k", (0.4, 0.6)), cell("rtn", "gsm8k", (0.5, 0.55))]
    (section,) = sweep_sections(to_frame([cell("fp"), *rtn, *mc2]))
    lines = section.lines.set_index(["row", "task"])[[*CHANGE[:1], *FLIPS]]
    assert lines.loc["rtn w4a4", "piqa"].tolist() == pytest.approx([-30, 10, 40])
    assert lines.loc["rtn w4a4", "gsm8k"].tolist() == pytest.approx([2.5, 50, 0])
    assert lines.loc["rtn w4a4", "average"].tolist()[1:] == pytest.approx([30, 20])
    assert lines.loc["fp"].isna().all(axis=None)
    told = [note for note in section.notes if "outputs" in note]
    assert told == ["rtn w4a4, outputs: PIQA <1% of prompts cut, 25% unparsed."]


def test_seeds_are_named_and_those_that_a_task_lacks_are_missing() -> None:
    cells = [cell("fp", task) for task in ("piqa", "arc")]
    cells += [cell("rtn", t, seed=s) for t in ("piqa", "arc") for s in (0, 1, 2)]
    whole = only(cells)
    assert "seed 0 (fp); seeds 0, 1, 2 (rtn w4a4)." in whole.notes and whole.faults == ()
    partial = only(cells[:-1])
    assert partial.faults == ("missing: rtn w4a4: Arc.: seed 2",)
    assert "incomplete: missing: rtn w4a4: Arc.: seed 2." in partial.notes
    note = "rtn w4a4: its average is of seed 0, 1; seed 2 is not there on every task."
    assert note in partial.notes
    (fault,) = only([*cells[:-1], cell("rtn", "arc", None, seed=2)]).faults
    assert fault.startswith("failed: ")


def test_items_are_those_of_the_rows() -> None:
    cells = [cell("fp"), cell("rtn", scores=RTN[:7]), cell("fp", "arc")]
    assert only(cells).grids["score"].texts.loc["items"].tolist() == ["10", "7 to 10", "20"]
    assert only(cells[1:]).grids["score"].texts.loc["items"].tolist()[-1] == "-"
