"""GPTQ as its paper writes it: the yardstick of the benchmark and of the tests.

One H per layer, the upper Cholesky factor of H^-1, blocks of 128 columns with eager updates inside
(Frantar et al. 2023, Algorithm 1). The grid is given as one scale and zero point per weight.
"""

import torch
from torch import Tensor


def textbook_hessian(batches: list[Tensor]) -> Tensor:
    """H = (2/n) sum x x^T of the inputs [n, in]."""
    H = torch.zeros(batches[0].shape[1], batches[0].shape[1], dtype=batches[0].dtype)
    for x in batches:
        H += x.T @ x
    return H * (2 / sum(len(x) for x in batches))


def textbook_gptq(
    W: Tensor,
    H: Tensor,
    scale: Tensor,
    zero: Tensor,
    ends: tuple[int, int],
    damp: float = 0.01,
    act_order: bool = False,
    block: int = 128,
) -> Tensor:
    """W [out, in] rounded; scale and zero [out, in] or [out, 1], `ends` of the integer grid."""
    W, H = W.clone(), H.clone()
    scale, zero = scale.expand_as(W), zero.expand_as(W)
    dead = torch.diag(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    n = W.shape[1]
    order = torch.argsort(torch.diag(H), descending=True) if act_order else torch.arange(n)
    W, H, scale, zero = W[:, order], H[order][:, order], scale[:, order], zero[:, order]
    H[range(n), range(n)] += damp * torch.mean(torch.diag(H))
    Hinv = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.zeros_like(W)
    for i1 in range(0, n, block):
        i2 = min(i1 + block, n)
        W1, Err1, Hinv1 = W[:, i1:i2].clone(), torch.zeros_like(W[:, i1:i2]), Hinv[i1:i2, i1:i2]
        for i in range(i2 - i1):
            w, d = W1[:, i], Hinv1[i, i]
            s, z = scale[:, i1 + i], zero[:, i1 + i]
            q = s * (torch.clamp(torch.round(w / s) + z, *ends) - z)
            Q[:, i1 + i] = q
            err = (w - q) / d
            W1[:, i:] -= err[:, None] @ Hinv1[i, i:][None]
            Err1[:, i] = err
        W[:, i2:] -= Err1 @ Hinv[i1:i2, i2:]
    return Q[:, torch.argsort(order)]
