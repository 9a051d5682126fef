"""The paper's tables from made-up results: numbers worked out by hand, gaps, marks, captions."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import yaml
from made_results import TASKS

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.comparable import model_results
from dllmquant_exp.reporting.frame import Cell, to_frame
from dllmquant_exp.reporting.paper import paper_cells, paper_rows
from dllmquant_exp.reporting.render import Document, Section
from dllmquant_exp.reporting.tables.preset_table import preset_document
from dllmquant_exp.reporting.tables.presets import Presets, TablePreset, read_presets

Made = Callable[..., Cell]
PRESETS = read_presets(config_folder())
TABLE_3 = ("quarot_tmas", "quarot_tmas_mask", "quarot_tmas_score", "quarot_tmas_cgq")
TABLE_6 = ("static_random", "static_llm_qat", "static_uniform_time", "static_tmas")
HALF, FULL = [1] * 10 + [0] * 10, [1] * 20


class Built(NamedTuple):
    """A preset's table with its section per model."""

    preset: TablePreset
    document: Document

    @property
    def parts(self) -> tuple[Section, ...]:
        return self.document.sections

    @property
    def models(self) -> list[str]:
        return [part.lines["model"].iloc[0] for part in self.parts]

    @property
    def gaps(self) -> list[str]:
        return [fault for part in self.parts for fault in part.faults]

    @property
    def frame(self) -> pd.DataFrame:
        return self.document.lines

    @property
    def page(self) -> pd.DataFrame:
        return self.document.page


def built(number: int, cells: Iterable[Cell], *models: Any) -> Built:
    return of_presets(f"table{number}", cells, replace(PRESETS, models=models))


def of_presets(name: str, cells: Iterable[Cell], presets: Presets) -> Built:
    preset = presets.tables[name]
    return Built(preset, preset_document(preset, model_results(to_frame(cells)), presets))


def best(part: Section) -> dict[str, tuple[str, float]]:
    """Per column its marked row and p."""
    marked = part.lines[part.lines["best"]]
    pairs = zip(marked["row"], marked["best_p"], strict=True)
    return dict(zip(marked["column"], pairs, strict=True))


def rows_of(part: Section) -> list[str]:
    """The rows' names, with the settings that set them apart."""
    scores = part.grids["score"]
    return list(scores.texts.index[: -scores.footer])


def first_line(part: Section, grid: str) -> tuple[str, list[str]]:
    texts = part.grids[grid].texts
    return texts.index[0], texts.iloc[0].tolist()


def table_3(made: Made, **changes: Any) -> list[Cell]:
    """The last row is right on every item of GSM8K, all others on half; equal on HumanEval."""
    scores = {"gsm8k": FULL, "humaneval": HALF}
    return [
        made(row, task, scores[task] if row == TABLE_3[-1] else HALF, **changes)
        for row in TABLE_3
        for task in scores
    ]


def table_6(made: Made, **changes: Any) -> list[Cell]:
    return [made(row, task, HALF, **changes) for row in TABLE_6 for task in ("gsm8k", "humaneval")]


def test_rows_and_columns_are_the_papers(made: Made) -> None:
    for number in (1, 2, 3, 5, 6):
        row = next(iter(paper_rows(number)))
        cells = [made("rtn", "gsm8k", HALF), made(row, "gsm8k", HALF)]
        presets = [{"all": ["micro"], "first": ["micro"]}]
        (block,) = built(number, cells, *presets).parts
        printed = [cell for cell in paper_cells(number) if cell.model == "llada_8b"]
        assert rows_of(block) == list(dict.fromkeys(c.name for c in printed))
        columns = block.grids["score"].texts.columns
        assert list(columns) == list(dict.fromkeys(c.column for c in printed))


def test_numbers_of_a_small_table_by_hand(made: Made) -> None:
    cells = [
        *table_3(made),
        made("fp", "gsm8k", [1] * 19 + [0]),
        made("fp", "humaneval", FULL),
    ]
    frame = built(3, cells).frame.set_index(["row", "column"])
    plain, both = frame.loc["quarot_tmas", "GSM8K"], frame.loc["quarot_tmas_cgq", "GSM8K"]
    assert plain["score"] == pytest.approx(50) and both["score"] == pytest.approx(100)
    # Wilson for 10 of 20: 0.5 +- z / (1 + z^2 / n) * sqrt(1 / (4 n) + z^2 / (4 n^2)).
    assert (plain["low"], plain["high"]) == pytest.approx((29.929, 70.071), abs=1e-3)
    assert plain["change"] == pytest.approx(-45) and both["change"] == pytest.approx(5)
    # Bonett-Price, 9 lost of 20: -9/22 +- z * sqrt((9 + 2) / 22^2 - (9/22)^2 / 22).
    assert (plain["change_low"], plain["change_high"]) == pytest.approx(
        (-65.010, -16.809), abs=1e-3
    )
    assert set(frame["n"]) == {20} and set(frame["seeds"]) == {"0"}
    assert set(frame["commit"]) == {"abc123"} and set(frame["state"]) == {"finished"}
    assert frame["config_hash"].str.fullmatch("[0-9a-f]{64}").all()
    assert frame["paper"].isna().all(), "an embedded model's numbers never stand beside the paper's"


def test_the_average_is_of_nine_tasks_or_not_at_all(made: Made) -> None:
    presets = [{"all": ["micro"], "first": ["micro"]}]
    scores = {task: [1] * (i + 1) + [0] * (9 - i) for i, task in enumerate(TASKS)}
    cells = [made("awq", task, scores[task]) for task in TASKS]
    cells += [made("quarot", task, scores[task]) for task in TASKS[1:]]
    frame = built(2, cells, *presets).frame.set_index("row")
    assert frame.loc["awq", "score"] == pytest.approx(50)  # the mean of 10, 20, ..., 90
    assert frame.loc["awq", "n"] == 90 and frame.loc["awq", "task"] == "average"
    assert frame.loc["quarot", "state"] == "missing" and frame["score"].notna().sum() == 1
    hashes = sorted(cell.config_hash for cell in cells if cell.method == "awq")
    joined = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    assert frame.loc["awq", "config_hash"] == joined


def test_an_average_has_the_seeds_that_every_task_has(made: Made) -> None:
    """PIQA lacks seeds 1 and 2, where every item of the other tasks is right."""
    scores = {seed: [1] * 20 if seed else HALF for seed in (0, 1, 2)}
    cells = [
        made("awq", task, scores[seed], seed=seed)
        for task in TASKS
        for seed in scores
        if task != "piqa" or seed == 0
    ]
    frame = built(2, cells, {"all": ["micro"], "first": ["micro"]}).frame.set_index("row")
    line = frame.loc["awq"]
    assert line["score"] == pytest.approx(50) and line["seeds"] == "0"
    averaged = sorted(cell.config_hash for cell in cells if cell.seed == 0)
    joined = hashlib.sha256(" ".join(averaged).encode()).hexdigest()
    assert line["config_hash"] == joined, "of seed 0 alone, whose average it is"
    assert line["state"] == "partial"
    (block,) = built(2, cells, {"all": ["micro"], "first": ["micro"]}).parts
    note = "AWQ: its average is of seed 0; seed 1, 2 is not there on every task."
    assert note in block.notes
    whole = built(5, [c for c in cells if c.seed == 0], {"all": ["micro"], "first": ["micro"]})
    assert not any("its average is of" in note for note in whole.parts[0].notes)


def test_a_block_says_of_which_commits_it_is(made: Made) -> None:
    cells = table_3(made)
    assert not any("made " in note for note in built(3, cells).parts[0].notes)
    other = [cell._replace(commit="4f57ca4b46") for cell in cells[:3]]
    (block,) = built(3, [*other, *cells[3:]]).parts
    note = "made by more than one commit: abc123 (5 results), 4f57ca4 (3 results)."
    assert note in block.notes
    changed = [cell._replace(commit="4f57ca4b46+") for cell in cells]
    (block,) = built(3, changed).parts
    note = "made with uncommitted changes: 4f57ca4 with uncommitted changes (8 results)."
    assert note in block.notes


def test_the_best_cell_is_marked_only_where_a_test_supports_it(made: Made) -> None:
    (block,) = built(3, table_3(made)).parts
    assert not any("no quantized row is marked" in note for note in block.notes)
    (level,) = built(6, table_6(made)).parts
    assert any("no quantized row is marked" in note for note in level.notes)
    (row, p) = best(block)["GSM8K"]
    assert row == "quarot_tmas_cgq"
    assert p == pytest.approx(2 * 2 / 2**10)  # McNemar: 10 to 0; Holm: times two columns
    assert "Hum." not in best(block), "all rows are equal there"
    assert block.grids["score"].best == {(3, 0)}


def test_holm_counts_the_columns(made: Made) -> None:
    """6 to 0 has p = 2 / 2^6 = 0.031, which is not below 0.05 once it counts twice."""
    cells = [
        made(row, task, [1] * (16 if row == TABLE_3[-1] and task == "gsm8k" else 10) + [0] * 4
             + [0] * (0 if row == TABLE_3[-1] and task == "gsm8k" else 6))
        for row in TABLE_3 for task in ("gsm8k", "humaneval")
    ]  # fmt: skip
    (block,) = built(3, cells).parts
    assert not best(block)


def test_full_precision_is_never_the_best_cell(made: Made) -> None:
    cells = [
        made(row, task, FULL if row == "fp" else HALF) for row in paper_rows(1) for task in TASKS
    ]
    (block,) = built(1, cells).parts
    assert not best(block)


def test_an_incomplete_column_has_no_best_cell(made: Made) -> None:
    cells = [c for c in table_3(made) if not (c.method == "quarot_tmas" and c.task == "gsm8k")]
    (block,) = built(3, cells).parts
    assert not best(block)


def test_the_papers_numbers_stand_beside_the_papers_models_only(made: Made) -> None:
    (block,) = built(6, table_6(made, model="llada_8b", embedded=False)).parts
    assert first_line(block, "paper") == ("RTN + Random calib", ["16.56", "14.02"])
    differences = [f"{50 - 16.56:+.1f}", f"{50 - 14.02:+.1f}"]
    assert first_line(block, "difference") == ("RTN + Random calib", differences)
    (line,) = (
        built(6, table_6(made, model="llada_8b", embedded=False))
        .frame.query("row == 'static_tmas' and column == 'GSM8K'")
        .to_dict("records")
    )
    assert line["paper_difference"] == pytest.approx(50 - line["paper"])
    for other in ("micro", "llada_8b_instruct"):
        (block,) = built(6, table_6(made, model=other, embedded=other == "micro")).parts
        assert set(block.grids) == {"score"}


def test_table_3_is_not_subtracted_from_rows_on_other_states(made: Made) -> None:
    (block,) = built(3, table_3(made, model="llada_8b", embedded=False)).parts
    assert first_line(block, "paper") == ("GPTQ", ["44.57", "25.33"])
    assert "difference" not in block.grids
    (note,) = (note for note in block.notes if note.startswith("not subtracted"))
    assert "calibrated on TMAS' masked states" in note


def test_another_checkpoint_or_decoding_is_not_subtracted_from_the_paper(made: Made) -> None:
    """The paper's numbers are shown, without a difference, and a note says why."""

    def local(config: dict[str, Any]) -> None:
        config["model"]["checkpoint"] = "random_llada"

    for changes, reason in (
        (
            {"change": local},
            "its checkpoint is random_llada, not GSAI-ML/LLaDA-8B-Base (for a copy of it, state "
            "model.same_as=GSAI-ML/LLaDA-8B-Base)",
        ),
        ({"decoding": "smoke"}, "decoding=smoke"),
    ):
        table = built(6, table_6(made, model="llada_8b", embedded=False, **changes))
        (block,) = table.parts
        assert set(block.grids) == {"score", "paper"}
        assert table.frame["paper_difference"].isna().all()
        assert table.frame["paper"].notna().all()
        notes = [note for note in block.notes if note.startswith("not subtracted")]
        assert len(notes) == 1 and notes[0].endswith(f"of another run: {reason}.")


@pytest.mark.parametrize(
    ("model", "same_as", "compared"),
    [
        ("llada_8b", "GSAI-ML/LLaDA-8B-Base", True),
        ("my_llada", "GSAI-ML/LLaDA-8B-Base", True),
        ("llada_8b", "GSAI-ML/LLaDA-8B-Instruct", False),
        ("my_llada", "GSAI-ML/LLaDA-8B-Instruct", None),
        ("my_llada", "", None),
    ],
)
def test_weights_are_compared_with_the_paper_as_what_a_user_states(
    made: Made, model: str, same_as: str, compared: bool | None
) -> None:
    """None: the paper's numbers are not even shown."""

    def local(config: dict[str, Any]) -> None:
        config["model"]["checkpoint"] = "a/folder/of/mine"

    cells = table_6(made, model=model, embedded=False, change=local)
    (block,) = built(6, [cell._replace(same_as=same_as) for cell in cells]).parts
    assert ("difference" in block.grids, "paper" in block.grids) == (
        compared is True,
        compared is not None,
    )
    stated = f", which the user states is {same_as}" if same_as else ""
    assert f"checkpoint: a/folder/of/mine{stated}" in block.notes
    if compared:
        assert first_line(block, "paper") == ("RTN + Random calib", ["16.56", "14.02"])


def test_a_limit_is_said_where_the_papers_numbers_are(made: Made) -> None:
    note = "differences from the paper compare limit=20 with its whole splits."
    theirs = table_6(made, model="llada_8b", embedded=False, limit=20)
    (block,) = built(6, theirs).parts
    assert note in block.notes and "difference" in block.grids
    (block,) = built(6, table_6(made, model="llada_8b", embedded=False)).parts
    assert not any("whole splits" in text for text in block.notes)
    (block,) = built(6, table_6(made, limit=20)).parts
    assert note not in block.notes, "nothing of the paper stands beside an embedded model"


def test_other_bits_are_not_compared_with_the_paper(made: Made) -> None:
    def eight(config: dict[str, Any]) -> None:
        config["quant"] |= {"weight_bits": 8, "activation_bits": 8}

    (block,) = built(3, table_3(made, model="llada_8b", embedded=False, change=eight)).parts
    assert set(block.grids) == {"score"} and "W8A8" in block.title


def test_controls_are_rows_of_their_own_and_never_missing(made: Made) -> None:
    def control(config: dict[str, Any]) -> None:
        config["calibration"]["samples"] = 128

    cells = [*table_3(made), made("quarot_tmas", "gsm8k", FULL, change=control)]
    table = built(3, cells)
    assert rows_of(table.parts[0])[:2] == ["GPTQ", "GPTQ\ncalibration.samples=128"]
    assert table.gaps == []
    variants = table.frame.query("column == 'Hum.'").set_index("variant")
    assert variants.loc["calibration.samples=128", "state"] == "missing"
    assert any(
        "tmas (136 states, 8,432 tokens); tmas (520 states" in note for note in table.parts[0].notes
    )


def test_missing_and_failed_cells_are_seen_and_named(made: Made) -> None:
    cells = [c for c in table_3(made) if c.method != "quarot_tmas_mask"]
    cells = [c for c in cells if not (c.method == "quarot_tmas" and c.task == "gsm8k")]
    cells.append(made("quarot_tmas", "gsm8k", None))
    table = built(3, cells)
    page = table.page
    assert page.loc[("micro (embedded stand-in), W4A4", "score", "GPTQ"), "GSM8K"] == "failed"
    assert page.loc[(slice(None), "score", "GPTQ+ CGQ w. mask"), "Hum."].tolist() == ["-"]
    assert table.gaps == [
        "failed: micro, quarot_tmas: GSM8K: seed 0: ValueError: it broke",
        "missing: micro, quarot_tmas_mask: every task",
    ]


def test_what_calibrates_nothing_needs_one_seed(made: Made) -> None:
    cells = [made(row, task, HALF, seed=seed) for row in paper_rows(1) for task in TASKS
             for seed in ((0,) if row in ("fp", "rtn") else (0, 1))]  # fmt: skip
    table = built(1, cells)
    assert table.gaps == []
    frame = table.frame.set_index(["row", "column"])
    assert (
        frame.loc[("awq", "Avg."), "seeds"] == "0 1" and frame.loc[("fp", "Avg."), "seeds"] == "0"
    )
    assert frame["change"].notna().sum() == 50


def test_models_of_a_preset_are_missed_where_one_is_there(made: Made) -> None:
    presets = [
        {"all": ["micro", "micro_2"], "first": ["micro"]},
        {"all": ["llada_8b", "dream_7b"], "first": ["llada_8b"]},
    ]
    cells = table_3(made)
    first = built(1, [*cells, made("rtn", "gsm8k", HALF)], *presets)
    assert first.models == ["micro", "micro_2"]
    assert "missing: micro_2: every cell of Table 1" in first.gaps
    assert "no results of this model in this sweep." in first.parts[1].notes
    assert built(3, cells, *presets).models == ["micro"]


def test_another_tables_rows_do_not_call_for_this_table(made: Made) -> None:
    """Table 1's rows are half of Table 5's, and would leave it half empty."""
    cells = [made(row, "gsm8k", HALF, model="other") for row in paper_rows(1)]
    assert built(5, cells).parts == built(3, cells).parts == ()
    cells.append(made("awq_tmas", "gsm8k", HALF, model="other"))
    assert built(5, cells).models == ["other"]


def test_captions_say_what_a_reader_must_know(made: Made) -> None:
    def spread(config: dict[str, Any]) -> None:
        config["model"]["outliers"] = {"strength": 20.0}

    third = built(3, table_3(made, limit=20, change=spread))
    caption = third.preset.caption
    assert "masked states" in caption and "plain GPTQ" in caption
    notes = " ".join(third.parts[0].notes)
    assert "embedded stand-in" in notes and "Outlier channels" in notes and "limit=20" in notes
    assert "full precision was not run in this sweep" in notes
    assert "tmas (520 states, 32,240 tokens)" in notes and "the one seed" in notes
    sixth = built(6, [made("static_tmas", "gsm8k", HALF)])
    caption = sixth.preset.caption
    assert "static" in caption and "cannot depend on a calibration set" in caption


def test_a_users_own_table_and_row_print_like_ours(made: Made, tmp_path: Path) -> None:
    """A table and a row, each one YAML in a folder of their own."""
    for name, content in {
        "table/mine": {
            "hydra": {"sweeper": {"params": {"model": "micro", "row": "quarot_tmas,own_row"}}},
            "report": {
                "title": "My table",
                "caption": "Mine.",
                "columns": ["GSM8K", "Hum.", "Avg."],
            },
        },
        "row/own_row": {"row": {"name": "own_row", "label": "Own row"}},
    }.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(content))
    presets = read_presets(config_folder(), tmp_path)
    cells = [c for c in table_3(made) if c.row in ("quarot_tmas", "quarot_tmas_cgq")]
    cells = [c._replace(row="own_row") if c.row == "quarot_tmas_cgq" else c for c in cells]
    table = of_presets("mine", cells, presets)
    page = table.page.loc[("micro (embedded stand-in), W4A4", "score")]
    assert list(page.columns) == ["GSM8K", "Hum.", "Avg."]
    assert list(page.index) == ["QuaRot + TMAS", "Own row", "chance", "items"]
    assert page.loc["Own row"].tolist() == ["100.0 -16.1 +0.0", "50.0 ±20.1", "75.0 -12.9 +10.0"]
    assert table.preset.title == "My table" and set(table.frame["table"]) == {"mine"}
    named = [c._replace(row_label="Recorded") if c.row == "own_row" else c for c in cells]
    assert rows_of(of_presets("mine", named, presets).parts[0])[1] == "Recorded"
    more = replace(presets.tables["table3"], name="more", rows=(*TABLE_3, "own_row"))
    presets = replace(presets, tables={**presets.tables, "more": more})
    ours = of_presets("table3", table_3(made, model="other"), presets)
    assert ours.models == ["other"], "further tables, of some or all of its rows, hide none of ours"
