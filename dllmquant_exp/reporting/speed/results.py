"""Results of speed tasks, grouped as Table 4 shows them: by model, the newest of each row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
import yaml

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.frame import SPEED, Cell, flat
from dllmquant_exp.reporting.paper import PaperCell, paper_cells
from dllmquant_exp.store.results import canonical_json

NUMBER = 4
PARTS = ("linears", "rotations", "attention", "head")
SIZES = ("weight_bytes", "held_bytes", "resident_bytes", "peak_bytes")
COLUMNS = (  # of `speed_frame`
    "table", "model", "embedded", "row", "state", "settings", "variant", "type", "extrapolated",
    "tokens_per_second", "tokens_per_second_low", "tokens_per_second_high",
    "speedup", "speedup_low", "speedup_high", *SIZES,
    *(f"share_{name}" for name in PARTS),
    "cpu", "threads", "execution", "load_before", "load_after", "rounds", "config_hash", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class SpeedBlock:
    """One model's part of Table 4: the newest result of each row, its settings and its machine.

    Attributes:
        failed: results of settings that have no finished one.
        missing: rows that should be there and have no result.
        printed: the paper's numbers by column; empty for other models.
        differences: by a result's key, the settings that its row's other results do not share.
        repeated: how many results have newer ones of the same settings.
    """

    model: str
    embedded: bool
    cells: tuple[Cell, ...]
    failed: tuple[Cell, ...]
    missing: tuple[str, ...]
    printed: Mapping[str, PaperCell]
    differences: Mapping[str, str]
    repeated: int

    @property
    def title(self) -> str:
        what = "embedded stand-in" if self.embedded else "its shape, random weights"
        return f"{self.model} ({what})"

    def name(self, cell: Cell) -> str:
        """The row, and on lines of their own the settings that set it apart."""
        return "\n".join(filter(None, (row_name(cell), self.differences.get(_key(cell)))))


def is_speed(cell: Cell) -> bool:
    return cell.kind == SPEED


def row_name(cell: Cell) -> str:
    """The row of conf/row, or else the method; and the quantization where it is not W4A4."""
    quant = "" if cell.quant == "w4a4" else cell.quant
    return " ".join(filter(None, (cell.row or cell.method, quant)))


def variants(cell: Cell) -> list[Mapping[str, Any]]:
    """The models that were timed side by side: full precision first, then low bits."""
    found: list[Mapping[str, Any]] = cell.speed["variants"]
    return found


def low_bits(cell: Cell) -> list[Mapping[str, Any]]:
    return [variant for variant in variants(cell) if variant["activation_bits"] is not None]


@cache
def table_rows() -> tuple[str, ...]:
    """The rows of Table 4, over which its preset sweeps."""
    text = (config_folder() / "table" / "table4.yaml").read_text(encoding="utf-8")
    rows: str = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["row"]
    return tuple(rows.split(","))


def speed_blocks(
    cells: Iterable[Cell], expected: Mapping[str, bool] | None = None
) -> list[SpeedBlock]:
    """Results of speed tasks by model, rows in the order of the table, others behind them.

    Args:
        expected: models that should have every row of the table, and whether they are embedded;
            None: no row of any model is missed.
    """
    by_model: dict[str, list[Cell]] = {model: [] for model in expected or ()}
    embedded = dict(expected or {})
    for cell in sorted(filter(is_speed, cells), key=lambda cell: cell.finished_at):
        by_model.setdefault(cell.model, []).append(cell)
        embedded[cell.model] = cell.embedded
    rows = () if expected is None else table_rows()
    return [_block(name, embedded[name], by_model[name], rows) for name in sorted(by_model)]


def _block(model: str, embedded: bool, cells: Sequence[Cell], rows: Sequence[str]) -> SpeedBlock:
    finished = {_key(cell): cell for cell in cells if cell.status == "finished"}
    done = {cell.config_hash for cell in finished.values()}
    failed = {c.config_hash: c for c in cells if c.config_hash not in done}
    order = {name: place for place, name in enumerate(table_rows())}
    differences = _differences(finished)

    def place(key: str) -> tuple[int, str, str]:
        name = row_name(finished[key])
        return order.get(name.split()[0], len(order)), name, differences[key]

    there = {row_name(cell) for cell in cells}
    return SpeedBlock(
        model,
        embedded,
        cells=tuple(finished[key] for key in sorted(finished, key=place)),
        failed=tuple(failed.values()),
        missing=tuple(row for row in rows if row not in there),
        printed={c.column: c for c in paper_cells(NUMBER) if c.model == model and not embedded},
        differences=differences,
        repeated=sum(cell.status == "finished" for cell in cells) - len(finished),
    )


def speed_gaps(blocks: Iterable[SpeedBlock]) -> list[str]:
    """A line per row that is missing or failed, or one for a model without any result."""
    lines = []
    for block in blocks:
        if block.missing and not block.cells and not block.failed:
            lines.append(f"missing: {block.model}: every cell of Table {NUMBER}")
            continue
        lines += [f"missing: {block.model}, {row}: speed" for row in block.missing]
        for cell in block.failed:
            reason = cell.error.partition("\n")[0]
            lines.append(f"failed: {block.model}, {row_name(cell)}: speed: {reason}")
    return lines


def speed_frame(blocks: Iterable[SpeedBlock]) -> pd.DataFrame:
    """One line per model, row and variant, with memory in bytes and shares of a decode.

    A row that is missing or failed has one line that says so in `state`.
    """
    lines: list[dict[str, Any]] = []
    for block in blocks:
        lines += [_line(block, cell, variant) for cell in block.cells for variant in variants(cell)]
        states = dict.fromkeys(block.missing, "missing")
        states |= {row_name(cell): "failed" for cell in block.failed}
        nothing = dict.fromkeys(COLUMNS)
        lines += [{**nothing, **_head(block, row, state)} for row, state in states.items()]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _head(block: SpeedBlock, row: str, state: str) -> dict[str, Any]:
    model = {"model": block.model, "embedded": block.embedded}
    return {"table": NUMBER, **model, "row": row, "state": state}


def _line(block: SpeedBlock, cell: Cell, variant: Mapping[str, Any]) -> dict[str, Any]:
    machine, parts = cell.speed["machine"], variant["parts"] or {}
    return {
        **_head(block, row_name(cell), "finished"),
        "settings": ", ".join(block.differences[_key(cell)].split("\n")),
        "variant": variant["name"],
        "type": cell.speed["full_precision" if variant["activation_bits"] is None else "low_type"],
        **{name: variant[name] for name in ("extrapolated", *SIZES)},
        **{
            name + end: (variant[name] or {}).get(key)
            for name in ("tokens_per_second", "speedup")
            for end, key in (("", "median"), ("_low", "low"), ("_high", "high"))
        },
        **{f"share_{name}": parts.get(name) for name in PARTS},
        "cpu": cell.hardware.get("cpu"),
        "threads": cell.hardware.get("threads"),
        "execution": machine["execution"],
        "load_before": machine["load"][0],
        "load_after": machine["load"][1],
        "rounds": len(variant["seconds"]),
        "config_hash": cell.config_hash,
        "commit": cell.commit,
    }


def _settings(cell: Cell) -> dict[str, object]:
    """Everything that a measurement of speed depends on; quant's settings have no prefix."""
    config = {key: value for key, value in cell.config.items() if key != "quant"}
    machine = {"cpu": cell.hardware.get("cpu"), "threads": cell.hardware.get("threads")}
    execution = {"execution": cell.speed["machine"]["execution"]}
    return flat("", config) | flat("", cell.config.get("quant") or {}) | machine | execution


def _key(cell: Cell) -> str:
    return canonical_json(_settings(cell))


def _differences(cells: Mapping[str, Cell]) -> dict[str, str]:
    """Settings, by key, that set a result apart from others of its row, as `head_bits=8`."""
    settings = {key: _settings(cell) for key, cell in cells.items()}
    found = {}
    for key, own in settings.items():
        twins = [settings[k] for k in cells if row_name(cells[k]) == row_name(cells[key])]
        names = dict.fromkeys(name for twin in twins for name in twin)
        different = [n for n in names if any(twin.get(n) != own.get(n) for twin in twins)]
        found[key] = "\n".join(f"{name}={own.get(name)}" for name in different)
    return found
