"""Hadamard matrices against their definition, the literature's list of sizes, and plain loops."""

import math

import pytest
import scipy.linalg
import torch

from dllmquant_exp.quantization.hadamard import (
    OnlineHadamard,
    factors,
    hadamard_matrix,
    paley,
    split,
    walsh,
)
from dllmquant_exp.quantization.quantizers import QuantizationError

SPLITS = {
    1: (1, 1), 2: (2, 1), 4: (4, 1), 8: (8, 1), 12: (1, 12), 20: (1, 20), 28: (1, 28), 32: (32, 1),
    36: (1, 36), 48: (4, 12), 52: (1, 52), 100: (1, 100), 128: (128, 1), 148: (1, 148),
    192: (16, 12), 512: (512, 1), 3584: (128, 28), 4096: (4096, 1), 12288: (1024, 12),
    18944: (128, 148),
}  # fmt: skip

# Multiples of 4 below 1000 that Paley's and Sylvester's constructions do not reach, as listed in
# the literature for fields of any prime power ...
UNREACHED = {
    92, 116, 156, 172, 184, 188, 232, 236, 260, 268, 292, 324, 356, 372, 376, 404, 412, 428, 436,
    452, 472, 476, 508, 520, 532, 536, 584, 596, 604, 612, 652, 668, 712, 716, 732, 756, 764, 772,
    808, 836, 852, 856, 872, 876, 892, 904, 932, 940, 944, 952, 956, 964, 980, 988, 996,
}  # fmt: skip
# ... and those that need a field of 7^3 elements, which is not built here.
CUBES = {344, 688}


def entry(i, j, order):
    """H[i, j] * sqrt(n) by the definition: Walsh's sign of the upper digits times Paley's."""
    sign = -1 if (i // order & j // order).bit_count() % 2 else 1
    return sign * (PALEY[order][i % order][j % order] if order > 1 else 1)


def legendre(a, q):
    power = pow(a % q, (q - 1) // 2, q)
    return power - q if power > 1 else power


def paley_by_loops(order):
    """The textbook's form with prime q, one entry at a time."""
    first = order in (12, 20)
    q = order - 1 if first else order // 2 - 1
    core = [[0] * (q + 1) for _ in range(q + 1)]
    for i in range(q + 1):
        for j in range(q + 1):
            if i and j:
                core[i][j] = legendre(i - j, q)
            elif i != j:
                core[i][j] = -1 if first and i else 1
    if first:
        return [[core[i][j] + (i == j) for j in range(q + 1)] for i in range(q + 1)]
    blocks = {0: ((1, -1), (-1, -1)), 1: ((1, 1), (1, -1)), -1: ((-1, -1), (-1, 1))}
    return [
        [blocks[core[i // 2][j // 2]][i % 2][j % 2] for j in range(order)] for i in range(order)
    ]


PALEY = {order: paley_by_loops(order) for order in (12, 20, 28, 36, 148)}


@pytest.mark.parametrize("size", SPLITS)
def test_named_sizes(size):
    assert split(size) == SPLITS[size]
    parts = factors(size)
    assert math.prod(len(part) for part in parts) == size
    for part in parts:
        assert bool((part.abs() == 1).all())
        assert torch.equal(part @ part.T, len(part) * torch.eye(len(part), dtype=part.dtype))
    if size <= 512:
        matrix = hadamard_matrix(size)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))
        torch.testing.assert_close(matrix.abs(), torch.full_like(matrix, size**-0.5))


def test_reachable_sizes_below_1000():
    def reached(size):
        try:
            power, order = split(size)
        except QuantizationError:
            return False
        return power * order == size

    expected = {1, 2} | set(range(4, 1000, 4)) - UNREACHED - CUBES
    assert {size for size in range(-3, 1000) if reached(size)} == expected


def test_paley_and_sylvester_by_their_definitions():
    for order, entries in PALEY.items():
        assert paley(order).tolist() == entries
        assert torch.equal(paley(order), paley(order).T) == (order not in (12, 20))
    assert walsh(64).tolist() == scipy.linalg.hadamard(64).tolist()


@pytest.mark.parametrize("size", [1, 2, 4, 12, 20, 32, 48, 192, 224, 296, 512])
def test_fast_product_is_the_dense_one(size):
    order = SPLITS.get(size, {224: (8, 28), 296: (2, 148)}.get(size))[1]
    dense = torch.tensor([[entry(i, j, order) for j in range(size)] for i in range(size)])
    dense = dense.double() / math.sqrt(size)
    torch.testing.assert_close(hadamard_matrix(size), dense, rtol=0, atol=1e-15)
    x = torch.randn(3, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(OnlineHadamard(size)(x), x @ dense, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [3584, 4096, 12288, 18944])
def test_official_sizes_row_by_row(size):
    rows = [0, 1, size // 2 + 5, size - 1]
    x = torch.zeros(len(rows), size, dtype=torch.float64)
    x[range(len(rows)), rows] = 1
    y = OnlineHadamard(size)(x) * math.sqrt(size)
    order = SPLITS[size][1]
    for i, row in zip(rows, y, strict=True):
        expected = torch.tensor([float(entry(i, j, order)) for j in range(size)])
        torch.testing.assert_close(row, expected.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 4, 12, 28])
def test_across_heads(heads):
    inner = 6
    x = torch.randn(5, heads * inner, dtype=torch.float64)
    matrix = torch.kron(hadamard_matrix(heads), torch.eye(inner, dtype=torch.float64))
    torch.testing.assert_close(OnlineHadamard(heads, inner)(x), x @ matrix)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_types(dtype):
    """A cast module keeps exact factors; the sums are those of float32, rounded once."""
    x = torch.randn(7, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotation = OnlineHadamard(48).to(dtype)
    y = rotation(x)
    assert y.dtype == dtype and rotation.state_dict() == {}  # nothing to store
    exact = x.double() @ hadamard_matrix(48)
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    torch.testing.assert_close(rotation(x.double()), exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("size", "nearest"), [(0, "1"), (-4, "1"), (3, "2 and 4"), (6, "4 and 8"), (92, "88 and 96")]
)
def test_missing_sizes_are_named(size, nearest):
    with pytest.raises(QuantizationError, match=rf"n_heads = {size} has no .*here: {nearest}\)"):
        OnlineHadamard(size, name="n_heads")


@pytest.mark.parametrize("order", [-4, 0, 2, 6, 16, 92, 344])
def test_paley_of_another_order(order):
    with pytest.raises(QuantizationError, match=f"order = {order}"):
        paley(order)


def test_wrong_width():
    with pytest.raises(QuantizationError, match="40 features cannot be rotated by 48 x 1"):
        OnlineHadamard(48)(torch.zeros(2, 40))
