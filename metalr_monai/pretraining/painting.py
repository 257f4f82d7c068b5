"""Painting: noise in place of what lies outside of a few boxes (out-painting), or inside of them (in-painting).

Source: Zhou et al., "Models Genesis", Medical Image Analysis 2021, with the box sizes of its published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import DeformationError, by_size, checked_images, checked_probability, spatial
from .draws import coins, on_device, runs, uniform, uniform_integers

PROBABILITY = 0.9
OUTER = 0.8
BOXES = 5
NEXT = 0.95
MARGIN = 3  # voxels between a box and the edge of the image
SMALLEST = 14  # the shortest side in which every box of out-painting has a place


@dataclass(frozen=True)
class Boxes:
    """Up to `BOXES` boxes an item, in voxels.

    Attributes:
        corner: the lowest place in a box, (items, BOXES, axes).
        side: (items, BOXES, axes).
        present: which boxes there are, (items, BOXES), bool.
        outer: noise goes outside of the boxes, not inside, (items,), bool.
    """

    corner: Tensor
    side: Tensor
    present: Tensor
    outer: Tensor


def painting(
    images: Tensor, generator: torch.Generator, probability: float = PROBABILITY, outer: float = OUTER
) -> Tensor:
    """A new batch, in which noise, uniform in [0, 1), has taken the place of much of an item.

    Out-painting keeps a box of side s − U{⌊3s/7⌋ … ⌊4s/7⌋} in an image of side s, and up to four more, the next one
    with probability 0.95. In-painting puts noise into up to five boxes of side U{⌊s/6⌋ … ⌊s/3⌋}, each with probability
    0.95 if the last one came. All boxes are 3 voxels or more away from the edges. Channels share the boxes; each has
    its own noise.

    Args:
        images: (B, C, H, W[, D]), floating point, in [0, 1], 14 voxels or more along each side.
        generator: on the images' device.
        probability: of each item.
        outer: share of out-painting; the rest is in-painting.

    Raises:
        DeformationError: the images have other dimensions, are not floating point, or are too small for the boxes.
        OptionError: `probability` or `outer` is not in [0, 1].
    """
    images = checked_images(images)
    chosen = coins((len(images),), checked_probability("probability", probability), generator)
    checked_probability("outer", outer)

    if not probability:
        return images.clone()
    boxes = draw_boxes(len(images), spatial(images), generator, outer)
    boxes = replace(boxes, present=boxes.present & chosen[:, None], outer=boxes.outer & chosen)
    return apply_boxes(images, boxes, uniform(images.shape, generator).to(images.dtype))


def draw_boxes(items: int, shape: Sequence[int], generator: torch.Generator, outer: float = OUTER) -> Boxes:
    """Boxes for images of the given shape.

    Raises:
        DeformationError: a side of the images is shorter than 14.
    """
    if min(shape) < SMALLEST:
        raise DeformationError(
            f"Images of {by_size(shape)} are too small for painting; expected {SMALLEST} voxels or more along each "
            f"side. Take larger cubes, or set the probability of painting to 0."
        )
    device = generator.device
    is_outer = coins((items,), outer, generator)
    went_on = runs(items, BOXES, NEXT, generator)
    always_one = torch.cat((torch.ones_like(went_on[:, :1]), went_on[:, :-1]), dim=1)
    low, high = (
        torch.where(is_outer[:, None, None], on_device(outside, device), on_device(inside, device))
        for outside, inside in (
            ([s - 4 * s // 7 for s in shape], [s // 6 for s in shape]),
            ([s - 3 * s // 7 for s in shape], [s // 3 for s in shape]),
        )
    )
    side = low + uniform_integers(0, (high - low).expand(-1, BOXES, -1), generator)
    corner = uniform_integers(MARGIN, on_device(shape, device) - side - MARGIN, generator)
    return Boxes(corner, side, torch.where(is_outer[:, None], always_one, went_on), is_outer)


def apply_boxes(images: Tensor, boxes: Boxes, noise: Tensor) -> Tensor:
    """A new batch: `noise`, of the images' shape, in the boxes, or around them where these are `outer`."""
    covering = [_covering(boxes, axis, length) for axis, length in enumerate(spatial(images))]
    covering[0] = torch.where(boxes.present[:, :, None], covering[0], 0)
    # A box has a bit of its own: those that are left are the boxes that a place is in by all of its coordinates
    together = covering[0].sum(dim=1, dtype=torch.uint8)
    for others in covering[1:]:
        together = together.unsqueeze(-1) & others.sum(dim=1, dtype=torch.uint8).view(
            len(images), *[1] * (together.ndim - 1), -1
        )
    painted = together.bool().view(torch.uint8) ^ boxes.outer.view(-1, *[1] * (images.ndim - 2)).to(torch.uint8)
    # By a weight of 0 or 1, which is exact, and faster on a CPU than torch.where
    return torch.lerp(images, noise, painted.unsqueeze(1).to(images.dtype))


def _covering(boxes: Boxes, axis: int, length: int) -> Tensor:
    """2ᵏ where box k is over a place along an axis, else 0; (items, BOXES, length), uint8."""
    place = torch.arange(length, device=boxes.corner.device)
    corner = boxes.corner[:, :, axis, None]
    inside = (place >= corner) & (place < corner + boxes.side[:, :, axis, None])
    return inside.to(torch.uint8) << torch.arange(BOXES, device=place.device, dtype=torch.uint8)[:, None]
