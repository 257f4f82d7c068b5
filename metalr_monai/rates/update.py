"""How a hypergradient moves the rates: the papers' rules and one without drift, and the bounds.

Legend (the same in all of `metalr_monai.rates`), after Chen et al., MICCAI 2023:
    θ_j   parameters of block j             α_j   `rates`, learning rate of block j
    u_j   `direction`, θ̂_j = θ_j − α_j·u_j   θ̂     look-ahead parameters
    g_v   validation gradient ∇L at θ̂       h_j   hypergradient ∂L_val(θ̂)/∂α_j = −⟨g_v,j , u_j⟩
    β, η  hyper-LR coefficient, hyper-LR    m_j   multiplier of block j on a schedule s_t: α_j = s_t·m_j
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def constant(rates: Tensor, h: Tensor, eta: float) -> Tensor:
    """Eq. 3: α ← α − η·h. `rates` and `h` have shape (d,)."""
    return rates - eta * h


def proportional(rates: Tensor, h: Tensor, beta: float) -> Tensor:
    """Eq. 5: α ← α·(1 − β·h). Where β·h > 1 the rate would turn negative: it is clipped to 1; the bounds lift it."""
    return rates * (1 - (beta * h).clamp(max=1.0))


def exponential(rates: Tensor, h: Tensor, beta: float) -> Tensor:
    """α ← α·exp(−β·h): Eq. 5 to first order, always positive, and noise in h does not drive log α down."""
    return rates * torch.exp(-beta * h)


RULES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "proportional": proportional,
    "constant": constant,
    "exponential": exponential,
}


def count_clipped(h: Tensor, beta: float) -> int:
    """Number of blocks whose β·h is beyond 1, where Eq. 5 leaves the positive numbers."""
    return int((beta * h > 1).sum())


def renormalized(multipliers: Tensor, free: Tensor) -> Tensor:
    """Scale the multipliers, shape (d,), so that the geometric mean of the `free` ones (bool, shape (d,)) is 1."""
    if not bool(free.any()):
        return multipliers
    mean = multipliers[free].log().mean().exp()
    return torch.where(free, multipliers / mean, multipliers)
