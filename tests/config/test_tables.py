"""`table=all`, `controls=on` and `models=embedded_all`: which sweeps they are and hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig
from recognized_rows import ROWS, row_of

from dllmquant_exp.__main__ import config_folder, main
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.config.experiment import Experiment, to_mapping
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.tables import sweeps
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.reporting.claims import claims_data
from dllmquant_exp.reporting.claims.scores import NEARLY_EQUAL, score_claims
from dllmquant_exp.reporting.comparable import has_usual_size, usual_samples
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.reporting.tables.presets import read_presets
from dllmquant_exp.run.sweep.composition import combinations, compose_jobs
from dllmquant_exp.store.schema import build

CONF = config_folder()
SAMPLES = usual_samples(CONF)
EMBEDDED = ("micro_llada", "micro_llada_1_5", "micro_dream")
SIZES = {"micro_llada": 512, "micro_llada_1_5": 512, "micro_dream": 182}  # of TMAS' sets
Cell = tuple[str, str, str, int | None]  # model, row, column, samples of its calibration set


def lines_of(line: str) -> list[list[str]]:
    return [found.texts for found in sweeps(Overrides.read(line.split()))]


def jobs_of(*words: str) -> list[Experiment]:
    return compose_jobs(Overrides.read(words))


def by_folder(jobs: list[Experiment]) -> dict[Path, str | None]:
    """Every cell's folder, and its row as the reports see it."""
    return {
        job.cell_folder(task): row_of(job.cell_config(task)) for job in jobs for task in job.tasks
    }


@pytest.mark.parametrize(
    ("table", "rows", "suite", "n"),
    [("table2", "awq,quarot", "micro_nine", 18),
     ("table6", "static_random,static_llm_qat,static_uniform_time", "micro_generation", 6)],
)  # fmt: skip
def test_controls_are_the_cells_that_were_run_by_hand(
    table: str, rows: str, suite: str, n: int
) -> None:
    """The same folders, whose names hold the configurations' hashes: results are found again."""
    own, controls = lines_of(f"table={table} controls=on limit=150")
    assert own == [f"table={table}", "limit=150"]
    jobs = jobs_of(*controls)
    by_hand = f"-m row={rows} task={suite} calibration.samples=512 sweep=tables limit=150"
    cells = by_folder(jobs)
    assert cells == by_folder(jobs_of(*by_hand.split())) and len(cells) == n
    assert set(cells.values()) == set(rows.split(",")), "variants of the rows, under their names"
    usual = {job.row.name for job in jobs if has_usual_size(job.cell_config(job.tasks[0]), SAMPLES)}
    assert len(usual) == (table == "table6"), "uniform time has as many as TMAS already"


def calibration_of(model: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found: dict[str, Any] = to_mapping(compose("config", [f"model={model}", "+tmas=on"]))
    return found["model"] | {"tmas": found["tmas"]}


@pytest.mark.parametrize(
    "model", [path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "saved"]
)
def test_controls_are_as_large_as_tmas_sets(model: str) -> None:
    """The size of TMAS's set is known beforehand: the quotas of all cells that a decode passes."""
    config = calibration_of(model)
    tmas = build(config["tmas"], Tmas, "tmas")
    states = sum(tmas.quotas[interval] for _, interval in tmas.visits(config["architecture"]))
    samples = config["calibration"]["control_samples"]
    assert abs(states - samples) <= NEARLY_EQUAL * states, (states, samples)


def test_controls_of_each_model_have_its_own_size() -> None:
    (own,) = lines_of("table=table6 models=embedded_all controls=on")[1:]
    sizes = {(job.model.name, job.calibration.samples) for job in jobs_of(*own)}
    assert sizes == set(SIZES.items())


def test_controls_of_all_tables_come_last() -> None:
    lines = lines_of("table=all controls=on seed=0,1")
    assert lines[:6] == lines_of("table=all seed=0,1")
    assert [line[0] for line in lines[6:]] == [f"table=table{n}" for n in (1, 2, 5, 6)]
    assert all("seed=0,1" in line for line in lines[6:])
    assert lines_of("table=table3 controls=off") == [["table=table3"]]


def test_table_4_leaves_the_other_tables_their_settings() -> None:
    lines = lines_of("table=table3,table4 limit=5 seed=0,1 dtype=bfloat16 shards=4 threads=2")
    assert lines[0] == [
        "table=table3", "limit=5", "seed=0,1", "dtype=bfloat16", "shards=4", "threads=2"
    ]  # fmt: skip
    assert lines[1] == ["table=table4", "threads=2"]
    with pytest.raises(ConfigError, match="limit=5 would change nothing in task=speed"):
        jobs_of("table=table4", "limit=5")


def test_settings_of_table_4s_measurement_can_be_given() -> None:
    (task,) = jobs_of("table=table4", "task.tasks.speed.measure.micro.rounds=3")[0].tasks
    assert task.speed is not None and task.speed.rounds == 3


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("controls=on", "no effect without one of these tables"),
        ("table=table3 controls=on", "no effect without one of these tables"),
        ("table=table2 row=awq controls=on", "row=... replaces them all"),
        ("table=table2 controls=yes", "controls=yes: controls is on or off"),
    ],
)
def test_controls_that_would_change_nothing_are_refused(
    line: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        lines_of(line)
    for words in (line.split(), ["plan", *line.split()]):
        assert main(words) == 2
        assert error in capsys.readouterr().err


def _composed(loader: ConfigLoader, *words: str) -> DictConfig:
    return loader.load_configuration("config", list(words), RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def every_cell() -> Iterator[set[Cell]]:
    """The cells of table=all models=embedded_all controls=on."""
    cells = set()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        labels = {
            suite: [task.label for task in _composed(loader, f"task={suite}").task.tasks.values()]
            for suite in ("micro_nine", "micro_generation", "speed")
        }
        for line in sweeps(Overrides.read(["table=all", "models=embedded_all", "controls=on"])):
            for job in combinations(_composed(loader, *line.of_sweep()), loader, line.texts):
                word = dict(text.split("=") for text in job)
                control = "calibration.samples" in word
                size = SIZES[word["model"]] if control else None
                cells |= {
                    (word["model"], word["row"], label, size) for label in labels[word["task"]]
                }
        yield cells


@pytest.mark.parametrize("model", EMBEDDED)
def test_every_claim_has_its_cells_for_every_embedded_model(
    every_cell: set[Cell], model: str
) -> None:
    """At equal size, a row's own calibration set is as large as the other's own or its control."""

    def sizes(row: str, label: str) -> set[int]:
        found = {size for *cell, size in every_cell if cell == [model, row, label]}
        sampler = ROWS[row][1]
        usual = SIZES[model] if sampler == "tmas" else SAMPLES[sampler] if sampler else 0
        return {size or usual for size in found}

    for claim in score_claims():
        for label in (*claim.tasks, *claim.less):
            for row in (*claim.better, *claim.worse):
                assert sizes(row, label), (claim.name, row, label)
            if claim.equal_size:
                (better,), (worse,) = claim.better, claim.worse
                assert sizes(better, label) & sizes(worse, label), (claim.name, label)
    for row in ("dllmquant_plusplus", *claims_data()["best"]["rivals"]):
        assert all(sizes(row, label) for label in PAPER_COLUMNS), row
    for row in ("rtn", "quarot", "dllmquant_plusplus"):
        assert (model, row, "Speed", None) in every_cell


def test_reports_miss_models_of_the_usual_options_only() -> None:
    """Results of models=embedded must not lack the models that embedded_all adds to Table 2."""
    firsts = [preset["first"] for preset in read_presets(CONF).models]
    assert firsts == [["micro_llada"], ["llada_8b"]]


def test_tables_that_are_not_there_are_named_beside_all_of_them() -> None:
    with pytest.raises(ConfigError, match=r"no option 'table8' \(there are: table1, .*, all\)"):
        lines_of("table=table1,table8")
    assert lines_of("table=null") == [["table=null"]]
    for word in ("table=table1,table2", "table=choice(table1,table2)"):
        assert lines_of(word) == [["table=table1"], ["table=table2"]]
