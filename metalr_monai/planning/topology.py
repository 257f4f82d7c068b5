"""nnU-Net's rules for the target spacing, the patch, and the U-Net's levels, in axes x, y, z.

As in `default_experiment_planner.py` and `network_topology.py` of nnunetv2 2.8.1 (Apache 2.0), which
tests/nnunet/test_topology.py runs beside these. Only "does it fit in memory" is asked of the caller.

References:
    Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature
    Methods 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from ..errors import OptionError

ANISOTROPIC: Final = 3  # times as coarse as the next axis, and so many times fewer slices than the next has voxels
SMALLEST_MAP: Final = 4  # voxels along an axis at the bottom
FEWEST_LEVELS: Final = 3  # that MONAI's DynUNet takes
_FIRST_PATCH: Final = 256**3  # voxels, before it is cut to the median shape and to memory

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Topology:
    """A patch and the U-Net's levels for it, the first at full resolution.

    Attributes:
        patch_size: voxels, multiples of `divisors`.
        strides: of each level's first convolution; 1 at the first level.
        kernel_size: of each level's convolutions.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_size: tuple[tuple[int, ...], ...]

    @property
    def divisors(self) -> tuple[int, ...]:
        """What a patch's sides must be multiples of: 2 to the number of poolings along the axis."""
        return tuple(prod(along) for along in zip(*self.strides, strict=True))


def target_spacing(spacings: ArrayLike, shapes: ArrayLike) -> Triple:
    """The median, mm; along an axis that is far coarser, and has far fewer slices, the 10th percentile.

    (There the median would be the spacing of scans that others have finer, and these would be interpolated badly.)

    Args:
        spacings: of all cases, mm (cases, 3).
        shapes: of all cases, voxels (cases, 3).

    Example:
        >>> target_spacing([[1, 1, 5], [1, 1, 10], [1, 1, 10]], [[200, 200, 20]] * 3)
        (1.0, 1.0, 6.0)
    """
    spacings = np.asarray(spacings, dtype=float)
    target, size = np.percentile(spacings, 50, axis=0), np.percentile(np.asarray(shapes), 50, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    next_coarsest = max(target[others])
    if target[coarse] > ANISOTROPIC * next_coarsest and size[coarse] * ANISOTROPIC < min(size[others]):
        finer = np.percentile(spacings[:, coarse], 10)
        # Just above the others, so that it stays the coarsest axis.
        target[coarse] = finer if finer >= next_coarsest else next_coarsest + 1e-5
    return _triple(target)


def median_shape(spacings: ArrayLike, shapes: ArrayLike, target: Sequence[float]) -> Triple:
    """Of all cases once they are resampled to `target`, voxels; halves where there are an even number of cases.

    Example:
        >>> median_shape([[1, 1, 2]], [[100, 100, 30]], (1, 1, 1.5))
        (100.0, 100.0, 40.0)
    """
    resampled = np.round(np.asarray(spacings, dtype=float) / np.asarray(target, dtype=float) * np.asarray(shapes))
    return _triple(np.median(resampled, axis=0))


def levels(spacing: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """The U-Net's levels for a patch, which is padded to what they divide.

    An axis is halved from level to level as long as 4 voxels are left, and only while its voxels are less than twice as
    long as the shortest ones; an axis whose voxels are has kernels of 1 until the others have caught up.

    Example:
        >>> found = levels((0.8, 0.8, 5.0), (190, 190, 28))
        >>> found.patch_size, found.strides[:3], found.kernel_size[:3]
        ((192, 192, 28), ((1, 1, 1), (2, 2, 1), (2, 2, 1)), ((3, 3, 1), (3, 3, 1), (3, 3, 3)))
    """
    axes = range(len(spacing))
    voxel, size = list(spacing), list(patch_size)
    kernel = [1 for _ in axes]
    strides, kernels = [tuple(1 for _ in axes)], []
    while halved := _halved_axes(voxel, size):
        for axis in axes:
            if voxel[axis] / min(voxel) < 2:
                kernel[axis] = 3  # and stays so
        for axis in halved:
            voxel[axis] *= 2
            size[axis] = ceil(size[axis] / 2)
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        kernels.append(tuple(kernel))
    kernels.append(tuple(3 for _ in axes))
    divisors = [prod(along) for along in zip(*strides, strict=True)]
    padded = tuple(ceil(side / divisor) * divisor for side, divisor in zip(patch_size, divisors, strict=True))
    return Topology(padded, tuple(strides), tuple(kernels))


def _halved_axes(voxel: Sequence[float], size: Sequence[float]) -> list[int]:
    """The axes that the next level halves; none at the bottom."""
    long_enough = [axis for axis in range(len(size)) if size[axis] >= 2 * SMALLEST_MAP]
    if not long_enough:
        return []
    shortest = min(voxel[axis] for axis in long_enough)
    found = [axis for axis in long_enough if voxel[axis] / shortest < 2]
    # A level for one axis alone is worth it only where more than the smallest map is left of it.
    return [] if len(found) == 1 and size[found[0]] < 3 * SMALLEST_MAP else found


def largest_topology(spacing: Sequence[float], shape: Sequence[float], fits: Callable[[Topology], bool]) -> Topology:
    """The largest patch that fits: as cubic in mm as the median shape allows, then cut where it is largest in it.

    Args:
        spacing: of the resampled data, mm.
        shape: their median shape, voxels.
        fits: whether a batch of 2 can be trained in memory.

    Raises:
        OptionError: the scans, or the memory, are too small for three levels.
    """
    per_mm = [1 / side for side in spacing]
    scale = (_FIRST_PATCH / prod(per_mm)) ** (1 / 3)
    found = levels(spacing, [min(round(side * scale), limit) for side, limit in zip(per_mm, shape, strict=True)])
    if len(found.strides) < FEWEST_LEVELS:
        raise OptionError(
            f"Scans of {sides(shape)} voxels at {sides(spacing)} mm leave a U-Net {len(found.strides)} levels; "
            f"expected at least {FEWEST_LEVELS}, 16 voxels or more along two axes. Plan from a checkpoint instead."
        )
    while not fits(found):
        smaller = _cut(found, spacing, shape)
        if smaller is None:
            raise OptionError(
                f"Not even two patches of {sides(found.patch_size)} voxels fit in the memory, and in smaller ones a "
                f"U-Net has too few levels. Give more memory (memory_gb), or plan from a checkpoint."
            )
        found = smaller
    return found


def _cut(topology: Topology, spacing: Sequence[float], shape: Sequence[float]) -> Topology | None:
    """The next smaller patch; None below three levels."""
    patch = list(topology.patch_size)
    coarse = max(range(3), key=lambda axis: (spacing[axis], axis))
    # Of equal shares nnU-Net takes the last in its own order: the coarsest axis, then z, y, x.
    largest = max(range(3), key=lambda axis: (patch[axis] / shape[axis], axis != coarse, -axis))
    # A shorter side may have one pooling less; to cut by its own divisor skips no size that is allowed.
    shorter = [side - (axis == largest) * topology.divisors[axis] for axis, side in enumerate(patch)]
    if shorter[largest] < 1:
        return None
    patch[largest] -= levels(spacing, shorter).divisors[largest]
    smaller = levels(spacing, patch)
    return smaller if len(smaller.strides) >= FEWEST_LEVELS else None


def _triple(values: Sequence[float]) -> Triple:
    x, y, z = map(float, values)
    return x, y, z


def sides(values: Sequence[float]) -> str:
    """`64 × 64 × 32`, for messages and reasons."""
    return " × ".join(f"{value:.4g}" for value in values)
