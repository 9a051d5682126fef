"""Time, memory and disk of a sweep: its stages, made once and shared, and its cells."""

from dataclasses import dataclass, field

from dllmquant_exp.planning.requests import Demand
from dllmquant_exp.planning.work import Machine

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
    stages, machine: keys of what it needs and of what runs it; took: seconds of
        the evaluation where it is finished.
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
    took: float | None


@dataclass
class Estimates:
    """Of a whole sweep.

    machines: what runs each model in each type, by the names of these.
    loads: seconds that each job spends on loading its model.
    downloads: bytes of each hub checkpoint that is not here.
    """

    cells: dict[str, Cell] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    loads: list[tuple[set[str], float]] = field(default_factory=list)
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
        loads = sum(seconds for cells, seconds in self.loads if cells & names)
        return answers + stages + loads + (STARTUP if names else 0.0)


def compared_rows(found: Estimates) -> dict[tuple[str, str], tuple[float, float]]:
    """(model, row) -> estimated and measured seconds of the evaluations that are finished."""
    sums: dict[tuple[str, str], tuple[float, float]] = {}
    for cell in found.cells.values():
        if cell.took is not None:
            key = (cell.model, cell.row)
            estimated, took = sums.get(key, (0.0, 0.0))
            sums[key] = (estimated + cell.seconds, took + cell.took)
    return sums
