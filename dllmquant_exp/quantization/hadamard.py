"""Hadamard matrices of any size a Paley construction reaches, and fast products with them.

A Hadamard matrix holds +1 and -1 only and has orthogonal rows: H H^T = n I. Here

    H_n = W_w (x) P_m        n = w * m, w a power of two (Sylvester's W), m Paley's order

with P_1 = 1 for powers of two. Paley (1933) builds P from quadratic residues of the field with q
elements: order q + 1 where q = 3 mod 4 (I), order 2 (q + 1) where q = 1 mod 4 (II).

    size      4096     12288     3584      18944      28    192    48
    w x m   4096 x 1  1024 x 12  128 x 28  128 x 148  1 x 28  16 x 12  4 x 12

Everything acts on rows, x -> x H: Paley I matrices are not symmetric, so the side matters, and a
product with the transpose is never needed (see rotation.py). Factors hold +-1, exact in every
floating-point type; the orthonormal 1 / sqrt(n) is one number, applied at the end.
"""

import math

import torch
from torch import Tensor, nn

from dllmquant_exp.models.transformer import at_least_float32
from dllmquant_exp.quantization.quantizers import QuantizationError

# A product with W_w is a chain of small matrix products, for 4096 two of 64 x 64. It takes more
# arithmetic than the textbook's butterflies, but log(w) passes over the memory become two or three:
# 1.5 to 4 times as fast at the sizes above (one thread). 2^6 is the largest factor.
_LARGEST_EXPONENT = 6


def split(size: int, name: str = "size") -> tuple[int, int]:
    """(w, m) with size = w * m, w a power of two and m = 1 or the smallest order of Paley's.

    Raises:
        QuantizationError: no such matrix; the message names `name` and the nearest sizes.
    """
    found = _split(size)
    if found is None:
        smaller = next((n for n in range(size - 1, 0, -1) if _split(n)), 0)
        larger = next(n for n in range(max(size + 1, 1), 4 * abs(size) + 2) if _split(n))
        nearest = " and ".join(str(n) for n in (smaller, larger) if n > 0)
        raise QuantizationError(
            f"{name} = {size} has no Hadamard matrix that Sylvester's and Paley's constructions "
            f"reach (1, 2 and most multiples of 4 have one; the nearest here: {nearest})"
        )
    return found


def _split(size: int) -> tuple[int, int] | None:
    if size < 1:
        return None
    odd = size // (size & -size)  # size without its factors of two
    if odd == 1:
        return size, 1
    order = 4 * odd
    while order <= size:
        if _paley_kind(order) is not None:
            return size // order, order
        order *= 2
    return None


def _paley_kind(order: int) -> tuple[int, int] | None:
    """(construction, size of the field): (1, order - 1) or (2, order / 2 - 1); None if neither."""
    if order < 4 or order % 4:
        return None
    if _prime(order - 1):
        return 1, order - 1
    q = order // 2 - 1
    root = math.isqrt(q)
    if q % 4 == 1 and (_prime(q) or (root**2 == q and _prime(root))):
        return 2, q
    return None


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _jacobsthal(q: int) -> Tensor:
    """chi(a - b) for all elements a, b of the field with q = p or p^2 elements, [q, q] of 0, +-1.

    chi is 1 at non-zero squares and -1 at other elements. The field of p^2 elements is all
    u + v sqrt(r) with r no square mod p; there, squares are those whose norm u^2 - r v^2 is one.
    """
    p = q if _prime(q) else math.isqrt(q)
    chi = torch.full((p,), -1, dtype=torch.float64)
    chi[torch.arange(p) ** 2 % p] = 1
    chi[0] = 0
    element = torch.arange(q)
    difference = (element[:, None] % p - element % p) % p
    if q == p:
        return chi[difference]
    r = int((chi < 0).nonzero()[0])
    second = element[:, None] // p - element // p
    return chi[(difference**2 - r * second**2) % p]


def paley(order: int) -> Tensor:
    """Paley's Hadamard matrix of +1 and -1, [order, order], float64.

    Raises:
        QuantizationError: `order` is neither q + 1 nor 2 (q + 1) for a fitting q, which must be a
            prime or, for the second, the square of one.
    """
    kind = _paley_kind(order)
    if kind is None:
        raise QuantizationError(f"order = {order} is none of Paley's constructions")
    construction, q = kind
    core = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    core[0, 1:] = 1
    core[1:, 0] = -1 if construction == 1 else 1
    core[1:, 1:] = _jacobsthal(q)
    one = torch.eye(q + 1, dtype=torch.float64)
    if construction == 1:
        return core + one  # core is skew: core^T = -core
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    other = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(core, two) + torch.kron(one, other)  # core is symmetric, so is this


def walsh(order: int) -> Tensor:
    """Sylvester's Hadamard matrix of +1 and -1 for a power of two, [order, order], float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < order:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


def factors(size: int, name: str = "size") -> tuple[Tensor, ...]:
    """Small matrices of +-1 whose Kronecker product is H_size, in its order; float64.

    Raises:
        QuantizationError: see `split`.
    """
    power, order = split(size, name)
    exponent = power.bit_length() - 1
    found = []
    for left in range(-(-exponent // _LARGEST_EXPONENT), 0, -1):  # factors of about equal size
        share = -(-exponent // left)
        found.append(walsh(2**share))
        exponent -= share
    if order > 1:
        found.append(paley(order))
    return tuple(found)


def hadamard_matrix(size: int) -> Tensor:
    """The orthonormal H_size itself, [size, size], float64: for tests and small sizes."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for factor in factors(size):
        matrix = torch.kron(matrix, factor)
    return matrix / math.sqrt(size)


class OnlineHadamard(nn.Module):
    """x -> x (H_size (x) I_inner) along the last dimension, orthonormal.

    `inner` = 1 mixes all features (the down projection's input); with size = heads and inner =
    head_dim, features are mixed across heads only (the output projection's input), because inside
    each head the values are rotated already.

    Computed in float32 or better and cast back to the input's type. There is nothing to train and
    nothing to store: the factors are rebuilt from the sizes, move with the model, and stay exact
    when it is cast.

    Raises:
        QuantizationError: there is no H_size; the message calls it `name`.
    """

    def __init__(self, size: int, inner: int = 1, name: str = "size") -> None:
        super().__init__()
        self.size, self.inner = size, inner
        for n, factor in enumerate(factors(size, name)):
            self.register_buffer(f"factor_{n}", factor.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., size * inner] -> the same shape and type."""
        if x.shape[-1] != self.size * self.inner:
            raise QuantizationError(
                f"{x.shape[-1]} features cannot be rotated by {self.size} x {self.inner}"
            )
        y = x.reshape(-1, self.size * self.inner).to(at_least_float32(x.dtype))
        rows = len(y)
        # Each product takes the first remaining index and appends it behind the others: after all
        # of them, and `inner`, the indices stand in their original order again.
        for factor in self.buffers():
            rest = x.shape[-1] // len(factor)
            y = y.reshape(rows, len(factor), rest).transpose(1, 2) @ factor.to(y.dtype)
        if self.inner > 1:
            y = y.reshape(rows, self.inner, self.size).transpose(1, 2)
        return (y.reshape(x.shape) / math.sqrt(self.size)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"size={self.size}, inner={self.inner}"
