"""Random flips, of the input and of what is to be restored alike.

Source: Zhou et al., "Models Genesis", Medical Image Analysis 2021, and its published code: up to three flips of a
random axis each, the next one only if the last came. (That code counts the channels among the axes and leaves out the
last one: it flips nothing in a third of the cases, and never the cube's depth. Here every spatial axis is as likely.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import checked_images, checked_probability, spatial
from .draws import runs

PROBABILITY = 0.4
FLIPS = 3


def random_flips(images: Tensor, generator: torch.Generator, probability: float = PROBABILITY) -> Tensor:
    """A new batch, in which an item is flipped k times with probability (1 − p)·pᵏ, at most three times.

    Args:
        images: (B, C, H, W[, D]), floating point, of any range.
        generator: on the images' device.
        probability: p, of the first flip, and of another one after each.

    Raises:
        DeformationError: the images have other dimensions, or are not floating point.
        OptionError: `probability` is not in [0, 1].
    """
    images = checked_images(images)
    checked_probability("probability", probability)
    return apply_flips(images, draw_flips(len(images), len(spatial(images)), generator, probability))


def draw_flips(items: int, axes: int, generator: torch.Generator, probability: float = PROBABILITY) -> Tensor:
    """Which spatial axes of which items to flip, (items, axes), bool: those that are drawn an odd number of times."""
    drawn = runs(items, FLIPS, probability, generator)
    axis = torch.randint(axes, (items, FLIPS), generator=generator, device=generator.device)
    flipped = axis.unsqueeze(-1) == torch.arange(axes, device=axis.device)
    times = (flipped & drawn.unsqueeze(-1)).sum(dim=1)
    return times % 2 == 1


def apply_flips(images: Tensor, flips: Tensor) -> Tensor:
    """A new batch, its items flipped along the axes in `flips`, (B, axes)."""
    if images.device.type == "cpu":
        return _by_item(images, flips)
    return _by_mask(images, flips)


def _by_item(images: Tensor, flips: Tensor) -> Tensor:
    axes = [[1 + axis for axis, flipped in enumerate(row) if flipped] for row in flips.tolist()]
    return torch.stack([item.flip(along) if along else item for item, along in zip(images, axes, strict=True)])


def _by_mask(images: Tensor, flips: Tensor) -> Tensor:
    """For a GPU, whose host would have to wait to know the flips."""
    for axis, flipped in enumerate(flips.unbind(dim=1)):
        images = torch.where(flipped.view(-1, *[1] * (images.ndim - 1)), images.flip(2 + axis), images)
    return images
