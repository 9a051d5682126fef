"""Factorizations on one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """One CPU thread for torch while the block runs.

    LAPACK divides a matrix among its threads, so that the last bits of its factors would depend on
    their number. MKL's products, as this package asks for them, do not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
