"""Words of the command line: what they concern, and what of them a sweep as a whole is told."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.config.overrides import Overrides, held_words
from dllmquant_exp.errors import ConfigError


def read(line: str) -> Overrides:
    return Overrides.read(line.split())


@pytest.mark.parametrize(
    "word",
    ["calibration=random", "calibration.samples=7", "+calibration.samples=7", "~calibration.texts",
     "++calibration.samples=7", "calibration={samples: 7}", "calibration@calibration=random"],
)  # fmt: skip
def test_words_concern_groups_whatever_their_prefix(word: str) -> None:
    line = Overrides.read(["seed=1", word])
    assert line.touching("calibration") == [word]
    assert line.touches("calibration", "method") and not line.touches("calib", "method", "samples")
    assert line.without("calibration").texts == ["seed=1"]
    assert line.within("calibration").texts == [word]
    assert line.names == ["seed", "calibration"]


@pytest.mark.parametrize(
    ("word", "values"),
    [("seed=0,1", ("0", "1")), ("seed=choice(0,1)", ("0", "1")), ("seed=range(0,2)", ("0", "1")),
     ("seed='0,1'", ("'0,1'",)), ("seed=[0,1]", ("[0,1]",)), ("~seed", ()), ("+seed=3", ("3",))],
)  # fmt: skip
def test_values_are_those_of_a_sweep(word: str, values: tuple[str, ...]) -> None:
    line = Overrides.read([word])
    assert line.values("seed") == values
    assert line.value("seed") == (values[0] if len(values) == 1 else None)


def test_the_last_word_has_its_way_and_new_ones_take_the_places_of_old_ones() -> None:
    line = read("table=all seed=1 seed=2")
    assert line.value("seed") == "2"
    assert line.with_words("table=table1", "limit=3").texts == [
        "table=table1", "seed=1", "seed=2", "limit=3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "sweeps"),
    [("method=fp", False), ("-m method=fp", True), ("method=fp --multirun", True),
     ("table=table1", True), ("table=null", False), ("hydra.mode=MULTIRUN", True),
     ("table=table1 hydra.mode=RUN", False)],
)  # fmt: skip
def test_a_sweep_is_known_by_its_words(line: str, sweeps: bool) -> None:
    assert read(line).sweeps is sweeps


def test_flags_may_stand_anywhere_and_keep_their_values() -> None:
    line = read("method=fp --cfg job -m seed=1 --resolve")
    assert line.texts == ["method=fp", "seed=1"]
    assert line.flags == ("--cfg", "job", "--resolve") and line.multirun


@pytest.mark.parametrize("word", ["a=b=c,=", "x=[1,", "save=a'b"])
def test_words_that_cannot_be_read_are_refused_with_a_way_out(word: str) -> None:
    with pytest.raises(ConfigError, match="quote a value that is no plain word"):
        Overrides.read([word])


def test_names_are_checked_before_anything_is_imported() -> None:
    read("quant.attention.k_bits=4 task.tasks.micro_arc.settings.micro.mc_num=8").check_names()
    read("model=saved +tmas=on cgq.score=false limit=3 hydra.mode=RUN controls=on").check_names()
    with pytest.raises(ConfigError, match=r"config.limt .*'limit'.*config.metod .*'method'"):
        read("limt=3 metod=fp").check_names()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("calibration.sample=7", "calibration.sample is not a setting .*'samples'"),
        ("-m method=gptq,quarot method.gptq.act_oder=true", "method.gptq.act_oder .*'act_order'"),
        ("method.gtpq.damp=1", "method.gtpq is not a setting .*'gptq'"),
        ("launcher=joblib launcher.process=2", "launcher.process is not a setting"),
    ],
)
def test_settings_that_no_option_has_are_known_at_once(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(line).check_names()


@pytest.mark.parametrize("name", ["calibration", "limit", "method", "threads"])
def test_what_every_job_needs_is_not_deleted(name: str) -> None:
    with pytest.raises(ConfigError, match=f"~{name}: every job needs {name}; leave it as it is"):
        read(f"~{name}").check_names()


@pytest.mark.parametrize("word", ["method=1.5", "+tmas=true", "row=nan", "task=a,-3"])
def test_numbers_are_no_options(word: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(word)}: .* has no such option"):
        read(word).check_names()


WORDS = [
    "method=gptq,quarot", "method.gptq.act_order=true", "save='a, b'", "sweep=mine",
    "save=kept/${method.name}-${seed}", "calibration.samples=${model.calibration.control_samples}",
    r"data_root='it\'s \\ here\\'", "data_root=100%24",
]  # fmt: skip


def test_words_reach_the_sweeper_as_they_were_given() -> None:
    line = Overrides.read(["-m", *WORDS])
    assert line.of_sweep() == ["sweep=mine"]
    flag, *words = line.command_line()
    assert flag == "-m"
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
    assert config.sweep == "mine" and config.method.name == "rtn"
    assert held_words(instantiate(config.hydra.sweeper, _target_="builtins.dict")["words"]) == WORDS


def test_a_single_run_is_composed_of_everything(tmp_path: Path) -> None:
    line = Overrides.read([*WORDS[1:], "--config-dir", str(tmp_path)])
    assert line.command_line() == [f"hydra.searchpath=['file://{tmp_path}']", *WORDS[1:]]
