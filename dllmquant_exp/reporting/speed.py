"""Table 4 from results of speed tasks: the paper's columns, blocks, parts of a decode, and memory.

Each model has a section with the newest result of each row, its settings and its machine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd
import yaml

from dllmquant_exp.config.folder import config_folder
from dllmquant_exp.reporting.frame import SPEED, Cell, flat, grouped
from dllmquant_exp.reporting.notes import source_notes
from dllmquant_exp.reporting.paper import paper_cells, paper_model
from dllmquant_exp.reporting.render import Document, Grid, Section, grid
from dllmquant_exp.store.results import canonical_json

NUMBER = 4
TITLE = "Table 4"
CAPTION = (
    "Speed and memory in full precision and in 4 bits, on the CPU. Tokens per second count the "
    "tokens of whole responses, not those of their prompts; medians over interleaved rounds in one "
    "process, quartiles in brackets. Full precision is the fastest form that the machine has, "
    "never an emulated one. Weights have 4 bits in every quantized line. Activations of 4 bits are "
    "multiplied as bytes, as those of 8 bits are: A4 saves up to a fifth of the time over A8 with "
    "AVX2, where its sums need widening less often, and none with AMX."
)
PAPER_COLUMNS = ("Speed FP", "Speed Quant", "Speed Up", "Memory FP", "Memory Quant", "Mem. Sav.")
COUNTED = {  # bits of linears, head and embedding, as result files name them
    "16 16 16": "16 bits",
    "4 16 16": "4 bits, head and embedding 16",
    "4 8 16": "4 bits, head 8, embedding 16",
    "4 8 8": "4 bits, head and embedding 8",
}
PARTS = ("linears", "rotations", "attention", "head")
SIZES = ("weight_bytes", "held_bytes", "resident_bytes", "peak_bytes")
COLUMNS = [  # of a section's lines
    "table", "model", "embedded", "row", "state", "settings", "variant", "type", "extrapolated",
    "tokens_per_second", "tokens_per_second_low", "tokens_per_second_high",
    "speedup", "speedup_low", "speedup_high", *SIZES,
    *(f"share_{name}" for name in PARTS),
    "cpu", "threads", "execution", "load_before", "load_after", "rounds", "config_hash", "commit",
]  # fmt: skip
GIB = 2**30
Named = Sequence[tuple[str, Cell]]  # results under their row and, below it, what sets them apart


def speed_document(sections: Iterable[Section]) -> Document:
    return Document("table4", TITLE, CAPTION, tuple(sections), columns=COLUMNS)


def speed_cells(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """The results of speed tasks by model, the newest last."""
    timed = sorted((cell for cell in cells if cell.kind == SPEED), key=lambda of: of.finished_at)
    return grouped(timed, "model")


def speed_sections(
    cells: Iterable[Cell],
    expected: Mapping[str, bool] | None = None,
    order: Callable[[str], Any] = str,
) -> list[Section]:
    """A section per model, rows in the order of the table, others behind them.

    Args:
        expected: models that should have every row of the table, and whether they are embedded;
            None: no row of any model is missed.
        order: a key that sorts models.
    """
    by_model = {**{model: [] for model in expected or ()}, **speed_cells(cells)}
    embedded = {**(expected or {}), **{m: own[-1].embedded for m, own in by_model.items() if own}}
    rows = () if expected is None else table_rows()
    models = sorted(by_model, key=order)
    return [_section(model, embedded[model], by_model[model], rows) for model in models]


def speed_title(model: str, embedded: bool) -> str:
    return f"{model} ({'embedded stand-in' if embedded else 'its shape, random weights'})"


def row_name(cell: Cell) -> str:
    """The row of conf/row, or else the method; and the quantization where it is not W4A4."""
    quant = "" if cell.quant == "w4a4" else cell.quant
    return " ".join(filter(None, (cell.row or cell.method, quant)))


def variants(cell: Cell) -> list[Mapping[str, Any]]:
    """The models that were timed side by side: full precision first, then low bits."""
    found: list[Mapping[str, Any]] = cell.speed["variants"]
    return found


def low_bits(cell: Cell) -> list[Mapping[str, Any]]:
    return [variant for variant in variants(cell) if _is_low(variant)]


@cache
def table_rows() -> tuple[str, ...]:
    """The rows of Table 4, over which its preset sweeps."""
    text = (config_folder() / "table" / "table4.yaml").read_text(encoding="utf-8")
    rows: str = yaml.safe_load(text)["hydra"]["sweeper"]["params"]["row"]
    return tuple(rows.split(","))


def _section(model: str, embedded: bool, cells: Sequence[Cell], rows: Iterable[str]) -> Section:
    newest = {_key(cell): cell for cell in cells if cell.status == "finished"}
    done = {cell.config_hash for cell in newest.values()}
    failed = {row_name(cell): _reason(cell) for cell in cells if cell.config_hash not in done}
    there = {row_name(cell) for cell in cells}
    missing = [row for row in rows if row not in there]
    timed = _named(newest)
    states = {**dict.fromkeys(missing, "missing"), **dict.fromkeys(failed, "failed")}
    head = {"table": NUMBER, "model": model, "embedded": embedded}
    lines = [{**head, **line} for named in timed for line in _lines(*named)]
    lines += [{**head, "row": row, "state": state} for row, state in states.items()]
    if missing and not there:
        faults = [f"missing: {model}: every cell of {TITLE}"]
    else:
        faults = [f"missing: {model}, {row}: speed" for row in missing]
        faults += [f"failed: {model}, {row}: speed: {why}" for row, why in failed.items()]
    notes = [f"failed: {row}: {why}" for row, why in failed.items()]
    notes += [f"missing: {row}." for row in missing]
    repeated = sum(cell.status == "finished" for cell in cells) - len(newest)
    return Section(
        speed_title(model, embedded),
        _grids(model, embedded, timed, states),
        (*notes, *_notes(timed, repeated)),
        pd.DataFrame(lines, columns=COLUMNS),
        tuple(faults),
    )


def _reason(cell: Cell) -> str:
    return cell.error.partition("\n")[0]


def _settings(cell: Cell) -> dict[str, object]:
    """Everything that a measurement of speed depends on; quant's settings have no prefix."""
    config = {key: value for key, value in cell.config.items() if key != "quant"}
    machine = {"cpu": cell.hardware.get("cpu"), "threads": cell.hardware.get("threads")}
    execution = {"execution": cell.speed["machine"]["execution"]}
    return flat("", config) | flat("", cell.config.get("quant") or {}) | machine | execution


def _key(cell: Cell) -> str:
    return canonical_json(_settings(cell))


def _named(cells: Mapping[str, Cell]) -> Named:
    """Results, given by their settings' keys, in the table's order. Below its row a result's name
    has the settings that set it apart from the others of this row, as `head_bits=8`."""
    order = {name: place for place, name in enumerate(table_rows())}
    settings = {key: _settings(cell) for key, cell in cells.items()}
    found = []
    for key, cell in cells.items():
        row, own = row_name(cell), settings[key]
        twins = [settings[other] for other in cells if row_name(cells[other]) == row]
        names = dict.fromkeys(name for twin in twins for name in twin)
        different = [n for n in names if any(twin.get(n) != own.get(n) for twin in twins)]
        name = "\n".join([row, *(f"{name}={own.get(name)}" for name in different)])
        found.append(((order.get(row.split()[0], len(order)), name), name, cell))
    return [(name, cell) for _, name, cell in sorted(found, key=lambda of: of[0])]


def _lines(name: str, cell: Cell) -> Iterator[dict[str, Any]]:
    """A line per variant, with memory in bytes and shares of a decode."""
    machine = cell.speed["machine"]
    for variant in variants(cell):
        parts = variant["parts"] or {}
        yield {
            "row": row_name(cell),
            "state": "finished",
            "settings": ", ".join(name.split("\n")[1:]),
            "variant": variant["name"],
            "type": cell.speed["low_type" if _is_low(variant) else "full_precision"],
            **{key: variant[key] for key in ("extrapolated", *SIZES)},
            **{
                key + end: (variant[key] or {}).get(of)
                for key in ("tokens_per_second", "speedup")
                for end, of in (("", "median"), ("_low", "low"), ("_high", "high"))
            },
            **{f"share_{part}": parts.get(part) for part in PARTS},
            "cpu": cell.hardware.get("cpu"),
            "threads": cell.hardware.get("threads"),
            "execution": machine["execution"],
            "load_before": machine["load"][0],
            "load_after": machine["load"][1],
            "rounds": len(variant["seconds"]),
            "config_hash": cell.config_hash,
            "commit": cell.commit,
        }


def _is_low(variant: Mapping[str, Any]) -> bool:
    return variant["activation_bits"] is not None


def _grids(model: str, embedded: bool, timed: Named, states: Mapping[str, str]) -> dict[str, Grid]:
    """The parts of a model's table: speed, paper, block, parts, resident, counted.

    Only the paper's models have the part `paper`.
    """
    low = [(f"{name}\n{of['name']}", cell, of) for name, cell in timed for of in low_bits(cell)]
    rows: list[tuple[str, Sequence[str]]] = [
        (name, _speeds(variants(cell)[0], variant)) for name, cell, variant in low
    ]
    shown = {"missing": "-", "failed": "failed"}
    rows += [(row, [shown[state]] * len(PAPER_COLUMNS)) for row, state in states.items()]
    title = (
        "tokens per second, and memory of the weights: full precision counted at 16 bits, low bits "
        "as the timed model holds them (counted where that has one block)"
    )
    found = {"speed": grid(title, PAPER_COLUMNS, rows)}
    if not timed:
        return found
    printed = {c.column: c.printed for c in paper_cells(NUMBER) if c.model == model}
    if printed and not embedded:
        name = paper_model(model)
        title = f"what the paper prints for {name} (A6000; it does not say of which method)"
        texts = [printed[column] for column in PAPER_COLUMNS]
        found["paper"] = grid(title, PAPER_COLUMNS, [(name, texts)])
    found["block"] = _block_grid(timed)
    shares = [(name, _shares(variant["parts"])) for name, _, variant in low if variant["parts"]]
    if shares:
        title = "where the time of a decode goes, in %; rotations are a part of the linears"
        found["parts"] = grid(title, (*PARTS, "rest"), shares)
    found["resident"] = _memory_grid(timed)
    found["counted"] = _counted_grid(timed[0][1].speed["weight_bytes"])
    return found


def _speeds(full: Mapping[str, Any], low: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _spread(full["tokens_per_second"], full["extrapolated"]),
        _spread(low["tokens_per_second"], low["extrapolated"]),
        _spread(low["speedup"]),
        _size(full["weight_bytes"]),
        _size(low["weight_bytes"]),
        f"{full['weight_bytes'] / low['weight_bytes']:.2f}",
    )


def _spread(found: Mapping[str, float], extrapolated: bool = False, scale: float = 1) -> str:
    """A median and its quartiles, with three digits each and no exponent."""
    middle, low, high = (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        for value in (scale * found[key] for key in ("median", "low", "high"))
    )
    return f"{middle}{'*' * extrapolated} ({low} to {high})"


def _size(size: int | None, extrapolated: bool = False) -> str:
    """A size; starred where it was measured with one block and the others' bytes were added."""
    if size is None:
        return "-"
    text = f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"
    return text + "*" * extrapolated


def _shares(parts: Mapping[str, float]) -> list[str]:
    rest = 1 - sum(parts[name] for name in ("linears", "attention", "head"))
    return [f"{100 * share:.1f}" for share in (*(parts[name] for name in PARTS), rest)]


def _block_grid(timed: Named) -> Grid:
    """Times of one block: full precision once, from the first row, and every row's low bits."""
    rows: dict[str, tuple[str, str]] = {}
    for row, cell in timed:
        for name, found in cell.speed["block"].items():
            texts = _spread(found["seconds"], scale=1e3), _spread(found["speedup"])
            rows.setdefault(f"{row}\n{name}" if name.startswith("W") else name, texts)
    tokens = timed[0][1].speed["rows"]
    title = f"one transformer block, {tokens} tokens; speed-up over the fastest full precision"
    return grid(title, ("ms", "Speed Up"), rows.items())


def _memory_grid(timed: Named) -> Grid:
    rows = []
    for name, cell in timed:
        for variant in variants(cell):
            if variant["resident_bytes"] is not None:
                kind = "" if _is_low(variant) else f", {cell.speed['full_precision']}"
                sizes = [_size(variant[key], variant["extrapolated"]) for key in SIZES[1:]]
                rows.append((f"{name}\n{variant['name']}{kind}", sizes))
    title = "memory as measured: tensors, resident above the process without it, peak of a decode"
    return grid(title, ("tensors", "resident", "peak"), rows)


def _counted_grid(counted: Mapping[str, int]) -> Grid:
    whole = counted["16 16 16"]
    rows = [
        (text, (_size(counted[key]), f"{counted[key] / 1e9:.2f}", f"{whole / counted[key]:.2f}"))
        for key, text in COUNTED.items()
    ]
    title = "bytes of the weights with their scales, counted on the shape"
    return grid(title, ("weights", "GB", "Mem. Sav."), rows)


def _notes(timed: Named, repeated: int) -> Iterator[str]:
    """Machines, extrapolation and sources of a model's numbers."""
    for name, cell in timed:
        machine = cell.speed["machine"]
        how = machine["execution"]
        packed = "reference execution (no kernels here)" if how == "reference" else f"{how} kernels"
        yield (
            f"{name.replace(chr(10), ', ')}: {cell.hardware.get('cpu')}, "
            f"{cell.hardware.get('threads')} threads, {packed}; full precision: "
            f"{cell.speed['full_precision']}; load of the machine before and after: "
            f"{machine['load'][0]:g}, {machine['load'][1]:g}"
        )
    if any(variant["extrapolated"] for _, cell in timed for variant in variants(cell)):
        yield (
            "* extrapolated: measured with one block, whose time counts as often as the model has "
            "blocks; the bytes of the other blocks are added to its memory."
        )
    if repeated:
        yield f"{repeated} results have newer ones of the same settings, shown here."
    if not all(cell.speed["machine"]["native_bfloat16"] for _, cell in timed):
        yield "no instructions for bfloat16 on this processor, where it would be emulated."
    if timed:
        yield f"weights: {timed[0][1].speed['weights']}."
    yield from source_notes(cell.commit for _, cell in timed)
