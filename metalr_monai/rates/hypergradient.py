"""h_j for all blocks at once: one inner product a block, no second-order graph (legend in `update.py`).

α_j does not enter u_j, so ∂L_val(θ − α·u)/∂α_j = −⟨g_v,j , u_j⟩ exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor | None]


def block_sums(gradients: Tensors, directions: Tensors, block: Tensor, d: int, *, norms: bool) -> Tensor:
    """What h needs of each block, float64, on the tensors' device: ⟨g_j , Δ_j⟩, shape (1, d); no transfer to the host.

    With `norms` also ‖g_j‖² and ‖Δ_j‖², shape (3, d). `gradients[i]` and `directions[i]` have one parameter's shape and
    belong to block `block[i]`; None counts as zero. `block` is int64 on the device of the result.
    """
    pairs = [(gradients, directions)] + ([(gradients, gradients), (directions, directions)] if norms else [])
    products = torch.stack(
        [_dot(a, b, block.device) for left, right in pairs for a, b in zip(left, right, strict=True)]
    )
    sums = torch.zeros(len(pairs), d, dtype=torch.float64, device=block.device)
    return sums.index_add_(1, block, products.double().reshape(len(pairs), -1))


def _dot(a: Tensor | None, b: Tensor | None, device: torch.device) -> Tensor:
    if a is None or b is None:
        return torch.zeros((), device=device)
    if a.dtype in (torch.float16, torch.bfloat16) or b.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()  # a sum over millions of half-precision products needs float32
    return torch.dot(a.reshape(-1), b.reshape(-1)).to(device)


def hypergradient(sums: Tensor, distance: Tensor) -> Tensor:
    """h_j, shape (d,), from `block_sums` with Δ_j = distance_j·u_j; `distance`, shape (d,), has no zeros.

    With norms it is the cosine −⟨g_j , u_j⟩ / (‖g_j‖·‖u_j‖) in [−1, 1], or 0 where either norm is 0.
    """
    if len(sums) == 1:
        return -sums[0] / distance
    products, g_squares, u_squares = sums
    norms = (g_squares * u_squares).sqrt() * distance.sign()
    return torch.where(norms == 0, torch.zeros_like(products), -products / norms)
