"""Fields of a result file that tables need are read, or the file is named."""

from pathlib import Path
from typing import Any

import pytest
from result_content import CELL, CONFIG, content

from dllmquant_exp.reporting.frame import of_models, read_result, read_sweep
from dllmquant_exp.store.results import (
    SCHEMA_VERSION,
    ResultError,
    json_text,
    with_digest,
    write_result,
)


def test_what_replaces_published_decoding_is_part_of_its_name(tmp_path: Path) -> None:
    cell = content()["cell"] | {"decoding_overrides": {"gen_length": 64}}
    found = read_result(write_result(tmp_path, content(cell=cell)))
    assert found.decoding == "published (gen_length=64)"


@pytest.mark.parametrize(
    ("model", "label", "metric", "scores"),
    [
        ("llada_8b", "Arc.", "acc", [0.0, 1.0]),
        ("dream_7b", "Arc.", "", [1.0, 0.0]),  # fits acc_norm, which is the result's own
        ("llada_8b", "PIQA", "", [1.0, 0.0]),  # nothing tells
        ("mine", "Arc.", "", [1.0, 0.0]),
    ],
)
def test_scores_are_by_the_metric_that_the_papers_row_fits(
    tmp_path: Path, model: str, label: str, metric: str, scores: list[float]
) -> None:
    cell = {**CELL, "model": model, "label": label, "evaluation": "paper"}
    found = read_result(write_result(tmp_path, content(cell=cell, other_scores={"acc": [0, 1]})))
    assert (found.metric, found.scores.tolist(), found.evaluation) == (metric, scores, "paper")
    assert found.conditions["evaluation"] == "paper"


@pytest.mark.parametrize(
    ("source", "commit"),
    [({"commit": "abc", "modified": False}, "abc"), ({"commit": "abc", "modified": True}, "abc+"),
     ({"commit": None, "modified": None}, "")],
    ids=str,
)  # fmt: skip
def test_the_commit_that_made_it(tmp_path: Path, source: dict[str, Any], commit: str) -> None:
    assert read_result(write_result(tmp_path, content(source=source))).commit == commit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable result file"),
        ('{"schema_version": 1', "not a readable result file"),
        ("[1]", "holds list"),
        ('{"schema_version": 7}', "schema_version is 7"),
        ({"schema_version": SCHEMA_VERSION, "status": "finished"}, "field cell.model is missing"),
        ('{"loss": 0.1}', "schema_version is None"),
        (content(config={}), "field config.model.checkpoint is missing"),
        (
            content(config={"model": {"checkpoint": 3}}),
            "field config.model.checkpoint is",
        ),
        (
            content(config={**CONFIG, "model": None}),
            "field config.model.checkpoint is",
        ),
        (content(config={"model": {"checkpoint": "m"}}), "field config.method is missing"),
        (content(config={**CONFIG, "method": "rtn"}), "field config.method is missing or of a"),
        (content(config={**CONFIG, "quant": {}}), "'weight_bits' is missing"),
        (content(row=None), "field row.name is missing or of a wrong kind"),
        (content(config_hash=None), "field config_hash is missing or of a wrong kind"),
        (content(status="done"), "status is 'done', neither"),
        (content(cell={**CELL, "seed": "0"}), "field cell.seed is missing or of a wrong kind"),
        (content(cell={**CELL, "label": 3}), "field cell.label is missing or of a wrong kind"),
        (content(cell={**CELL, "name": "other"}), "is the result of other"),
        (content(timing={"finished_at": 3}), "field timing.finished_at is missing or of a wrong"),
        (content(items=[]), "is finished and has no items"),
        (content(items=[{"subtask": "t", "doc_id": 0, "score": 1.5}]), "is 1.5, not"),
        (content(items=[{"subtask": "t", "doc_id": 0, "score": "x"}]), "could not"),
        (
            content(
                cell={**CELL, "model": "llada_8b", "label": "Arc."}, other_scores={"acc": [1.0]}
            ),
            "1 other scores stand beside 2 items",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, text: str | dict[str, Any], message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text if isinstance(text, str) else json_text(with_digest(text)))
    with pytest.raises(ResultError, match=message) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_a_broken_cell_does_not_hide_the_others(tmp_path: Path) -> None:
    write_result(tmp_path / "s" / "good", content())
    write_result(tmp_path / "s" / "bad", {"schema_version": SCHEMA_VERSION})
    cells, problems = read_sweep(tmp_path, "s")
    assert [folder.name for folder in cells["folder"]] == ["good"]
    assert len(problems) == 1 and "bad" in problems[0]


def test_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    write_result(tmp_path / "first" / "cell", content())
    with pytest.raises(ResultError, match=r"no sweep 'frist' .*first"):
        read_sweep(tmp_path, "frist")


def test_items_are_sorted_and_equal_ones_shared(tmp_path: Path) -> None:
    items = [{"subtask": "t", "doc_id": i, "score": i / 10} for i in (10, 2, 1)]
    one = read_result(write_result(tmp_path / "a", content(items=items)))
    two = read_result(write_result(tmp_path / "b", content(items=items)))
    assert one.items == (("t", "1"), ("t", "10"), ("t", "2")) and one.items is two.items
    assert one.scores.tolist() == [0.1, 1.0, 0.2] and one.n == 3


def test_cells_of_some_models(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_result(tmp_path / "s" / name, content(cell={**CELL, "model": name}))
    frame, _ = read_sweep(tmp_path, "s")
    assert set(of_models(frame, [])["model"]) == {"a", "b"}
    assert list(of_models(frame, ["b"])["model"]) == ["b"]
    with pytest.raises(ResultError, match=r"no results of model 'c' in this sweep \(there: a, b\)"):
        of_models(frame, ["c"])


def test_steps_of_a_method_are_settings_of_its_row(tmp_path: Path) -> None:
    steps = [{"step": "rotation", "seed": 0}, {"step": "gptq", "damp": 0.1, "act_order": True}]
    config = {**CONFIG, "method": {"name": "quarot", "steps": steps}}
    turned = {**CONFIG, "method": {"name": "quarot", "steps": steps[::-1]}}
    one, other = (
        read_result(write_result(tmp_path / name, content(config=value)))
        for name, value in (("a", config), ("b", turned))
    )
    assert one.recipe == {
        "method.name": "quarot", "method.steps": "rotation, gptq", "method.rotation.seed": 0,
        "method.gptq.damp": 0.1, "method.gptq.act_order": True,
    }  # fmt: skip
    assert one.made_of != other.made_of, "the order counts"
