"""Apply a transformation to the items of a batch for which a coin fell so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def on_some_items(images: Tensor, chosen: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """A new batch, with `transform` of the chosen items, and the others as they are.

    On the CPU only the chosen items are worked on. A GPU's host would have to wait to know which these are: there all
    items are, and those that were not chosen thrown away.

    Args:
        images: (B, C, H, W[, D]).
        chosen: (B,), bool, on the same device.
        transform: takes any number of items and gives as many of the same shape.
    """
    if images.device.type == "cpu":
        return _by_index(images, chosen, transform)
    return _by_mask(images, chosen, transform)


def _by_index(images: Tensor, chosen: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    rows = chosen.nonzero().flatten()
    if len(rows) == 0:
        return images.clone()
    items = list(images)
    for row, item in zip(rows.tolist(), transform(images.index_select(0, rows)), strict=True):
        items[row] = item
    return torch.stack(items)


def _by_mask(images: Tensor, chosen: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (images.ndim - 1)), transform(images), images)
