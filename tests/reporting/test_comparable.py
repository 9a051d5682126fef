"""Results of a sweep that are compared with each other; everything left out is named."""

from collections.abc import Callable
from typing import Any

import pytest

from dllmquant_exp.reporting.comparable import ModelResults, bits_text, model_results
from dllmquant_exp.reporting.frame import Cell, to_frame
from dllmquant_exp.reporting.samples import Sample
from dllmquant_exp.reporting.tables.sweep_table import sweep_sections

Made = Callable[..., Cell]


def entry(results: ModelResults, row: str, label: str = "PIQA") -> Sample:
    return results.variant(row).samples([label])[0]


def only(cells: list[Cell]) -> ModelResults:
    (results,) = model_results(to_frame(cells))
    return results


def setting(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Edits one setting of a configuration, as `quant.weight_bits`."""

    def change(config: dict[str, Any]) -> None:
        *sections, key = path.split(".")
        for section in sections:
            config = config[section]
        config[key] = value

    return change


def test_models_rows_and_columns(made: Made) -> None:
    cells = [made(row, "piqa", [1, 0], model=m) for m in ("b", "a") for row in ("fp", "awq")]
    first, second = model_results(to_frame(cells))
    assert (first.model, second.model) == ("a", "b")
    assert set(first.rows) == {"fp", "awq"} and first.tasks == {"PIQA": "piqa"}
    assert first.title == "a (embedded stand-in), W4A4" and first.is_w4a4
    assert len(entry(first, "awq").items) == 2
    assert entry(first, "awq", "Hum.").state == entry(first, "quarot").state == "missing"


def test_checkpoints_are_those_of_the_results_that_say_theirs(made: Made) -> None:
    cells = [made(row, "piqa", [1, 0]) for row in ("fp", "awq", "rtn")]
    pairs = zip(cells, ("sha256:a", "sha256:a", ""), strict=True)
    found = only([cell._replace(checkpoint=digest) for cell, digest in pairs])
    assert found.checkpoints == {"sha256:a"}


def test_results_of_no_row_are_set_aside(made: Made) -> None:
    odd = made("awq", "piqa", [1], change=setting("iaaq", {"mode": "online"}))
    assert odd.row == "" and model_results(to_frame([odd])) == []


def test_the_largest_comparable_group_is_kept_and_the_other_named(made: Made) -> None:
    cells = [made(row, "piqa", [1, 0]) for row in ("fp", "awq")]
    stray = made("quarot", "piqa", [1], limit=1)
    results = only([*cells, stray])
    assert set(results.rows) == {"fp", "awq"}
    assert any(note == "left out: 1 results with limit=1." for note in results.notes)


def test_other_weights_of_the_same_name_are_left_out(made: Made) -> None:
    """The failed cell names no weights and stays; what most results are of is kept."""
    first, second = "sha256:" + 32 * "1a", "sha256:" + 32 * "2b"
    cells = [made("awq", "piqa", [1, 1], seed=seed)._replace(checkpoint=first) for seed in (0, 1)]
    cells += [
        made("awq", "piqa", [0, 0], seed=2)._replace(checkpoint=second),
        made("awq", "piqa", None, seed=3),
    ]
    results = only(cells)
    kept = entry(results, "awq")
    assert [cell.seed for cell in (*kept.cells, *kept.failed)] == [0, 1, 3]
    note = "left out: 1 results of another checkpoint (sha256:2b2b2b2b; shown: sha256:1a1a1a1a)."
    assert note in results.notes
    (table,) = sweep_sections(to_frame(cells))
    assert note in table.notes and table.lines["seeds"].tolist() == ["0 1"]
    newer = cells[2]._replace(finished_at="2026-02-01")
    assert [c.seed for c in only([cells[0], newer]).cells] == [2], "the newest of equally many"


def test_saved_models_are_told_apart_by_their_recipe(made: Made) -> None:
    cells = [
        made(row, "piqa", [1], change=setting("saved", row))._replace(checkpoint=row)
        for row in ("awq", "quarot")
    ]
    assert set(only(cells).rows) == {"awq", "quarot"}


def test_full_precision_belongs_to_the_bits_that_are_kept(made: Made) -> None:
    eight = setting("quant.weight_bits", 8)
    cells = [made("fp", "piqa", [1]), made("awq", "piqa", [1]), made("rtn", "piqa", [1])]
    results = only([*cells, made("quarot", "piqa", [0], change=eight)])
    assert set(results.rows) == {"fp", "awq", "rtn"}
    assert "left out: 1 results with W8A4." in results.notes
    assert not only([cells[0], made("quarot", "piqa", [0], change=eight)]).is_w4a4


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ((4, 4, 4, 4, 16, 16, 16), "W4A4"),
        ((8, 8, 4, 4, 16, 4, 16), "W8A8, head 4 bits"),
        (
            (4, 4, None, None, None, 16, 16),
            "W4A4, P not quantized, V not quantized, K not quantized",
        ),
    ],
)
def test_bits_in_words(bits: tuple[int, ...], text: str) -> None:
    assert bits_text(bits) == text


def test_a_control_is_a_variant_behind_its_row(made: Made) -> None:
    control = setting("calibration.samples", 512)
    cells = [
        made("awq", "piqa", [0], change=control, finished_at="2026-02-01"),
        made("awq", "gsm8k", [0], change=control),
        made("awq", "piqa", [1]),
    ]
    usual, other = only(cells).rows["awq"]
    assert (usual.difference, other.difference) == ("", "calibration.samples=512")
    assert usual.by_column["PIQA"].scores.tolist() == [[1]]
    assert other.by_column["PIQA"].scores.tolist() == [[0]]


def test_the_newest_of_several_results_is_shown(made: Made) -> None:
    older = made("awq", "piqa", [0], finished_at="2025-01-01")
    newer = made("awq", "piqa", [1], change=setting("calibration.note", None))
    results = only([newer, older])  # a setting that older results lack makes no variant
    (variant,) = results.rows["awq"]
    assert variant.by_column["PIQA"].scores.tolist() == [[1]]
    assert "1 cells have several results; the newest are shown." in results.notes


def test_equal_settings_under_two_names_are_one_row(made: Made) -> None:
    cells = [made("awq", "piqa", [1]), made("awq", "piqa", [0], finished_at="2025-01-01")]
    cells = [cells[0], cells[1]._replace(quant="w4a4_by_another_name")]
    (variant,) = only(cells).rows["awq"]
    assert variant.by_column["PIQA"].seeds == (0,)


def test_one_task_stands_for_a_column(made: Made) -> None:
    cells = [made(row, "piqa", [1, 0]) for row in ("fp", "awq")]
    twin = made("awq", "piqa", [1, 1], change=setting("task.name", "other"))
    twin = twin._replace(task="piqa_letters")
    results = only([*cells, twin])
    assert results.tasks == {"PIQA": "piqa"}
    assert "left out: results of piqa_letters; piqa stands for PIQA." in results.notes
