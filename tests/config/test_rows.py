"""The row of a job: the one that was chosen, the one whose choices hold, or none."""

import re
from collections.abc import Iterator
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from recognized_rows import ROWS as KNOWN
from recognized_rows import row_of
from users_folder import Users, defaults

from dllmquant_exp.config.experiment import resolve, to_mapping
from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.config.identity import Experiment
from dllmquant_exp.config.overrides import NoUse
from dllmquant_exp.config.own_options import Row
from dllmquant_exp.config.saved_model import described, saved_row
from dllmquant_exp.errors import ConfigError

CONF = config_folder()
ROWS = sorted(path.stem for path in (CONF / "row").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra_is_ready() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def made(*words: str) -> Experiment:
    words = (*words, "task=micro_arc")
    return resolve(to_mapping(compose("config", list(words))), words)


def recognized(experiment: Experiment) -> str | None:
    """The row as reports recognized it by parts of the configuration."""
    return row_of(experiment.cell_config(experiment.tasks[0]))


@pytest.mark.parametrize("row", ROWS)
def test_an_option_is_its_own_row(row: str) -> None:
    experiment = made(f"row={row}")
    assert experiment.row.name == row
    assert recognized(experiment) == (row if row in KNOWN else None)
    assert experiment.row.label and "_" not in experiment.row.label


@pytest.mark.parametrize("quant", ["", "quant=w8a8", "quant=w4a4_static"])
@pytest.mark.parametrize("method", METHODS)
def test_a_job_without_row_is_the_row_whose_choices_hold(method: str, quant: str) -> None:
    components = [["", f"+{name}=on"] for name in ("tmas", "cgq", "iaaq")]
    for words in product(*components):
        try:
            experiment = made(f"method={method}", *filter(None, (*words, quant)))
        except NoUse:
            continue
        known = recognized(experiment)
        assert experiment.row.name == known or (known is None and experiment.row.name not in KNOWN)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("row=awq +tmas=on", "awq_tmas"),  # what was run counts, not what it was called
        ("row=awq_tmas_cgq cgq.mask=false", "awq+tmas+cgq+cgq.mask=False"),
        ("row=quarot_tmas_cgq cgq.mask=false", "quarot_tmas_score"),
        ("row=quarot_tmas_cgq cgq.unmasked=0.5", "quarot_tmas_cgq"),  # a variant of its row
        ("method=quarot +tmas=off", "quarot"),
        ("method=quarot calibration=llm_qat", "quarot+llm_qat"),
        ("method=quarot calibration.samples=512", "quarot"),  # a control is its row's variant
        ("method=quarot_rtn", "quarot_rtn"),
        ("method=awq quant=w4a4_static", "awq+static"),
        ("method=awq +cgq=on", "awq+cgq"),
    ],
)
def test_rows_are_told_apart_by_what_they_state(words: str, name: str) -> None:
    experiment = made(*words.split())
    assert experiment.row.name == name
    assert (name if name in KNOWN else None) == recognized(experiment)


@pytest.mark.parametrize("row", ["quarot_tmas_mask", "dllmquant_plus", "rtn"])
def test_a_saved_model_is_of_the_row_that_it_was_made_as(row: str) -> None:
    experiment = made(f"row={row}")
    saved: Any = SimpleNamespace(folder="kept", made={**described(experiment), "by": "a test"})
    assert saved_row(saved) == experiment.row


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("row", "rtn"), ("row", None), ("row", {"name": "rtn"}), ("row", {"name": 1, "label": "x"}),
        ("label", "../../up"), ("label", 3), ("quant_name", "a/b"), ("calibration", [1]),
        ("calibration", {"name": 1}), ("cgq", {"masked": float("nan")}), ("model", {}),
        ("model", {"name": "x"}),
    ],
)  # fmt: skip
def test_a_forged_account_of_a_saved_model_is_refused(part: str, value: object) -> None:
    forged: Any = SimpleNamespace(folder="kept", made={**described(made()), part: value})
    with pytest.raises(ConfigError, match=r"model=saved: .*save it again"):
        saved_row(forged)


def test_a_users_row_counts_where_it_was_chosen_alone(users: Users) -> None:
    users("row/mild", defaults(method="awq", quant="w8a8"), "row: {name: mild, label: AWQ at 8}")
    users("row/plain", "limit: 3")
    users("row/wider", "defaults: [mild]")
    users("row/published", defaults(method="quarot", quant="official"))
    users(
        "row/own_size",
        "defaults: [awq]",
        "calibration: {samples: '${model.calibration.length}'}",
    )
    found = made(*users.words, "row=mild")
    assert found.row == Row("mild", "AWQ at 8")
    for words in ("", "method=awq", "calibration.samples=4", "tracking=off"):
        assert made(*users.words, "row=mild", *words.split()).row.name == "mild", words
    for words in ("quant=w4a4", "quant.weight_bits=3", "+cgq=on", "calibration=llm_qat"):
        assert made(*users.words, "row=mild", words).row.name != "mild", words
    alike = made(*users.words, "method=awq", "quant=w8a8")
    assert alike.row.name == "awq"
    (task,) = found.tasks
    assert found.cell_folder(task) != alike.cell_folder(task), "each finds its own results"
    assert made(*users.words, "method=awq").row.name == "awq"
    assert made(*users.words, "row=plain").row == Row("plain", "plain")
    assert made(*users.words, "row=plain", "limit=4").row.name == "rtn"
    assert made(*users.words, "row=wider").row.name == "wider"
    assert made(*users.words, "row=published").row.name == "published"
    assert made(*users.words, "row=published", "quant=w4a4").row.name == "quarot"
    assert made(*users.words, "row=own_size", "model=micro_dream").row.name == "own_size"
    assert made(*users.words, "row=own_size", "calibration.samples=7").row.name == "awq"


CLASSES = """
from dataclasses import dataclass
from dllmquant_exp.calibration.cgq import Cgq
from dllmquant_exp.calibration.tmas import Tmas
from dllmquant_exp.quantization.gptq import Gptq
from dllmquant_exp.quantization.iaaq import Iaaq
""" + "".join(
    f"@dataclass(frozen=True, kw_only=True)\nclass My{name}({name}):\n    pass\n"
    for name in ("Cgq", "Tmas", "Gptq", "Iaaq")
)


@pytest.mark.parametrize(
    ("group", "base", "name", "words", "label"),
    [
        ("cgq", "on", "sub", "method=quarot +tmas=on +cgq=sub", "quarot+tmas+cgq-sub"),
        ("tmas", "on", "sub", "method=quarot +tmas=sub", "quarot+tmas-sub"),
        ("iaaq", "on", None, "method=awq +iaaq=sub", "awq+iaaq-users_parts.MyIaaq"),
        ("method", "gptq", "sub", "method=sub", "sub"),
    ],
)
def test_a_subclass_of_ours_is_no_row_of_ours(
    users: Users, group: str, base: str, name: str | None, words: str, label: str
) -> None:
    users.module("users_parts", CLASSES)
    kind = {"method": "Gptq"}.get(group, group.capitalize())
    text = (CONF / group / f"{base}.yaml").read_text()
    text = re.sub(r"_target_: \S+", f"_target_: users_parts.My{kind}", text)
    users(f"{group}/sub", re.sub(r"^name: .*", f"name: {name}", text, flags=re.MULTILINE))
    experiment = made(*users.words, *words.split())
    assert experiment.row == Row(label, label)
    assert f"-{label}-" in experiment.cell_name(experiment.tasks[0])


def test_our_classes_under_another_name_are_our_row(users: Users) -> None:
    text = (CONF / "method" / "gptq.yaml").read_text().replace("name: gptq", "name: mine")
    users("method/mine", text)
    assert made(*users.words, "method=mine").row.name == "gptq"


def test_what_is_no_row_is_not_called_like_one(users: Users) -> None:
    users("row/quarot_rtn", defaults(method="quarot_rtn", quant="w8a8"))
    assert made(*users.words, "method=quarot_rtn").row.name == "method=quarot_rtn"
    assert made(*users.words, "row=quarot_rtn").row.name == "quarot_rtn"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def check(self, architecture): return {}[architecture]", "KeyError: 'llada'"),
        ("passes = property(lambda self: 1 / 0)", None),  # plans alone ask for it
    ],
)
def test_what_a_users_class_raises_is_said_with_its_place(
    users: Users, code: str, message: str | None
) -> None:
    users.module(
        "users_sampler",
        "from dataclasses import dataclass\nfrom dllmquant_exp.calibration.sampler import Sampler\n"
        f"@dataclass(frozen=True, kw_only=True)\nclass Mine(Sampler):\n    {code}\n"
        "    def sample(self, inputs): ...\n",
    )
    users("calibration/mine", "_target_: users_sampler.Mine", "name: mine", "samples: 3")
    words = [*users.words, "method=awq", "calibration=mine"]
    if message is None:
        made(*words)
        return
    with pytest.raises(ConfigError, match=rf"{message} \(.*users_sampler.py, line 5\)"):
        made(*words)
