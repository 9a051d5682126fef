"""Rows, methods and the paper's components: what composes, what is refused, and their names."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from dllmquant_exp.__main__ import config_folder
from dllmquant_exp.calibration.random_segments import RandomSegments
from dllmquant_exp.calibration.sampler import Sampler
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.config.experiment import Experiment, resolve, to_mapping
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.store.results import TABLES_SWEEP

CONF = config_folder()
ROWS = {  # row -> method and components, as the paper's Tables 2 and 5 add them up
    "fp": "fp",
    "rtn": "rtn",
    "awq": "awq",
    "gptq": "gptq",
    "awq_tmas": "awq+tmas",
    "awq_tmas_cgq": "awq+tmas+cgq",
    "dllmquant_plus": "awq+tmas+cgq+iaaq",
    "quarot": "quarot",
    "quarot_tmas": "quarot+tmas",
    "quarot_tmas_cgq": "quarot+tmas+cgq",
    "dllmquant_plusplus": "quarot+tmas+cgq+iaaq",
}
OPTIONS = {  # rows of Tables 3 and 6 -> the command line that says the same
    "quarot_tmas_mask": ["method=quarot", "+tmas=on", "+cgq=on", "cgq.score=false"],
    "quarot_tmas_score": ["method=quarot", "+tmas=on", "+cgq=on", "cgq.mask=false"],
    "static_random": ["quant=w4a4_static", "calibration=random"],
    "static_llm_qat": ["quant=w4a4_static", "calibration=llm_qat"],
    "static_uniform_time": ["quant=w4a4_static", "calibration=uniform_time"],
    "static_tmas": ["quant=w4a4_static", "+tmas=on"],
}


@pytest.fixture(scope="module", autouse=True)
def hydra_is_ready() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def made(*overrides: str) -> Experiment:
    return resolve(to_mapping(compose("config", list(overrides))), overrides)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_its_method_and_components(row: str) -> None:
    by_row = made(f"row={row}", "task=micro_arc")
    assert by_row.label == ROWS[row] and by_row.row.name == row
    method, *components = ROWS[row].split("+")
    by_hand = made(f"method={method}", *(f"+{name}=on" for name in components), "task=micro_arc")
    (task,) = by_row.tasks
    assert by_row.cell_name(task) == by_hand.cell_name(task)


@pytest.mark.parametrize("row", OPTIONS)
def test_a_row_is_its_settings(row: str) -> None:
    by_row, by_hand = made(f"row={row}", "task=micro_arc"), made(*OPTIONS[row], "task=micro_arc")
    assert by_row.cell_config(by_row.tasks[0]) == by_hand.cell_config(by_hand.tasks[0])


TABLES = {  # table -> the paper's number of rows, and of tasks
    "table1": (6, 9),
    "table2": (8, 9),
    "table3": (4, 2),
    "table4": (3, 1),
    "table5": (8, 9),
    "table6": (4, 2),
}


@pytest.mark.parametrize("models", ["embedded", "paper"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_spans_its_models_rows_and_tasks(table: str, models: str) -> None:
    words = [f"table={table}", f"models={models}"]
    config = compose("config", words, return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN" and config.sweep == TABLES_SWEEP
    swept = {key: str(value).split(",") for key, value in config.hydra.sweeper.params.items()}
    rows, tasks = TABLES[table]
    assert len(swept["row"]) == rows and swept["seed"] == ["0"]
    (suite,) = swept["task"]
    cells = set()
    for row in swept["row"]:
        for model in swept["model"]:
            experiment = made(*words, f"row={row}", f"model={model}", f"task={suite}")
            assert len(experiment.tasks) == tasks
            cells |= {experiment.cell_name(task) for task in experiment.tasks}
    assert len(cells) == rows * tasks * len(swept["model"])


def test_every_table_file_is_known() -> None:
    assert {path.stem for path in (CONF / "table").glob("*.yaml")} == set(TABLES)


def test_models_without_a_table_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no effect without table=\.\.\."):
        made("models=paper")


def test_components_that_are_off_are_as_good_as_absent() -> None:
    off = made("method=quarot", "+tmas=off", "+cgq=off", "+iaaq=off")
    absent = made("method=quarot")
    assert off.label == absent.label == "quarot"
    assert off.cell_config(off.tasks[0]) == absent.cell_config(absent.tasks[0])


def test_calibration_is_random_segments_unless_tmas_takes_its_place() -> None:
    random, tmas = made("method=gptq").calibration, made("method=gptq", "+tmas=on").calibration
    assert isinstance(random, RandomSegments) and isinstance(tmas, Tmas)
    assert (random.name, random.samples) == ("random", 128)
    assert (tmas.name, tmas.samples, tmas.quotas) == ("tmas", 512, (39, 26, 26, 39))
    assert random.texts == tmas.texts, "from the same training texts"


def test_real_models_calibrate_on_their_own_texts_and_lengths() -> None:
    for model in ("llada_8b", "dream_7b"):
        calibration = made(f"model={model}", "task=nine", "method=quarot", "+tmas=on").calibration
        assert isinstance(calibration, Tmas)
        assert (calibration.texts, calibration.steps) == (("winogrande",), 100)


def test_cells_differ_where_components_do() -> None:
    words = [
        "",
        "+cgq=on",
        "+cgq=on cgq.score=false",
        "+cgq=on cgq.unmasked_score=zero",
        "+iaaq=on",
    ]
    experiments = [made("method=gptq", *word.split()) for word in words]
    names = {experiment.cell_name(experiment.tasks[0]) for experiment in experiments}
    assert len(names) == len(words)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=rtn", "+tmas=on"], "tmas chooses calibration states, and method=rtn"),
        (["method=fp", "+tmas=on"], "tmas chooses calibration states"),
        (["method=rtn", "+cgq=on"], "cgq weights the tokens"),
        (["method=fp", "+iaaq=on"], "iaaq searches the scale of quantized values"),
        (["method=awq", "quant=w4a16", "+iaaq=on"], "iaaq searches the scale"),
        (["method=awq", "quant.attention.v_bits=16", "+iaaq=on"], "v_bits = 16"),
        (["method=rtn", "calibration=uniform_time"], "calibration has no effect with method=rtn"),
        (["method=awq", "+tmas=on", "calibration=random"], "tmas takes the place of calibration"),
        (["method=gptq", "+tmas=on", "tmas.blocks=5"], "blocks = 5"),
        (["method=gptq", "+tmas=on", "~tmas.texts"], "tmas.texts is missing"),
        (["method=gptq", "quant.weight_bits=16"], "quant.weight_bits = 16 leaves them"),
        (["method=gptq", "+tmas=on", "tmas.samples=0"], "samples = 0"),
        (["method=gptq", "+cgq=on", "cgq.score=false", "cgq.mask=false"], "both off"),
        (["method=gptq", "+cgq=off", "+cgq.score=false"], "cgq is off"),
        (["method=gptq", "method.gptq.damp=0"], "damp = 0"),
        (["method=gptq", "quant.weight_bits=9"], "weight_bits = 9"),
        (["method=gptq", "+iaaq=on", "iaaq.alphas=[1.0]"], "at least two different numbers"),
        (["method=gptq", "calibration.samples=0"], "samples = 0 must be at least 1"),
        (["method=gptq", "calibration.length=null"], "length = None is not a whole number"),
        (["quant.activation_ranges=static"], "needs activation_granularity = per_tensor"),
        (["model.outliers.strength=0"], "strength = 0"),
        (["model=llada_8b", "task=nine", "model.outliers={strength: 2.0, ffn_channels: 1, "
          "value_channels: 1}"], "embedded models only"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_or_cannot_be_is_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        made(*overrides)


def test_the_composed_configuration_is_not_changed_by_resolving_it() -> None:
    config = to_mapping(compose("config", ["row=dllmquant_plusplus"]))
    before = copy.deepcopy(config)
    resolve(config)
    assert config == before


def test_every_config_file_says_how_to_use_it() -> None:
    for group in ("method", "calibration", "tmas", "cgq", "iaaq", "row", "quant", "table"):
        for path in Path(CONF / group).glob("*.yaml"):
            lines = path.read_text().splitlines()
            assert any(line.startswith("# python -m dllmquant_exp") for line in lines[:2]), path


def test_controls_change_the_number_of_samples_and_nothing_else() -> None:
    def calibration(*overrides: str) -> Sampler:
        found = made("method=gptq", *overrides).calibration
        assert found is not None
        return found

    more = calibration("calibration.samples=512")
    assert more == replace(calibration(), samples=512)
    tmas = calibration("+tmas=on")
    fewer = calibration("+tmas=on", "tmas.samples=128")
    assert isinstance(fewer, Tmas) and fewer.quotas == (10, 7, 7, 10)
    assert replace(fewer, samples=512) == tmas
    assert calibration("+tmas=on", "tmas.tokens=8192") == replace(tmas, tokens=8192)


# method -> what its authors publish, where it differs from w4a4
OFFICIAL: dict[str, dict[str, Any]] = {
    "fp": {},
    "rtn": {"weight_grid": "max_over_7", "weight_clip_search": None},
    "awq": {"weight_grid": "max_over_7", "weight_clip_search": None},
    "gptq": {"weight_clip_search": None},
    "awq_gptq": {"weight_clip_search": None},
    "quarot": {"weight_grid": "max_over_7", "activation_clip_ratio": 0.9},
    "quarot_rtn": {"weight_grid": "max_over_7", "activation_clip_ratio": 0.9},
}


def test_official_settings_are_each_methods_own() -> None:
    assert {path.stem for path in (CONF / "method").glob("*.yaml")} == set(OFFICIAL)
    assert {path.stem for path in (CONF / "quant" / "official").glob("*.yaml")} == set(OFFICIAL)
    for method, published in OFFICIAL.items():
        ours = made(f"method={method}")
        theirs = made(f"method={method}", "quant=official")
        if method == "fp":
            assert theirs.quant is None
            continue
        assert ours.quant is not None and theirs.quant is not None
        assert (ours.quant_name, theirs.quant_name) == ("w4a4", "official")
        expected = replace(ours.quant, **published)
        if method.startswith("quarot"):
            assert expected.attention is not None
            expected = replace(expected, attention=replace(expected.attention, v_clip_ratio=0.95))
        assert theirs.quant == expected
