"""Batches for the tests, generators, and bounds on counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = [(40, 24), (32, 24, 20)]


def batch(shape, items=2, channels=1, seed=0) -> Tensor:
    """In [0, 1), (items, channels, *shape), all values different."""
    count = items * channels * math.prod(shape)
    order = torch.randperm(count, generator=seeded(seed))
    return (order / count).view(items, channels, *shape)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within(share: float, expected: float, count: int) -> bool:
    """Less than five standard deviations of a share of `count` independent trials: one in two million is beyond."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / count)
