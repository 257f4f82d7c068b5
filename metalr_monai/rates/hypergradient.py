"""h_j for all blocks at once: one inner product a block, no second-order graph (legend in `update.py`).

α_j does not enter u_j, so ∂L_val(θ − α·u)/∂α_j = −⟨g_v,j , u_j⟩ exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

Products = Sequence[Tensor | None]  # one entry a parameter, shape (1,) or (3,); None where no gradient came


def products_along(gradient: Tensor | None, direction: Tensor, *, norms: bool) -> Tensor | None:
    """⟨g, Δ⟩ of one parameter, shape (1,); with `norms` also ‖g‖² and ‖Δ‖², shape (3,). On the tensors' device."""
    if gradient is None:
        return None
    pairs = [(gradient, direction), (gradient, gradient), (direction, direction)] if norms else [(gradient, direction)]
    return torch.stack([_dot(a, b) for a, b in pairs])


def products_in_backward(
    loss: Tensor, parameters: Sequence[Tensor], directions: Sequence[Tensor], *, norms: bool
) -> list[Tensor | None]:
    """`products_along` of each parameter with ∇loss, each gradient freed as soon as it is used.

    So the backward pass holds one gradient at a time, not a whole set. The parameters keep their `.grad`.
    """
    products: list[Tensor | None] = [None] * len(parameters)
    kept = [p.grad for p in parameters]

    def use(i: int, p: Tensor) -> None:
        products[i] = products_along(p.grad, directions[i], norms=norms)
        p.grad = None

    hooks = []
    try:
        for i, p in enumerate(parameters):
            p.grad = None
            if p.requires_grad:
                hooks.append(p.register_post_accumulate_grad_hook(partial(use, i)))  # type: ignore[no-untyped-call]
        torch.autograd.backward(loss, inputs=[p for p in parameters if p.requires_grad])
    finally:
        for hook in hooks:
            hook.remove()
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient
    return products


def block_sums(products: Products, block: Tensor, d: int, *, norms: bool) -> Tensor:
    """The products summed over each block, float64, shape (1, d) or (3, d), without a transfer to the host.

    `products[i]` belongs to block `block[i]`; `block` is int64 on the device of the result. None counts as zero.
    """
    rows = 3 if norms else 1
    device = block.device
    table = torch.stack([torch.zeros(rows, device=device) if p is None else p.to(device) for p in products], dim=1)
    sums = torch.zeros(rows, d, dtype=torch.float64, device=device)
    return sums.index_add_(1, block, table.double())


def _dot(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype in (torch.float16, torch.bfloat16) or b.dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()  # a sum over millions of half-precision products needs float32
    return torch.dot(a.reshape(-1), b.reshape(-1))


def hypergradient(sums: Tensor, distance: Tensor) -> Tensor:
    """h_j, shape (d,), from `block_sums` with Δ_j = distance_j·u_j; `distance`, shape (d,), has no zeros.

    With norms it is the cosine −⟨g_j , u_j⟩ / (‖g_j‖·‖u_j‖) in [−1, 1], or 0 where either norm is 0.
    """
    if len(sums) == 1:
        return -sums[0] / distance
    products, g_squares, u_squares = sums
    norms = (g_squares * u_squares).sqrt() * distance.sign()
    return torch.where(norms == 0, torch.zeros_like(products), -products / norms)
