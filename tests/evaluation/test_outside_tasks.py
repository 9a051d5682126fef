"""Tasks of a user's own: YAML files with local rows, names in a folder, any name of lm-eval's."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from dllmquant_exp.evaluation.evaluate import evaluate_task
from dllmquant_exp.evaluation.settings import SettingsError, TaskSettings
from dllmquant_exp.evaluation.task_building import build_tasks
from dllmquant_exp.evaluation.tasks import task_configs, task_source
from dllmquant_exp.models.transformer import Transformer

CHOICES = """
task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "The {{thing}} is"
doc_to_choice: "{{colours}}"
doc_to_target: right
process_docs: !function helpers.keep
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROWS = [
    {"thing": "sky", "colours": ["blue", "green"], "right": 0},
    {"thing": "grass", "colours": ["blue", "green"], "right": 1},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task file with its rows and a function, whose module imports another one."""
    (tmp_path / "colours.yaml").write_text(CHOICES)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "helpers.py").write_text("import more\n\n\ndef keep(docs):\n    return docs\n")
    (tmp_path / "more.py").write_text("")
    return tmp_path


@pytest.fixture(autouse=True)
def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)


def settings(task: str, **changes: object) -> TaskSettings:
    values: dict[str, object] = {
        "harness_task": task, "variant": "likelihood", "metric": "acc", "source": "test",
        "mc_num": 2, "mc_batch_size": 2, "estimator": "llada",
    }  # fmt: skip
    return TaskSettings(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["path", "name"])
def test_a_yaml_with_local_rows_is_evaluated(
    by: str, folder: Path, llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    chosen = settings(str(folder / "colours.yaml"))
    if by == "name":
        chosen = settings("colours", include_path=str(folder))
    result = evaluate_task(
        llada, tokenizer, "colours", {"label": "Colours"}, chosen,
        data_root=None, limit=None, seed=0, batch_size=4,
    )  # fmt: skip
    assert [item.target for item in result.items] == ["blue", "green"]
    assert result.label == "Colours"
    assert result.chance == 0.5
    assert all(len(item.log_likelihoods or ()) == 2 for item in result.items)


@pytest.mark.parametrize("file", ["colours.yaml", "rows.jsonl", "helpers.py", "more.py"])
def test_every_file_behind_a_task_is_in_its_digest(file: str, folder: Path) -> None:
    task = str(folder / "colours.yaml")
    before = task_source(task)
    (folder / "unrelated.csv").write_text("1,2")
    assert task_source(task) == before
    with (folder / file).open("a") as changed:
        changed.write("\n")
    assert task_source(task) != before


def test_tasks_of_the_package_have_no_digest() -> None:
    assert task_source("micro_piqa") is None
    assert task_source("gsm8k") is None


def test_any_task_of_lm_evals_is_found_by_name() -> None:
    (config,) = task_configs("openbookqa")
    assert config["task"] == "openbookqa"
    assert config["output_type"] == "multiple_choice"
    assert str(task_source("openbookqa")).startswith("sha256:")


def test_a_group_gives_its_members(folder: Path) -> None:
    (folder / "pair.yaml").write_text("group: pair\ntask: [colours, other]\n")
    (folder / "other.yaml").write_text(CHOICES.replace("task: colours", "task: other"))
    configs = task_configs(str(folder / "pair.yaml"))
    assert [config["task"] for config in configs] == ["colours", "other"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("multiple_choice", "loglikelihood_rolling", "output_type = 'loglikelihood_rolling'"),
        ("helpers.keep", "os.system", "taken from the folder of the YAML alone"),
        ("helpers.keep", "..helpers.keep", "taken from the folder of the YAML alone"),
        ("helpers.keep", "helpers.gone", "AttributeError: .*gone"),
        ("helpers.keep", "raising.keep", r"ZeroDivisionError: .*raising.py, line 1\)"),
        ("helpers.keep", "broken.keep", "SyntaxError: .*broken.py"),
        ("task: colours", "task: [", "cannot be read"),
        ("task: colours", "task: !!python/object/apply:os.getcwd []", "could not determine a"),
        ("task: colours", f"task: colours\nx: {'[' * 2000}", "cannot be read"),
        ("task: colours", "task: colours\nx: &x [*x]", "more than 100000 values"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    old: str, new: str, message: str, folder: Path
) -> None:
    (folder / "raising.py").write_text("1 / 0\n")
    (folder / "broken.py").write_text("def (:\n")
    path = folder / "colours.yaml"
    path.write_text(CHOICES.replace(old, new))
    with pytest.raises(SettingsError, match=message):
        task_configs(str(path))


def test_names_and_folders_that_do_not_exist_are_refused(folder: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        task_configs(str(folder / "no.yaml"))
    with pytest.raises(SettingsError, match="unknown task 'colors'"):
        task_configs("colors", str(folder))
    with pytest.raises(SettingsError, match="is not a folder"):
        task_configs("colours", str(folder / "nowhere"))


PROGRAMS = """
task: programs
dataset_path: json
dataset_kwargs: {data_files: {test: programs.jsonl}}
output_type: generate_until
unsafe_code: true
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "{{test}}"
generation_kwargs: {until: []}
process_results: !function hostile.run
metric_list: [{metric: pass@1, aggregation: mean, higher_is_better: true}]
"""
GENERATED: dict[str, object] = {
    "variant": "generation", "metric": "pass@1", "mc_num": None, "mc_batch_size": None,
    "estimator": None, "gen_length": 8, "steps": 8, "block_length": 8,
    "remasking": "low_confidence",
}  # fmt: skip


def test_programs_run_in_the_sandbox_or_are_refused(
    folder: Path, llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    (folder / "programs.yaml").write_text(PROGRAMS)
    (folder / "hostile.py").write_text("raise SystemExit('imported in our process')\n")
    rows = folder / "programs.jsonl"
    task = settings(str(folder / "programs.yaml"), **GENERATED)
    rows.write_text(json.dumps({"prompt": "x", "test": "y"}) + "\n")
    with pytest.raises(SettingsError, match="its rows lack entry_point"):
        build_tasks(task, data_root=None, limit=None)
    row = {"prompt": "def f():\n", "test": "def check(f):\n    pass", "entry_point": "f"}
    rows.write_text(json.dumps(row) + "\n")
    result = evaluate_task(
        llada, tokenizer, "programs", {"label": "P", "chance": 0.0}, task,
        data_root=None, limit=None, seed=0, batch_size=4,
    )  # fmt: skip
    assert result.items[0].note
    assert any(note.startswith("programs ran behind") for note in result.notes)


def test_a_metric_outside_the_unit_interval_is_refused(
    folder: Path, llada: Transformer, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = CHOICES.replace("multiple_choice", "generate_until").replace(
        'doc_to_choice: "{{colours}}"', "process_results: !function helpers.length"
    )
    text = text.replace("doc_to_target: right", 'doc_to_target: "{{thing}}"')
    text = text.replace("metric: acc", "metric: length")
    (folder / "colours.yaml").write_text(text + "generation_kwargs: {until: []}\n")
    with (folder / "helpers.py").open("a") as helpers:
        helpers.write("\n\ndef length(doc, results):\n    return {'length': 2.0}\n")
    task = settings(str(folder / "colours.yaml"), **(GENERATED | {"metric": "length"}))
    with pytest.raises(SettingsError, match="length of an item is 2, and scores must lie in"):
        evaluate_task(
            llada, tokenizer, "colours", {"label": "C"}, task,
            data_root=None, limit=None, seed=0, batch_size=4,
        )  # fmt: skip
