"""What the transformations take: a batch of floating point images of two or three dimensions, in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor

from ..errors import MetaLRError, OptionError


class DeformationError(MetaLRError, ValueError):
    """Images that the transformations of Models Genesis cannot take: their dimensions, type, size or range."""


def checked_images(images: Tensor) -> Tensor:
    """The batch (B, C, H, W[, D]) as a plain tensor.

    Raises:
        DeformationError: another number of dimensions, no item, or no floating point.
    """
    if images.ndim not in (4, 5):
        raise DeformationError(
            f"The images have the shape {tuple(images.shape)}; expected a batch (B, C, H, W) or (B, C, H, W, D)."
        )
    if not images.numel():
        raise DeformationError(f"The batch is empty: its shape is {tuple(images.shape)}.")
    if not images.is_floating_point():
        raise DeformationError(
            f"The images are {images.dtype}; expected floating point, scaled to [0, 1]. Scale them first, for CT by "
            f"ScaleIntensityRanged(keys, -1000, 1000, 0, 1, clip=True)."
        )
    return images.as_tensor() if isinstance(images, MetaTensor) else images


def check_range(images: Tensor) -> None:
    """Makes the host wait for the device.

    Raises:
        DeformationError: values outside of [0, 1], or NaN.
    """
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # so that NaN is refused too
        raise DeformationError(
            f"The images' values go from {low:g} to {high:g}; expected [0, 1]. Clip and scale them first, for CT by "
            f"ScaleIntensityRanged(keys, -1000, 1000, 0, 1, clip=True)."
        )


def checked_probability(name: str, value: float) -> float:
    """`value` itself.

    Raises:
        OptionError: it is not in [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise OptionError(f"{name} is {value!r}; expected a probability, 0 to 1.")
    return value


def checked_windows(windows: int | None) -> int | None:
    """`windows` itself.

    Raises:
        OptionError: it is neither None nor a whole number above 0.
    """
    if windows is not None and (isinstance(windows, bool) or not isinstance(windows, int) or windows < 1):
        raise OptionError(f"windows is {windows!r}; expected a whole number, 1 or more, or None for the default.")
    return windows


def spatial(images: Tensor) -> tuple[int, ...]:
    """(H, W[, D])."""
    return tuple(images.shape[2:])


def by_size(shape: Sequence[int]) -> str:
    """`64×64×32`."""
    return "×".join(map(str, shape))
