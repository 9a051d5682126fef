"""The table of evaluation settings in conf/README.md: ours, and the published ones.

    python tests/settings_table.py    # conf/task and published_settings.yaml -> conf/README.md

A line per model family, task and source holds the settings that are equal, and one for each setting
that is not. `test_published_settings.py` compares the table with the files, and looks for `WRONG`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dllmquant_exp.evaluation.settings import TaskSettings, profile_settings, resolve_settings

REPOSITORY = Path(__file__).resolve().parents[1]
CONF = REPOSITORY / "conf"
README = CONF / "README.md"
DATA = Path(__file__).with_name("published_settings.yaml")
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
EQUAL, WRONG = "equal", "wrong"
HEAD = """## Evaluation settings and the published ones

`evaluation=published`, the default, takes what each model's authors publish. `evaluation=paper`
takes what fits the row that the DLLMQuant paper prints, where that is another. The lines below are
computed from `conf/task` and `tests/published_settings.yaml`."""
FOOT = """Readings that are no setting here:

- The options of one question share their random masks; the published code draws each on its own.
- Ties in confidence go to the leftmost position; the published `topk` promises no order.
- The softmax behind confidences is computed in float32, or float64 for a float64 model.
- acc or acc_norm is nowhere said. Both follow from the same log-likelihoods, and every result keeps
  both. A comparison with the paper uses the one that its row fits (`reporting/paper/tables.yaml`).
- WinoGrande's five examples come from the train split, with local files from the validation split.
- GSM8K's four examples for LLaDA's chat models are OpenCompass's questions in GSM8K's own words."""


class Line(NamedTuple):
    """A line of the table."""

    model: str
    task: str
    ours: str
    published: str
    source: str
    verdict: str


def lines() -> Iterator[Line]:
    """Every family and task, then what `evaluation=paper` changes."""
    data = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    for family, published in data["published"].items():
        for task, spec in _tasks():
            settings = resolve_settings(task, spec, family)
            if task in published:
                yield from _compared(family, task, settings, published[task], data["why"])
            else:
                yield Line(family, task, settings.harness_task, "-", "-", settings.source)
    for task, spec in _tasks():
        for family in profile_settings(spec, "paper"):
            settings = resolve_settings(task, spec, family, profile="paper")
            name = f"{family}, evaluation=paper"
            yield Line(name, task, settings.harness_task, "-", "-", settings.source)


def _tasks() -> Iterator[tuple[str, dict[str, Any]]]:
    for task in yaml.safe_load((CONF / "task" / "nine.yaml").read_text())["defaults"][:-1]:
        yield task, yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["tasks"][task]


def _compared(
    family: str, task: str, settings: TaskSettings, values: dict[str, Any], why: dict[str, str]
) -> Iterator[Line]:
    published = {key: value for key, value in values.items() if key != "source"}
    ours = {key: _value(settings, key) for key in published}
    equal = {key: value for key, value in published.items() if ours[key] == value}
    yield Line(family, task, _listed(equal), "the same", values["source"], EQUAL)
    for key in [key for key in published if key not in equal]:
        one, other = _listed({key: ours[key]}), _listed({key: published[key]})
        yield Line(family, task, one, other, values["source"], why.get(key, WRONG))


def _value(settings: TaskSettings, key: str) -> Any:
    return settings.harness_task if key == "prompt" else getattr(settings, key)


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def section() -> str:
    """The text between README's two comments."""
    table = [Line("model", "task", "ours", "published", "source", "verdict")]
    rows = [" | ".join(line) for line in [*table, Line(*["---"] * 6), *lines()]]
    return "\n".join([HEAD, "", *(f"| {row} |" for row in rows), "", FOOT])


def with_section(text: str) -> str:
    """README with the section in the place of an earlier one, or at its end."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{section()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(with_section(README.read_text() if README.exists() else "# conf\n"))
