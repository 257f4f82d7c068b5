"""Networks small enough to follow by hand, and the data for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import metalr_monai

MLP_BLOCKS = {"first": "0", "middle": "2", "head": "4"}


def mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """5 → 7 → 6 → 3 with tanh, smooth everywhere so that finite differences converge."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def batch(seed: int, size: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs (size, 5) and targets (size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, generator=generator, dtype=dtype)
    return x, torch.randn(size, 3, generator=generator, dtype=dtype)


def squared_error(network: Callable[[Tensor], Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    x, y = data
    return (network(x) - y).square().mean()


def groups(network: nn.Module, lr: float = 5e-3) -> list[dict]:
    return metalr_monai.param_groups(network, MLP_BLOCKS, lr)


class Scale(nn.Module):
    """y = weight · x with one weight a block: every product can be worked out by hand."""

    def __init__(self, first: float = 1.0, second: float = 1.0) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([first], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor([second], dtype=torch.float64))


def scale_groups(network: Scale, lr: float) -> list[dict]:
    return metalr_monai.param_groups(network, {"first": "first", "second": "second"}, lr)
