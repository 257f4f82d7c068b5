"""Non-linear intensities: grey values go along a random monotone curve, so that shape must tell what a structure is.

Source: Zhou et al., "Models Genesis", Medical Image Analysis 2021: a cubic Bézier curve from (0, 0) to (1, 1) whose two
inner control points are uniform in the unit square. As the control points lie in it, x(t) and y(t) both increase; in
half of the cases y is taken backwards, and the curve falls from (0, 1) to (1, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import checked_images, checked_probability
from .draws import coins
from .some_items import on_some_items

PROBABILITY = 0.9
FALLING = 0.5
CELLS = 2000  # of a curve's table: one HU each where [0, 1] is [-1000, 1000] HU, so whole HU are its places
TIMES = 1001  # points t of a curve


def nonlinear_intensity(images: Tensor, generator: torch.Generator, probability: float = PROBABILITY) -> Tensor:
    """A new batch, in which the values of an item go along a curve of its own; its channels share it.

    Args:
        images: (B, C, H, W[, D]), floating point, in [0, 1]; what lies outside is taken for the nearest end.
        generator: on the images' device.
        probability: of each item.

    Raises:
        DeformationError: the images have other dimensions, or are not floating point.
        OptionError: `probability` is not in [0, 1].
    """
    images = checked_images(images)
    chosen = coins((len(images),), checked_probability("probability", probability), generator)
    return on_some_items(images, chosen, lambda some: apply_curves(some, draw_curves(len(some), generator)))


def draw_curves(items: int, generator: torch.Generator) -> Tensor:
    """Each item's curve at the places 0, 1/CELLS, …, 1: (items, CELLS + 1), float32, in [0, 1]."""
    inner = torch.rand((items, 2, 2), generator=generator, device=generator.device, dtype=torch.float64)
    falling = coins((items,), FALLING, generator)
    return curve_tables(inner, falling)


def curve_tables(inner: Tensor, falling: Tensor) -> Tensor:
    """The tables of Bézier curves.

    Args:
        inner: the inner control points, (items, x or y, first or second), float64, in [0, 1].
        falling: (items,), bool.
    """
    t = torch.linspace(0, 1, TIMES, device=inner.device, dtype=inner.dtype)
    weights = torch.stack((3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t)))
    x, y = (inner @ weights + t**3).unbind(dim=1)
    y = torch.where(falling[:, None], y.flip(1), y)
    places = torch.linspace(0, 1, CELLS + 1, device=inner.device, dtype=inner.dtype)
    left = torch.searchsorted(x[:, 1:-1].contiguous(), places.expand(len(x), -1).contiguous())
    # Where both inner x are at one end, neighbouring x may be equal
    slope = y.diff(dim=1) / x.diff(dim=1).clamp(min=torch.finfo(x.dtype).tiny)
    return (y.gather(1, left) + (places - x.gather(1, left)) * slope.gather(1, left)).clamp(0, 1).float()


def apply_curves(images: Tensor, tables: Tensor) -> Tensor:
    """The images' values, interpolated linearly in their item's table (items, CELLS + 1), computed in float32."""
    place = (images.reshape(len(images), -1).float() * CELLS).clamp_(0, CELLS)
    cell = place.int().clamp_(0, CELLS)  # NaN becomes no index beyond the table
    cell += torch.arange(len(images), device=images.device, dtype=cell.dtype)[:, None] * (CELLS + 1)
    cell, share = cell.flatten(), place.frac_().flatten()
    rise = tables.diff(dim=1, append=tables[:, -1:]).flatten()
    values = tables.flatten().index_select(0, cell).addcmul_(share, rise.index_select(0, cell))
    return values.view(images.shape).to(images.dtype)
