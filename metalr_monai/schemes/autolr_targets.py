"""AutoLR's arithmetic (Ro & Choi, AAAI 2021): how sorted the blocks' weight variations are, and which rates sort them.

Legend: b = 1 … n the blocks between first and last by depth; v_b weight variation over an epoch; S sorting quality;
τ its threshold; v*_b target; lr_b rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

SCALE = 1e6  # the paper's unit of weight variation


def weight_variation(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """v_b = 10⁶·√(Σ‖ΔW‖²)/N over a block's convolution weights W, N being the number of their elements.

    Example:
        >>> import torch
        >>> weight_variation([torch.zeros(2, 1, 1, 1)], [torch.tensor([0.75, 1.0]).reshape(2, 1, 1, 1)])
        625000.0
    """
    squares = [(b.double() - a.double()).square().sum().item() for a, b in zip(before, after, strict=True)]
    return SCALE * math.sqrt(sum(squares)) / sum(a.numel() for a in before)


def sorting_quality(variations: Sequence[float]) -> float:
    """S = 1 − (2/n²)·Σ|i − rank_i|: 1 where v ascends with depth, about 0 where it descends.

    Example:
        >>> sorting_quality([1.0, 2.0, 3.0, 4.0]), sorting_quality([4.0, 3.0, 2.0, 1.0])
        (1.0, 0.0)
    """
    n = len(variations)
    order = sorted(range(n), key=variations.__getitem__)  # |i − rank_i| sums up to the same over the inverse
    return 1 - 2 / n**2 * sum(abs(place - block) for place, block in enumerate(order))


def threshold_in(epoch: int, threshold: float, relaxation: float, lowest: float) -> float:
    """τ of epoch 0, 1, …: from the second one on ×`relaxation` an epoch while it is above `lowest`.

    Example:
        >>> [round(threshold_in(epoch, 0.94, 0.99, 0.8), 4) for epoch in (0, 1, 2, 16, 17, 30)]
        [0.94, 0.9306, 0.9213, 0.8004, 0.7924, 0.7924]
    """
    for _ in range(epoch):
        if threshold > lowest:
            threshold *= relaxation
    return threshold


def first_targets(variations: Sequence[float], low: float, high: float) -> list[float]:
    """v* of epoch 0: on a line from `low`·min v to `high`·max v.

    Where the variations differ so little that the line would descend, its ends change places.

    Example:
        >>> first_targets([10.0, 2.0, 5.0], low=2.0, high=0.8)
        [4.0, 6.0, 8.0]
    """
    ends = sorted((low * min(variations), high * max(variations)))
    step = (ends[1] - ends[0]) / (len(variations) - 1)
    return [ends[0] + i * step for i in range(len(variations))]


def later_targets(variations: Sequence[float]) -> list[float]:
    """v* of later epochs: v, with ascending order forced from the middle block ⌊n/2⌋ outwards.

    With the step Δ = (max v − min v)/(n − 1), a shallower neighbour that is larger becomes v* − Δ, a deeper one that is
    smaller v* + Δ. A shallower target that would not be above 0 is half of its neighbour's instead.

    Example:
        >>> later_targets([2.0, 1.0, 5.0, 4.0])  # Δ = 4/3, from the third block outwards
        [0.5, 1.0, 5.0, 6.333333333333333]
    """
    step = (max(variations) - min(variations)) / (len(variations) - 1)
    targets, middle = list(variations), len(variations) // 2
    for i in range(middle, 0, -1):
        if targets[i - 1] > targets[i]:
            targets[i - 1] = targets[i] - step if targets[i] > step else targets[i] / 2
    for i in range(middle, len(targets) - 1):
        if targets[i + 1] < targets[i]:
            targets[i + 1] = targets[i] + step
    return targets


def new_rates(rates: Sequence[float], variations: Sequence[float], targets: Sequence[float]) -> list[float]:
    """lr_b ← lr_b·v*_b/v_b, as if v_b were proportional to lr_b; a block that did not move keeps its rate, as does one
    whose target is not above 0.

    Example:
        >>> new_rates([0.25, 0.5], [4.0, 0.0], [6.0, 1.0])
        [0.375, 0.5]
    """
    triples = zip(rates, variations, targets, strict=True)
    return [lr * target / v if v > 0 and target > 0 else lr for lr, v, target in triples]
