"""A plan as tables for a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dllmquant_exp.run.plan.estimates import Cell, Estimates, Stage, compared_rows

SHORT = 0.1  # seconds; what took less was read from disk, or says nothing


def print_plan(found: Estimates, console: Console) -> None:
    """Machines, stages, cells, totals, and how earlier estimates compare with what was measured."""
    for model, machine in found.machines.items():
        _say(console, f"{model} on {machine.name} ({machine.source})")
    _say(console, "")
    if found.stages:
        console.print(_stage_table(list(found.stages.values())))
    console.print(_cell_table(list(found.cells.values())))
    for line in [*_totals(found), *_comparison(found), *_notes(found)]:
        _say(console, line)


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _stage_table(stages: list[Stage]) -> Table:
    timed = any(stage.took for stage in stages)
    table = _table("made once, and shared", ["stage", "of", "cells"], timed)
    for stage in stages:
        row = [stage.kind, stage.label, str(len(stage.cells)), duration(stage.seconds)]
        row += [size(stage.memory), size(stage.disk) if stage.disk else "-"]
        table.add_row(*row, *([duration(stage.took)] if timed else []))
    return table


def _cell_table(cells: list[Cell]) -> Table:
    timed = any(cell.took for cell in cells)
    names = ["model", "row", "task", "seed", "status", "items", "token-forwards"]
    table = _table("cells: the evaluation of each", names, timed)
    for cell in cells:
        status = f"{cell.status} {cell.answered:.0%}" if cell.status == "begun" else cell.status
        row = [cell.model, cell.row, cell.task, str(cell.seed), status, str(cell.demand.items)]
        row += [count(cell.demand.load.tokens), duration(cell.seconds)]
        row += [size(cell.memory), size(cell.disk)]
        table.add_row(*row, *([duration(cell.took)] if timed else []))
    return table


def _table(title: str, names: list[str], timed: bool) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for name in names:
        right = name in ("cells", "seed", "items", "token-forwards")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for name in ("time", "memory", "disk", *(["took"] if timed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _totals(found: Estimates) -> list[str]:
    cells, left = list(found.cells.values()), found.open_cells()
    done = len(cells) - len(left)
    seconds = found.seconds()
    gpu = any(machine.gpu for machine in found.machines.values())
    unit = f" = {seconds / 3600:,.1f} GPU hours" if gpu and left else ""
    disk = sum(c.disk for c in left) + sum(s.disk for s in found.open_stages())
    lines = [
        f"\n{len(cells)} cells, {done} finished, {len(left)} to do in {len(found.jobs)} jobs: "
        f"{duration(seconds)}{unit}, one after the other, {size(disk)} more on disk, peak memory "
        f"{size(max(cell.memory for cell in cells))}",
        f"each cell by itself, nothing shared: {duration(found.unshared_seconds())}",
    ]
    if len(found.machines) > 1 and left:
        for model in dict.fromkeys(cell.model for cell in left):
            share = sum(c.seconds * (1 - c.answered) for c in left if c.model == model)
            lines.append(f"  {model}: {duration(share)} of it are evaluations")
    large = {c.machine for c in cells if c.memory > found.machines[c.machine].memory}
    lines += [
        f"{name} needs more memory than {found.machines[name].name} has "
        f"({size(found.machines[name].memory)}): choose a smaller batch_size, or another device"
        for name in sorted(large)
    ]
    return lines


def _comparison(found: Estimates) -> list[str]:
    """How what is finished really went."""
    stages = found.stages.values()
    pairs = {f"{s.label} ({s.kind})": (s.seconds, s.took) for s in stages if s.took is not None}
    pairs |= {" ".join(key): pair for key, pair in compared_rows(found).items()}
    return [
        f"{name}: estimated {duration(estimated)}, took {duration(took)} ({estimated / took:.2f})"
        for name, (estimated, took) in pairs.items()
        if took > SHORT
    ]


def _notes(found: Estimates) -> list[str]:
    cells = found.cells.values()
    lines = []
    known = sorted({cell.task for cell in cells if not cell.demand.counted})
    if known:
        lines.append(
            "numbers and lengths of requests are the official sets' known ones, not counted from "
            f"data: {', '.join(known)}"
        )
    if any(cell.demand.generated for cell in cells):
        lines.append(
            "generated answers are counted at full length; those that end early take less time"
        )
    lines += [
        f"{name} is not on this disk: {size(amount)} to download"
        for name, amount in found.downloads.items()
    ]
    return lines


def duration(seconds: float | None) -> str:
    """Two significant places with a unit that fits."""
    if seconds is None:
        return "-"
    for limit, unit, factor in ((100, "s", 1), (100 * 60, "min", 60), (1e12, "h", 3600)):
        if seconds < limit:
            value = seconds / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    raise ValueError(f"{seconds} s are more than any plan takes")


def size(amount: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if amount >= factor:
            value = amount / factor
            return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
    return f"{amount / 1e3:.0f} kB"


def count(number: float) -> str:
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.0f}"
