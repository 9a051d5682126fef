"""Operations, counted, and how long a machine needs for them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Work:
    """Counts that add up over the parts of a computation.

    Attributes:
        flops: of matrix products in the model's type; a multiplication and an addition are two.
        wide_flops: of those that are in float32 whatever the model's type (Hessians, solves).
        moved: bytes that elementwise passes read and write.
        powers: evaluations of |x|^p, which cost many times a product.
        launches: calls of a tensor operation.
        host: seconds of Python between them, on any machine.
    """

    flops: float = 0.0
    wide_flops: float = 0.0
    moved: float = 0.0
    powers: float = 0.0
    launches: float = 0.0
    host: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> "Work":
        return Work(*(getattr(self, f.name) * factor for f in fields(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
class Machine:
    """How fast a device does each kind of work.

    Attributes:
        name: for the output.
        flops, wide_flops, moved, powers: what it does of each per second.
        launch: seconds per call of a tensor operation.
        memory: bytes that it has.
        gpu: it is one.
        source: where the figures come from.
    """

    name: str
    flops: float
    wide_flops: float
    moved: float
    powers: float
    launch: float
    memory: float
    gpu: bool
    source: str

    def seconds(self, work: Work) -> float:
        """Nothing overlaps: the sum over the kinds of work."""
        return (
            work.flops / self.flops
            + work.wide_flops / self.wide_flops
            + work.moved / self.moved
            + work.powers / self.powers
            + work.launches * self.launch
            + work.host
        )
