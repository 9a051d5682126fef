"""Time, memory and disk of a sweep: its stages, made once and shared, and its cells."""

from collections import Counter
from dataclasses import dataclass, field

from dllmquant_exp.run.plan.requests import Demand
from dllmquant_exp.run.plan.work import Machine

STARTUP = 6.0  # seconds until Python has imported what a sweep needs


@dataclass
class Stage:
    """A calibration set, or rounded weights: made by the first cell that needs it.

    took: the longest that a finished cell waited for it; the others read it from disk.
    """

    kind: str
    label: str
    seconds: float
    memory: float
    disk: float
    cells: set[str] = field(default_factory=set)
    took: float | None = None


@dataclass(frozen=True)
class Cell:
    """One cell. Times in seconds, memory at its peak and disk in bytes.

    status: finished | failed | begun | new; answered: fraction of its answers that are on disk.
    stages, machine: keys of what it needs and of what runs it; load: seconds until its model is
        loaded; took: those of the evaluation where it is finished.
    """

    name: str
    model: str
    row: str
    task: str
    seed: int
    status: str
    answered: float
    demand: Demand
    seconds: float
    memory: float
    disk: float
    stages: tuple[str, ...]
    machine: str
    load: float
    took: float | None


@dataclass
class Estimates:
    """Of a whole sweep.

    asked: how often each cell is asked for; tables have cells in common.
    machines: what runs each model in each type, by the names of these.
    jobs: the cells of each, which load their model once.
    downloads: bytes of each hub checkpoint that is not here.
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    stages: dict[str, Stage] = field(default_factory=dict)
    jobs: set[frozenset[str]] = field(default_factory=set)
    machines: dict[str, Machine] = field(default_factory=dict)
    downloads: dict[str, float] = field(default_factory=dict)

    def open_cells(self) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.status != "finished"]

    def open_stages(self) -> list[Stage]:
        """What open cells need and no finished one has made."""
        names = {cell.name for cell in self.open_cells()}
        return [s for s in self.stages.values() if s.cells & names and s.took is None]

    def seconds(self) -> float:
        """That everything which is open takes, one job after the other."""
        names = {cell.name for cell in self.open_cells()}
        answers = sum(cell.seconds * (1 - cell.answered) for cell in self.open_cells())
        stages = sum(stage.seconds for stage in self.open_stages())
        first = [next(iter(job & names)) for job in self.jobs if job & names]
        loads = sum(self.cells[name].load for name in first)
        return answers + stages + loads + (STARTUP if names else 0.0)

    def unshared_seconds(self) -> float:
        """That all cells, finished or not, take by themselves: nothing is reused, and what several
        tables ask for is run for each. Measured times, where there are any."""
        return sum(self.asked[name] * self._alone(cell) for name, cell in self.cells.items())

    def _alone(self, cell: Cell) -> float:
        stages = [self.stages[key] for key in cell.stages]
        made = sum(stage.seconds if stage.took is None else stage.took for stage in stages)
        return STARTUP + cell.load + made + (cell.seconds if cell.took is None else cell.took)


def compared_rows(found: Estimates) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, row) -> estimated and measured seconds of the evaluations that are finished."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for cell in found.cells.values():
        if cell.took is not None:
            key = (cell.model, cell.row)
            estimated, took = sums.get(key, (0.0, 0.0))
            sums[key] = (estimated + cell.seconds, took + cell.took)
    return sums
