"""Tables as the configuration describes them: their rows, columns, captions and models.

A table of conf/table has its rows and models among the sweep's parameters, and in `report` what a
report adds: title, caption and columns. A user's folder may hold further tables and rows.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from dllmquant_exp.reporting.comparable import usual_samples
from dllmquant_exp.reporting.tables import PAPER_COLUMNS
from dllmquant_exp.store.names import AVERAGE
from dllmquant_exp.store.results import ResultError
from dllmquant_exp.store.schema import read

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class TablePreset:
    """An option of conf/table.

    Attributes:
        models: names, or a list of the option of conf/models, as `${models.first}`.
        speed: whether it measures speed instead of scores.
        paper: number of the paper's table whose numbers stand beside ours; None: of none.
        columns: labels, and `Avg.` for the average over the other columns, or over the nine tasks
            where it stands alone.
        unlike: why our rows are not the paper's, where they are not.
    """

    name: str
    rows: tuple[str, ...]
    models: str
    speed: bool
    title: str
    caption: str = ""
    paper: int | None = None
    columns: tuple[str, ...] = (*PAPER_COLUMNS, AVERAGE)
    unlike: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Labels of the tasks behind the columns."""
        named = tuple(column for column in self.columns if column != AVERAGE)
        return named or PAPER_COLUMNS


@dataclass(frozen=True)
class Presets:
    """Tables, labels of rows, and the models that belong together.

    Attributes:
        models: an option of conf/models each, as {"all": [...], "first": [...]}.
        labels: by row.
        samples: usual sizes of calibration sets, see `usual_samples`.
    """

    models: Sequence[Mapping[str, Sequence[str]]] = ()
    tables: Mapping[str, TablePreset] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)

    def table(self, name: str, *more: str) -> TablePreset:
        """A table by its name; `more`: other words that would do.

        Raises:
            ResultError: there is no such table.
        """
        if name not in self.tables:
            known = ", ".join((*sorted(self.tables), *more))
            raise ResultError(f"table = {name!r} is not one of: {known}")
        return self.tables[name]

    def place(self, model: str) -> tuple[int, str]:
        """A key that sorts models as the options name them, others behind these by name."""
        named = [name for option in self.models for name in option["all"]]
        return (named.index(model) if model in named else len(named), model)

    def narrowed(self, models: Collection[str]) -> "Presets":
        """The same with these models alone, which every table then spans; unchanged for none."""
        alone = [{"all": [model], "first": [model]} for model in models]
        return replace(self, models=alone) if models else self

    def expected(self, models: str, present: Mapping[str, bool]) -> dict[str, bool]:
        """The models that a sweep should hold, and whether they are embedded.

        An option of `models` counts with all of its models where the sweep holds one of them.

        Args:
            models: see TablePreset.
            present: the models that it holds, as the answer.
        """
        key = re.fullmatch(r"\$\{models\.(\w+)\}", models)
        named = models.split(",")
        found: dict[str, bool] = {}
        for option in self.models if key else [{"all": named, "first": named}]:
            there = [present[model] for model in option["all"] if model in present]
            if there:
                wanted = option[key[1]] if key else named
                found |= {model: present.get(model, there[0]) for model in wanted}
        return found

    def own_rows(self, table: TablePreset) -> set[str]:
        """Rows by which a model was run for this table rather than for another one. A table that
        holds all of these rows, or of which they hold all, is no other one."""
        rows = set(table.rows)
        others = [set(of.rows) for of in self.tables.values() if not of.speed]
        return rows - {
            row for other in others if not (other <= rows or rows <= other) for row in other
        }


def read_presets(*folders: Path) -> Presets:
    """Read conf/models, conf/table and conf/row of these configuration folders; of two options of
    one name the first counts.

    An option of conf/models that widens another one is left out: results do not say which of the
    two was meant.
    """
    models = [option for option in _options(folders, "models").values() if "all" in option]
    tables = {
        name: table
        for name, option in sorted(_options(folders, "table").items())
        if (table := _table(name, option)) is not None
    }
    rows = (option.get("row") for option in _options(folders, "row").values())
    return Presets(
        [{key: str(option[key]).split(",") for key in ("all", "first")} for option in models],
        tables,
        {row["name"]: row["label"] for row in rows if row},
        usual_samples(*folders),
    )


def _options(folders: Sequence[Path], group: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, yaml.load(path.read_text("utf-8"), _LOADER) or {})
    return found


def _table(name: str, option: Mapping[str, Any]) -> TablePreset | None:
    """Read an option of the group `table`; None where it sweeps over no rows."""
    words = option.get("hydra", {}).get("sweeper", {}).get("params", {})
    if "row" not in words:
        return None
    facts = {
        "name": name,
        "rows": str(words["row"]).split(","),
        "models": str(words.get("model", "${models.all}")),
        "speed": words.get("task") == "speed",
        "title": name,
    }
    return read(TablePreset, facts | option.get("report", {}), f"table={name}: report")
