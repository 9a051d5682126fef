"""Table 4 as text: the paper's columns, blocks, parts of a decode, and memory."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from dllmquant_exp.reporting.frame import Cell
from dllmquant_exp.reporting.notes import source_notes
from dllmquant_exp.reporting.paper import paper_model
from dllmquant_exp.reporting.render import Document, Grid, Line, Section, show
from dllmquant_exp.reporting.speed.results import (
    PARTS,
    SpeedBlock,
    low_bits,
    row_name,
    speed_blocks,
    variants,
)

TITLE = "Table 4"
CAPTION = (
    "Speed and memory in full precision and in 4 bits, on the CPU. Tokens per second count the "
    "tokens of whole responses, not those of their prompts; medians over interleaved rounds in one "
    "process, quartiles in brackets. Full precision is the fastest form that the machine has, "
    "never an emulated one. Weights have 4 bits in every quantized line. Activations of 4 bits are "
    "multiplied as bytes, as those of 8 bits are: A4 saves up to a fifth of the time over A8 with "
    "AVX2, where its sums need widening less often, and none with AMX."
)
COLUMNS = ("Speed FP", "Speed Quant", "Speed Up", "Memory FP", "Memory Quant", "Mem. Sav.")
COUNTED = {  # bits of linears, head and embedding, as result files name them
    "16 16 16": "16 bits",
    "4 16 16": "4 bits, head and embedding 16",
    "4 8 16": "4 bits, head 8, embedding 16",
    "4 8 8": "4 bits, head and embedding 8",
}
GIB = 2**30


def speed_grids(block: SpeedBlock) -> dict[str, Grid]:
    """The parts of a model's table: speed, paper, block, parts, resident, counted.

    Only the paper's models have the part `paper`.
    """
    found = {"speed": _speed_grid(block)}
    if not block.cells:
        return found
    if block.printed:
        name = paper_model(block.model)
        printed = tuple(block.printed[column].printed for column in COLUMNS)
        title = f"what the paper prints for {name} (A6000; it does not say of which method)"
        found["paper"] = Grid(title, COLUMNS, ((name, printed),))
    found["block"] = _block_grid(block)
    lines = tuple(_part_line(block, c, v) for c in block.cells for v in low_bits(c) if v["parts"])
    if lines:
        title = "where the time of a decode goes, in %; rotations are a part of the linears"
        found["parts"] = Grid(title, (*PARTS, "rest"), lines)
    found["resident"] = _memory_grid(block)
    found["counted"] = _counted_grid(block.cells[0])
    return found


def _speed_grid(block: SpeedBlock) -> Grid:
    lines = [
        _speed_line(block, cell, variant)
        for cell in block.cells
        for variant in (low_bits(cell) or variants(cell))
    ]
    lines += [(row, ("-",) * len(COLUMNS)) for row in block.missing]
    lines += [(row_name(cell), ("failed",) * len(COLUMNS)) for cell in block.failed]
    title = (
        "tokens per second, and memory of the weights: full precision counted at 16 bits, low bits "
        "as the timed model holds them (counted where that has one block)"
    )
    return Grid(title, COLUMNS, tuple(lines))


def _speed_line(block: SpeedBlock, cell: Cell, variant: Mapping[str, Any]) -> Line:
    full = variants(cell)[0]
    own, saved = variant["weight_bytes"], full["weight_bytes"] / variant["weight_bytes"]
    quantized = variant is not full
    return _name(block, cell, variant), (
        _spread(full["tokens_per_second"], full["extrapolated"]),
        _spread(variant["tokens_per_second"], variant["extrapolated"]) if quantized else "-",
        _spread(variant["speedup"], False) if quantized else "-",
        _size(full["weight_bytes"]),
        _size(own) if quantized else "-",
        f"{saved:.2f}" if quantized else "-",
    )


def _name(block: SpeedBlock, cell: Cell, variant: Mapping[str, Any]) -> str:
    low = variant["activation_bits"] is not None
    return f"{block.name(cell)}\n{variant['name']}" if low else block.name(cell)


def _spread(found: Mapping[str, float], extrapolated: bool) -> str:
    star = "*" if extrapolated else ""
    low, high = _number(found["low"]), _number(found["high"])
    return f"{_number(found['median'])}{star} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def _block_grid(block: SpeedBlock) -> Grid:
    """Times of one block: full precision once, from the first row, and every row's low bits."""
    lines: list[Line] = []
    for cell in block.cells:
        for name, found in cell.speed["block"].items():
            low = name.startswith("W")
            if low or not any(other == name for other, _ in lines):
                title = f"{block.name(cell)}\n{name}" if low else name
                milliseconds = {k: 1e3 * v for k, v in found["seconds"].items()}
                texts = (_spread(milliseconds, False), _spread(found["speedup"], False))
                lines.append((title, texts))
    rows = block.cells[0].speed["rows"]
    title = f"one transformer block, {rows} tokens; speed-up over the fastest full precision"
    return Grid(title, ("ms", "Speed Up"), tuple(lines))


def _part_line(block: SpeedBlock, cell: Cell, variant: Mapping[str, Any]) -> Line:
    parts = variant["parts"]
    rest = 1 - sum(parts[name] for name in ("linears", "attention", "head"))
    shares = (*(parts[name] for name in PARTS), rest)
    return _name(block, cell, variant), tuple(f"{100 * share:.1f}" for share in shares)


def _memory_grid(block: SpeedBlock) -> Grid:
    measured = [
        (cell, variant)
        for cell in block.cells
        for variant in variants(cell)
        if variant["resident_bytes"] is not None
    ]
    keys = ("held_bytes", "resident_bytes", "peak_bytes")
    lines = tuple(
        (f"{block.name(cell)}\n{_form(cell, variant)}", tuple(_measured(variant, k) for k in keys))
        for cell, variant in measured
    )
    title = "memory as measured: tensors, resident above the process without it, peak of a decode"
    return Grid(title, ("tensors", "resident", "peak"), lines)


def _form(cell: Cell, variant: Mapping[str, Any]) -> str:
    low = variant["activation_bits"] is not None
    return variant["name"] if low else f"{variant['name']}, {cell.speed['full_precision']}"


def _measured(variant: Mapping[str, Any], key: str) -> str:
    """A size; starred where it was measured with one block and the others' bytes were added."""
    known = variant[key] is not None
    return _size(variant[key]) + ("*" if known and variant["extrapolated"] else "")


def _counted_grid(cell: Cell) -> Grid:
    counted = cell.speed["weight_bytes"]
    whole = counted["16 16 16"]
    lines = tuple(
        (text, (_size(counted[key]), f"{counted[key] / 1e9:.2f}", f"{whole / counted[key]:.2f}"))
        for key, text in COUNTED.items()
    )
    title = "bytes of the weights with their scales, counted on the shape"
    return Grid(title, ("weights", "GB", "Mem. Sav."), lines)


def notes(block: SpeedBlock) -> list[str]:
    """Remarks on a model's numbers: failures, gaps, machines, extrapolation, sources."""
    found = [
        f"failed: {row_name(cell)}: {cell.error.partition(chr(10))[0]}" for cell in block.failed
    ]
    found += [f"missing: {row}." for row in block.missing]
    if not block.cells:
        return found
    for cell in block.cells:
        hardware, machine = cell.hardware, cell.speed["machine"]
        name = block.name(cell).replace("\n", ", ")
        how = machine["execution"]
        packed = "reference execution (no kernels here)" if how == "reference" else f"{how} kernels"
        text = (
            f"{name}: {hardware.get('cpu')}, {hardware.get('threads')} threads, "
            f"{packed}; full precision: {cell.speed['full_precision']}; load of the machine before "
            f"and after: {machine['load'][0]:g}, {machine['load'][1]:g}"
        )
        found.append(text)
    if any(v["extrapolated"] for cell in block.cells for v in variants(cell)):
        found.append(
            "* extrapolated: measured with one block, whose time counts as often as the model has "
            "blocks; the bytes of the other blocks are added to its memory."
        )
    if block.repeated:
        found.append(f"{block.repeated} results have newer ones of the same settings, shown here.")
    if not all(cell.speed["machine"]["native_bfloat16"] for cell in block.cells):
        found.append("no instructions for bfloat16 on this processor, where it would be emulated.")
    found.append(f"weights: {block.cells[0].speed['weights']}.")
    return [*found, *source_notes(block.cells)]


def speed_document(blocks: Iterable[SpeedBlock]) -> Document:
    """The content of the files of `report table=table4`."""
    blocks = list(blocks)
    sections = tuple(
        Section(block.title, tuple(speed_grids(block).values()), tuple(notes(block)))
        for block in blocks
    )
    return Document("table4", TITLE, CAPTION, sections, _page(blocks))


def _page(blocks: Iterable[SpeedBlock]) -> pd.DataFrame:
    """Texts by model, part, row and column, as the parts have different columns."""
    lines = [
        (block.title, part, name.replace("\n", " "), column, text)
        for block in blocks
        for part, grid in speed_grids(block).items()
        for name, texts in grid.lines
        for column, text in zip(grid.columns, texts, strict=True)
    ]
    frame = pd.DataFrame(lines, columns=["model", "part", "row", "column", "text"])
    return frame.set_index(["model", "part", "row", "column"])


def print_speed(blocks: Iterable[SpeedBlock], console: Console) -> None:
    for block in blocks:
        console.print(Text(block.title, style="bold underline"))
        show(speed_grids(block).values(), notes(block), console)
        console.print()


def print_speed_cells(cells: Iterable[Cell], console: Console) -> None:
    """Print the speed tasks among a sweep's cells, if there are any."""
    print_speed(speed_blocks(cells), console)
