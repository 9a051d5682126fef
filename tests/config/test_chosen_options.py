"""A section of a job is the option that was chosen, under its own name, and one option alone."""

import pytest
from users_folder import Users

from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.sweep.composition import compose_jobs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.name=dream_7b", "model.name=dream_7b: this model is not the option micro_llada"),
        ("++model.name=dream_7b", "is not the option micro_llada"),
        ("method.name=gptq", "is not the option rtn"),
        ("quant.name=w8a8", "is not the option w4a4"),
        ("decoding.name=smoke", "is not the option published"),
        ("method.round._target_=dllmquant_exp.quantization.gptq.Gptq", "is not the option rtn"),
        ("method=awq ~method.awq", "is not the option awq"),
        ("+iaaq._target_=dllmquant_exp.quantization.iaaq.Iaaq", "is not the option None"),
        ("row=renamed", "row=renamed: this model is not the option micro_llada"),
        ("row=other_class", "is not the option rtn"),
        ("row.name=rtn", "config.row is not a setting"),
        ("+row.name=rtn", "row.name=rtn: nothing reads it"),
        ("row=awq row.label=Mine", "row.label=Mine: nothing reads it"),
        ("+report.title=Mine", "nothing reads it"),
        ("method=[quarot,gptq]", "-m method=a,b"),
        ("calibration=[random,llm_qat]", "would merge these options"),
        ("row=[awq,gptq]", "would merge these options"),
        ("task=[micro_arc,micro_piqa]", "would merge these options"),
        ("-m method=[quarot,gptq],rtn", "would merge these options"),
        ("task.tasks.micro_arc.label=PIQA", "task=micro_nine would ask other questions"),
        ("task=micro_arc task.tasks.micro_arc.kind=official", "or stand in other columns"),
        ("++task.tasks.micro_arc.settings.micro.harness_task=micro_piqa", "other questions"),
        ("row=other_task", "row=other_task: task=micro_nine would ask other questions"),
    ],
)
def test_words_that_give_an_option_another_name_or_content(
    users: Users, words: str, message: str
) -> None:
    users("row/renamed", "model: {name: dream_7b}")
    users("row/other_task", "task: {tasks: {micro_arc: {label: PIQA}}}")
    users("row/other_class", "method: {round: {_target_: dllmquant_exp.quantization.gptq.Gptq}}")
    with pytest.raises(ConfigError, match=message):
        compose_jobs(Overrides.read([*users.words, *words.split()]))


def test_an_option_may_stand_on_one_of_ours(users: Users) -> None:
    users("method/mine", "defaults: [quarot]", "name: mine", "gptq: {act_order: true}")
    (job,) = compose_jobs(Overrides.read([*users.words, "method=mine", "+tmas=off"]))
    assert (job.label, job.row.name) == ("mine", "quarot")
