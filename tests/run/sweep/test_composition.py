"""Settings in sweeps: applied where they fit, said where they do not, refused where none fits."""

import logging
from pathlib import Path

import pytest

from dllmquant_exp.config.experiment import Experiment
from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.tables import sweeps
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.quantization.rotation import Rotation
from dllmquant_exp.run.sweep import composition
from dllmquant_exp.run.sweep.composition import compose_jobs

TASK = "task=micro_arc"


def jobs(line: str) -> dict[str, Experiment]:
    """The jobs of a command line by row."""
    found = compose_jobs(Overrides.read([*line.split(), TASK]))
    return {job.row.name: job for job in found}


def act_orders(line: str) -> dict[str, bool | None]:
    return {
        row: getattr(job.method.steps.get("gptq"), "act_order", None)
        for row, job in jobs(line).items()
    }


@pytest.mark.parametrize("group", ["method", "row"])
def test_a_setting_of_all_methods_of_a_sweep(group: str, caplog: pytest.LogCaptureFixture) -> None:
    """The default method has no gptq, and is none of theirs."""
    line = f"-m {group}=gptq,quarot method.gptq.act_order=true"
    assert act_orders(line) == {"gptq": True, "quarot": True}
    assert not caplog.records


def test_a_setting_of_some_rows_of_a_table(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = act_orders("table=table2 method.gptq.act_order=true")
    assert len(found) == 8
    assert {row for row, value in found.items() if value is None} == {
        "awq", "awq_tmas", "awq_tmas_cgq", "dllmquant_plus"
    }  # fmt: skip
    assert all(value for value in found.values() if value is not None)
    (record,) = caplog.records
    assert record.message.startswith(
        "method.gptq.act_order=true is left out of 4 of 8 jobs, row=awq; row=awq_tmas; "
        "row=awq_tmas_cgq; row=dllmquant_plus: method"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-m method=awq,quarot method.rotation.seed=1", "1 of 2 jobs, method=awq: "),
        ("-m method=fp,awq calibration.samples=8", "1 of 2 jobs, method=fp: "),
        ("-m method=fp,awq ++calibration.samples=8", "1 of 2 jobs, method=fp: "),
        ("-m method=awq calibration=random,uniform_time calibration.steps=16",
         "1 of 2 jobs, calibration=random: calibration.steps is not a setting"),
        ("-m method=rtn,awq +tmas=on tmas.samples=9", "tmas chooses calibration states"),
        ("-m method=awq +tmas=off,on calibration.samples=8", "tmas takes the place of calibration"),
        ("-m method=rtn,quarot +cgq=on", "cgq weights the tokens"),
        ("-m method=fp,rtn save=kept/${method.name}", "method=fp quantizes nothing"),
        ("-m task=micro_gsm8k,micro_piqa decoding.mc_num=2", "micro_gsm8k: decoding.mc_num=2"),
    ],
)  # fmt: skip
def test_what_some_jobs_have_no_use_for_is_said(
    line: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = line.split() if "task=" in line else [*line.split(), TASK]
    with caplog.at_level(logging.WARNING):
        assert len(compose_jobs(Overrides.read(words))) == 2
    assert said in caplog.text


def test_settings_reach_the_jobs_that_they_fit() -> None:
    rotated = jobs("-m method=awq,quarot method.rotation.seed=1")
    rotation = rotated["quarot"].method.steps["rotation"]
    assert isinstance(rotation, Rotation) and rotation.seed == 1
    assert "rotation" not in rotated["awq"].method.steps
    calibrated = jobs("-m method=fp,awq calibration.samples=8")
    assert calibrated["fp"].calibration is None
    assert calibrated["awq"].calibration and calibrated["awq"].calibration.samples == 8


def test_seeds_are_composed_once_unless_a_setting_depends_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed = []
    whole = composition.experiment_of
    monkeypatch.setattr(
        composition, "experiment_of", lambda config: composed.append(1) or whole(config)
    )
    words = ["-m", "method=gptq,rtn", "seed=0,1,2", TASK]
    for more, n in (([], 2), (["save=kept/${method.name}-${seed}"], 6)):
        composed.clear()
        found = compose_jobs(Overrides.read([*words, *more]))
        assert [job.common.seed for job in found] == [0, 1, 2] * 2
        assert [(job.method.name, job.common.save) for job in found[3:]] == [
            ("rtn", f"kept/rtn-{seed}" if more else None) for seed in (0, 1, 2)
        ]
        assert len(composed) == n


def test_jobs_that_a_missing_setting_makes_alike_are_one() -> None:
    found = compose_jobs(Overrides.read(["-m", "method=fp,awq", "calibration.samples=8,9", TASK]))
    assert [job.calibration and job.calibration.samples for job in found] == [None, 8, 9]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-m method=gptq,quarot method.gptq.act_ordr=true", "did you mean 'act_order'"),
        ("-m method=awq,quarot method.gptq.act_ordr=true", "did you mean 'act_order'"),
        ("-m method=awq,quarot ++method.gptq.act_ordr=true", "did you mean 'act_order'"),
        ("-m row=gptq,quarot method.gtpq.act_order=true", "did you mean 'gptq'"),
        ("table=table2 calibration.smaples=8", "did you mean 'samples'"),
        ("-m method=rtn,fp calibration.samples=8", "calibration has no effect with method=rtn"),
        ("-m method=fp,rtn method.rotation.seed=1", "method.rotation"),
        ("-m seed=0,1 +tmas=on", "tmas chooses calibration states, and method=rtn"),
        ("method=rtn ++calibration.samples=7", "calibration has no effect with method=rtn"),
        ("method=quarot +tmas=on ++calibration.samples=7", "set tmas.samples"),
        ("method=fp calibration.samples=7", "calibration has no effect with method=fp"),
        ("method=gptq method.gptq.act_ordr=true", "did you mean 'act_order'"),
        ("models=paper", "no effect without table"),
        ("-m method=rtn,awq model=saved", "model=saved needs model.checkpoint"),
    ],
)
def test_what_no_job_has_a_use_for_is_refused(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs(line)


def test_words_of_several_tables_may_be_meant_for_some_of_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def found(word: str) -> list[int]:
        lines = sweeps(Overrides.read(["table=table3,table6", word]))
        return [len(compose_jobs(line)) for line in lines]

    assert found("method.gptq.act_order=true") == [4, 4]
    assert "method.gptq.act_order=true is left out of 4 of 4 jobs" in caplog.text
    with pytest.raises(ConfigError, match="did you mean 'act_order'"):
        found("method.gptq.act_ordr=true")


def test_a_table_of_other_models_says_which_word_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"model=llada_8b: a table .*; add models=paper$"):
        compose_jobs(Overrides.read(["table=table1", "model=llada_8b"]))
    found = compose_jobs(Overrides.read(["table=table1", "model=llada_8b", "models=paper"]))
    assert {job.model.name for job in found} == {"llada_8b"} and len(found[0].tasks) == 9


def test_an_unknown_option_among_several_is_refused_with_those_that_there_are() -> None:
    for flags in ([], ["-m"]):
        with pytest.raises(ConfigError, match=r"task has no option 'micro_piqq' \(did you mean"):
            compose_jobs(Overrides.read([*flags, "task=[micro_arc,micro_piqq]"]))


def test_problems_name_the_jobs_that_have_them() -> None:
    line = "-m method=rtn,gptq quant.weight_bits=4,16"
    with pytest.raises(ConfigError, match=r"1 of 4 jobs .*\n  method=gptq quant.weight_bits=16: "):
        jobs(line)


def test_a_users_row_and_table_are_composed(tmp_path: Path) -> None:
    for group in ("row", "table"):
        (tmp_path / group).mkdir()
    (tmp_path / "row" / "mild.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: awq\n  - override /quant: w8a8\n"
        "row: {name: mild, label: AWQ at 8}\n"
    )
    (tmp_path / "table" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      row: awq,mild\n"
    )
    found = jobs(f"table=mine --config-dir {tmp_path}")
    assert {row: job.row.label for row, job in found.items()} == {"awq": "AWQ", "mild": "AWQ at 8"}
    assert jobs(f"row=mild hydra.searchpath=[{tmp_path}]")["mild"].quant_name == "w8a8"
