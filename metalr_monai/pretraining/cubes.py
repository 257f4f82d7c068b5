"""Random cubes of a CT volume that are neither nearly empty nor all of one kind.

The published code of Models Genesis (infinite_generator_3D.py, lung CT of LUNA16) keeps a cube if at most 15 % of it is
soft tissue, from -150 HU on: what it learns from is lung. (It counts a voxel by half if only the next slice's has
tissue, and stays 100 voxels away from the edges in the plane and 30 across it; neither is done here.) That is
`counted=(-150, 1000), share=(0, 0.15)`. The default keeps what is mostly body, of whatever organ: at least half of the
cube above -900 HU, which lung is and the air around a patient is not.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, MultiSampleTrait, Randomizable, SpatialCrop, SpatialPad
from monai.utils import ImageMetaKey, convert_to_tensor

from ..errors import MetaLRError, OptionError
from .checks import by_size
from .item_names import item_name


class CubeError(MetaLRError, ValueError):
    """A volume has no cube that is occupied as it should be, or cannot be cut into cubes."""


class RandOccupiedCubesd(Randomizable, MapTransform, MultiSampleTrait):  # type: ignore[misc]  # MONAI is untyped
    """A list of items with a random cube each, as MONAI's `RandSpatialCropSamplesd` gives it, but no empty ones.

    A place is drawn anew until the share of the cube's voxels that have the `counted` HU is in `share`, up to
    `count · tries` times for a volume. A volume smaller than a cube is padded with its lowest intensity, 0, evenly on
    both sides, with a warning; a volume with too few cubes gives those that were found, with a warning.

    Args:
        keys: of the volumes (C, H, W, D), scaled to [0, 1], which are cut alike; the first one's first channel counts.
        size: of a cube, in voxels.
        count: cubes a volume; 32 as published.
        hu_window: the HU of the intensities 0 and 1.
        counted: the lowest and the highest HU that count. What the scaling clipped to an end of `hu_window` has that
            end's HU.
        share: the lowest and the highest share of voxels that count in a cube, in [0, 1].
        tries: places drawn for each cube, in the mean.

    Raises:
        OptionError: a size, count or number of tries below 1, or a range that is empty.
        CubeError: a volume of other dimensions than the cube's, or none of its cubes was occupied as it should be; the
            message has the shares found.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int] = (64, 64, 32),
        count: int = 32,
        hu_window: tuple[float, float] = (-1000.0, 1000.0),
        counted: tuple[float, float] = (-900.0, 1000.0),
        share: tuple[float, float] = (0.5, 1.0),
        tries: int = 50,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_options(size, count, hu_window, counted, share, tries)
        self._size, self._count, self._tries = tuple(size), count, tries
        low, high = hu_window
        self._counted = tuple((hu - low) / (high - low) for hu in counted)
        self._hu, self._share = tuple(counted), tuple(share)

    def randomize(self, data: Any | None = None) -> list[int]:  # noqa: ANN401 - as MONAI has it
        """Draw a place for a cube in a volume whose sides are `data`: its lowest corner."""
        return [int(self.R.randint(length - side + 1)) for length, side in zip(data or (), self._size, strict=True)]

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """The items, one a cube; what is not cut is copied."""
        keys = list(self.key_iterator(dict(data)))
        name = item_name(data, keys[0])
        volumes = {key: self._large_enough(convert_to_tensor(data[key], track_meta=True), name) for key in keys}
        shapes = {tuple(volume.shape[1:]) for volume in volumes.values()}
        if len(shapes) > 1:
            raise CubeError(
                f"{name}: the volumes to cut alike have different sizes: {', '.join(map(by_size, shapes))}."
            )
        corners = self._places(volumes[keys[0]][0], name)
        return [self._item(data, volumes, number, corner) for number, corner in enumerate(corners)]

    def _large_enough(self, volume: MetaTensor, name: str) -> MetaTensor:
        shape = tuple(volume.shape[1:])
        if len(shape) != len(self._size):
            raise CubeError(f"{name} has the shape {tuple(volume.shape)}; expected (C, …) for {by_size(self._size)}.")
        if all(length >= side for length, side in zip(shape, self._size, strict=True)):
            return volume
        warnings.warn(
            f"{name} has {by_size(shape)} voxels, which is smaller than a cube of {by_size(self._size)}; it is padded "
            f"with its lowest intensity. Leave it out, or take smaller cubes, if that is not wanted.",
            stacklevel=4,
        )
        larger = [max(length, side) for length, side in zip(shape, self._size, strict=True)]
        return SpatialPad(larger, value=0)(volume)

    def _places(self, volume: MetaTensor, name: str) -> list[list[int]]:
        plain = volume.as_tensor()
        counts = (plain >= self._counted[0]) & (plain <= self._counted[1])
        places: list[list[int]] = []
        shares: list[float] = []
        while len(places) < self._count and len(shares) < self._count * self._tries:
            corner = self.randomize(volume.shape)
            shares.append(float(counts[_slices(corner, self._size)].float().mean()))
            if self._share[0] <= shares[-1] <= self._share[1]:
                places.append(corner)
        if len(places) < self._count:
            self._tell(len(places), shares, name)
        return places

    def _tell(self, found: int, shares: Sequence[float], name: str) -> None:
        wanted = "{:.0%} to {:.0%} of their voxels at {:g} to {:g} HU".format(*self._share, *self._hu)
        told = (
            f"{name}: {found or 'none'} of {len(shares)} cubes of {by_size(self._size)} had {wanted}; they had "
            f"{min(shares):.1%} to {max(shares):.1%}."
        )
        if not found:
            raise CubeError(f"{told} Is the volume scaled from the same hu_window? Else widen share or counted.")
        warnings.warn(f"{told} Expected {self._count}; take more tries, or widen share or counted.", stacklevel=5)

    def _item(
        self, data: Mapping[Hashable, Any], volumes: Mapping[Hashable, MetaTensor], number: int, corner: Sequence[int]
    ) -> dict[Hashable, Any]:
        item = {key: deepcopy(value) for key, value in data.items() if key not in volumes}
        crop = SpatialCrop(roi_start=corner, roi_end=[at + side for at, side in zip(corner, self._size, strict=True)])
        for key, volume in volumes.items():
            item[key] = crop(volume).clone()  # so that a cube does not hold its whole volume in memory
            if isinstance(item[key], MetaTensor):
                item[key].meta[ImageMetaKey.PATCH_INDEX] = number
        return item


def _slices(corner: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(at, at + side) for at, side in zip(corner, size, strict=True))


def _check_options(
    size: Sequence[int],
    count: int,
    hu_window: Sequence[float],
    counted: Sequence[float],
    share: Sequence[float],
    tries: int,
) -> None:
    for name, value in {"size": min(size, default=0), "count": count, "tries": tries}.items():
        if not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} is {size if name == 'size' else value!r}; expected whole numbers, 1 or more.")
    for name, (low, high) in {"hu_window": hu_window, "counted": counted, "share": share}.items():
        if not (low < high and math.isfinite(high - low)):
            raise OptionError(f"{name} is ({low!r}, {high!r}); expected a lower and a higher number.")
    if share[0] < 0 or share[1] > 1:
        raise OptionError(f"share is {tuple(share)!r}; expected numbers in [0, 1].")
