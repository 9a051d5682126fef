"""`python -m dllmquant_exp plan -m ...`: what a sweep is going to take, without running it."""

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from dllmquant_exp.config.overrides import Overrides
from dllmquant_exp.config.tables import sweeps
from dllmquant_exp.config.task_config import SPEED
from dllmquant_exp.errors import ConfigError
from dllmquant_exp.run.machine import check_device, named_device
from dllmquant_exp.run.plan.cells import Forecast, Plan, make_plan, row_name
from dllmquant_exp.run.plan.forward import GPUS, HERE, Place
from dllmquant_exp.run.requirements import check_jobs
from dllmquant_exp.run.sweep.composition import compose_jobs

SOURCES = {
    "task": "seconds per item of finished cells of the same row and task",
    "row": "seconds per token-forward of finished cells of the same row",
    "measured": "one forward with random weights, quantized as the row says, measured just now",
    "stated": "FLOPs of the forwards, counted, over a stated speed",
}


def plan(
    line: Overrides, on: str | None, utilisation: float, slowdown: float, throughput: float | None
) -> int:
    """Print the plan of a sweep's command line.

    Args:
        on: `here`, or a named GPU; None chooses by the sweep's device.
        utilisation: of a named GPU's dense peak.
        slowdown: time of a quantized forward on a named GPU over one in full precision.
        throughput: FLOP/s in place of what is measured or a GPU's peak.

    Raises:
        ConfigError: settings of the plan or of the sweep that cannot be.
    """
    console = Console()
    everything = [job for one in sweeps(line) for job in compose_jobs(one)]
    jobs = [job for job in everything if all(task.kind != SPEED for task in job.tasks)]
    if not jobs:
        raise ConfigError("task=speed measures for as long as it says; there is nothing to plan")
    common = jobs[0].common
    if common.threads is not None:
        torch.set_num_threads(common.threads)
    no_gpu = common.device.startswith("cuda") and not torch.cuda.is_available()
    place = Place(
        on or ("a100" if no_gpu else HERE), common.device, utilisation, slowdown, throughput
    )
    (check_device if place.on == HERE else named_device)(common.device)
    check_jobs(jobs)
    logging.getLogger("dllmquant_exp").setLevel(logging.WARNING)
    with console.status("counting") as status:
        found = make_plan(jobs, place, lambda what: status.update(f"counting {what}"))
    print_plan(found, console)
    if len(jobs) < len(everything):
        _say(console, f"{len(everything) - len(jobs)} measurements of speed (Table 4) left out")
    return 0


def print_plan(found: Plan, console: Console) -> None:
    """Print shared stages, the cells of each model, totals, and the assumptions behind them."""
    if found.stages:
        table = _table("made once, and shared", ["stage", "of"], ["cells", "disk", "time", "took"])
        for stage in found.stages.values():
            disk = decimal(round(stage.disk)) if stage.disk else "-"
            cells, times = str(len(stage.cells)), (duration(stage.seconds), duration(stage.took))
            table.add_row(stage.kind, stage.label, cells, disk, *times)
        console.print(table)
    groups: dict[str, dict[tuple[str, str], list[Forecast]]] = {}
    for one in found.cells.values():
        job, task = one.cell.experiment, one.cell.task.name
        group = groups.setdefault(job.model.name, {})
        group.setdefault((row_name(job), task), []).append(one)
    for model, lines in groups.items():
        console.print(_cell_table(f"evaluations of {model}", lines))
    for line in [*_totals(found), *_notes(found)]:
        _say(console, line)


def _say(console: Console, line: str) -> None:
    console.print(Text(line))


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cell_table(title: str, lines: Mapping[tuple[str, str], Sequence[Forecast]]) -> Table:
    """One line for all seeds of a row and task, with the sums of their numbers."""
    timed = any(cell.took for cells in lines.values() for cell in cells)
    numbers = ["items", "tokens", "by", "time", *(["took"] if timed else [])]
    table = _table(title, ["row", "task", "status"], numbers)
    for (row, task), cells in lines.items():
        tokens = sum(cell.demand.tokens for cell in cells)
        table.add_row(
            row,
            task,
            _status(cells),
            str(sum(cell.demand.items for cell in cells)),
            f"{tokens / 1e6:,.3g}M" if tokens > 1e6 else f"{tokens / 1e3:,.3g}k",
            cells[-1].source,
            duration(sum(cell.seconds for cell in cells)),
            *([duration(sum(cell.took or 0 for cell in cells) or None)] if timed else []),
        )
    return table


def _status(cells: Sequence[Forecast]) -> str:
    done = sum(cell.took is not None for cell in cells)
    begun = sum(cell.answered for cell in cells if cell.took is None)
    if done == len(cells):
        return "finished"
    parts = [f"{done} of {len(cells)}"] if done else []
    return ", ".join([*parts, f"begun {begun:.0%}"] if begun else parts) or "new"


def _totals(found: Plan) -> list[str]:
    cells, left, place = found.cells.values(), found.open_cells().values(), found.place
    disk = sum(c.disk for c in left) + sum(s.disk for s in found.open_stages())
    where = "this machine" if place.on == HERE else place.on
    has = f" ({place.on} has {GPUS[place.on].memory} GB)" if place.on in GPUS else ""
    lines = [
        f"\n{len(cells)} cells, {len(cells) - len(left)} finished, {len(left)} to do in "
        f"{len(found.jobs)} jobs: {duration(found.seconds())} on {where}, one after another; "
        f"{decimal(round(disk))} more on disk, memory for a batch at most "
        f"{decimal(round(max(cell.memory for cell in cells)))}{has}"
    ]
    times: dict[str, float] = {}
    for one in left:
        model = one.cell.experiment.model.name
        times[model] = times.get(model, 0.0) + one.left
    if len(times) > 1:
        lines += [f"  {model}: {duration(time)} of evaluations" for model, time in times.items()]
    missing = sum(stage.seconds is None for stage in found.open_stages())
    if missing:
        lines.append(f"not estimated: {missing} of what is made once (time: -)")
    return lines


def _notes(found: Plan) -> list[str]:
    cells, place = found.cells.values(), found.place
    sources = {cell.source for cell in cells}
    lines = [f"by {source}: {text}" for source, text in SOURCES.items() if source in sources]
    if "stated" in sources:
        gpu = f"{place.utilisation:.0%} of the dense peak of {place.on} (utilisation=)"
        speed = f"{place.throughput:.3g} FLOP/s" if place.throughput is not None else gpu
        lines.append(
            f"  assumed: {speed}; a quantized forward takes {place.slowdown:g} times one in full "
            "precision (slowdown=): 1 leaves out what fake quantization adds on a GPU, which has "
            "not been measured"
        )
    lines.append("left out: starting, loading, building requests, running generated programs")
    if any(one.cell.task.settings.variant == "generation" for one in cells):
        lines.append("generated answers count at full length; those that end early take less time")
    known = sorted({one.cell.task.name for one in cells if not one.demand.counted})
    if known:
        lines.append(f"counted from known sizes, not from data: {', '.join(known)}")
    for name, amount in found.downloads.items():
        lines.append(f"{name} is not on this disk: {decimal(round(amount))} to download")
    return lines


def duration(seconds: float | None) -> str:
    """Two significant places with a unit that fits."""
    if seconds is None:
        return "-"
    units = ((100, "s", 1), (6000, "min", 60), (math.inf, "h", 3600))
    unit, factor = next((unit, factor) for limit, unit, factor in units if seconds < limit)
    value = seconds / factor
    return f"{value:.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"
