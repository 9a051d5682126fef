"""Which models belong together: the options of the group `models`, as conf/models has them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

Presets = Sequence[Mapping[str, Sequence[str]]]


def read_presets(config_folder: Path) -> list[dict[str, list[str]]]:
    """The models of each option: `all` for Tables 1 and 4, `first` for the other tables.

    Not of an option that widens another one: results do not say which of the two was meant.
    """
    texts = [path.read_text("utf-8") for path in sorted((config_folder / "models").glob("*.yaml"))]
    options = [option for text in texts if "all" in (option := yaml.safe_load(text))]
    return [{key: str(option[key]).split(",") for key in ("all", "first")} for option in options]


def place(presets: Presets, model: str) -> tuple[int, str]:
    """A key that sorts models as the presets name them, others behind these by name."""
    named = [name for preset in presets for name in preset["all"]]
    return (named.index(model) if model in named else len(named), model)


def narrowed(presets: Presets, models: Collection[str]) -> Presets:
    """Presets of these models alone, each of which every table then spans; all, where none is
    named."""
    return [{"all": [model], "first": [model]} for model in models] or presets


def expected_models(
    presets: Iterable[Mapping[str, Sequence[str]]], key: str, present: Mapping[str, bool]
) -> dict[str, bool]:
    """The models that a sweep should hold: those of each preset of which it holds one.

    Args:
        key: `all` or `first`.
        present: the models that it holds, and whether they are embedded; as what is returned.
    """
    expected: dict[str, bool] = {}
    for preset in presets:
        there = [present[model] for model in preset["all"] if model in present]
        if there:
            expected |= {model: present.get(model, there[0]) for model in preset[key]}
    return expected
