"""Resampling to a spacing, one axis after the other: what MONAI's `Spacingd` gives, without its sampling grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import AFFINE_TOL, to_affine_nd
from monai.networks.utils import to_norm_affine
from monai.transforms import Spacingd, SpatialResample
from monai.utils import TraceKeys, ensure_tuple
from numpy.typing import NDArray
from torch import Tensor

from ..errors import OptionError
from .regions import RegionsToLabeld

ALONG_AXES = 1e-3  # voxels: farther from one along the axes, at the far end of the volume, a resampling is not one
SLAB = 2**20  # voxels that are worked on at a time: they stay in the processor's cache
MODES = ("bilinear", "nearest")
TO_LABEL = "to_label"  # in a resampling's record: its inverse is a label map, by these arguments of RegionsToLabeld


class AxisSpacingd(Spacingd):  # type: ignore[misc]  # MONAI is untyped
    """MONAI's `Spacingd`, several times as fast, in the memory of what comes in and what goes out.

    Resampling to a spacing is along the array's axes, so it can be done one axis after the other and a few slices at a
    time, in place of a sampling grid of 24 bytes a voxel. Shapes, affines, the record for `Invertd` and the inverse
    are those of `Spacingd` with its defaults (beyond the border the border's value); values are float32 as there, but
    worked out in float32, not in float64. The order of the axes in memory stays.

    A resampling that is not along the axes, that of a sheared affine (a tilted gantry), is left to MONAI.

    Args:
        keys: of volumes (C, H, W, D), or images (C, H, W).
        pixdim: mm, as in `Spacingd`.
        mode: "bilinear", that is linear along each axis, or "nearest": one for all keys, or one for each.

    Raises:
        OptionError: another mode.

    Example:
        >>> image = MetaTensor(torch.rand(1, 8, 8, 4), affine=torch.diag(torch.tensor([1.0, 1, 2, 1])))
        >>> AxisSpacingd("image", (2, 2, 2))({"image": image})["image"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float] | float,
        mode: Sequence[str] | str = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        if unknown := [name for name in ensure_tuple(mode) if name not in MODES]:
            raise OptionError(f"mode is {unknown[0]!r}; AxisSpacingd knows {MODES}: use one, or Spacingd for others.")
        super().__init__(keys, pixdim, mode=mode, allow_missing_keys=allow_missing_keys)
        self.spacing_transform.sp_resample = AxisResample()


class AxisResample(SpatialResample):  # type: ignore[misc]
    """`SpatialResample` along the axes where that can be."""

    def __call__(
        self,
        img: MetaTensor,
        dst_affine: Tensor | None = None,
        spatial_size: Sequence[int] | None = None,
        mode: str | None = None,
        *args: Any,  # noqa: ANN401 - MONAI is untyped
        lazy: bool | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Tensor:
        """The image on another grid."""
        change = None if lazy or dst_affine is None else _Change.of(img, dst_affine, spatial_size, mode or self.mode)
        if change is None:
            by_monai: Tensor = super().__call__(img, dst_affine, spatial_size, mode, *args, lazy=lazy, **kwargs)
            return by_monai
        return self._tracked(img, change, _resample(img.as_tensor(), change.lines))

    def inverse(self, data: MetaTensor) -> Tensor:
        """Back on the grid it came from: values, or a label map where the record asks for one."""
        step = self.pop_transform(data)
        info = step[TraceKeys.EXTRA_INFO]
        affine, size, mode, to_label = info["src_affine"], step[TraceKeys.ORIG_SIZE], info["mode"], info.get(TO_LABEL)
        with self.trace_transform(False):
            if to_label is None:
                return self(data, affine, size, mode)
            change = _Change.of(data, affine, size, mode)
            if change is None:
                return _as_label(self(data, affine, size, mode), to_label)
            return self._tracked(data, change, _label(data.as_tensor(), change.lines, to_label))

    def _tracked(self, img: MetaTensor, change: _Change, values: Tensor) -> Tensor:
        """`values` with what `Spacingd` writes into the meta data of `img`."""
        meta = self.track_transform_meta(
            img,
            sp_size=change.shape,
            affine=change.xform,
            extra_info={
                "dtype": "float64",
                "mode": change.mode,
                "padding_mode": "border",
                "align_corners": False,
                "src_affine": change.src_affine,
            },
            orig_size=img.peek_pending_shape(),
            transform_info=self.get_transform_info(),
        )
        tracked: Tensor = MetaTensor(values).copy_meta_from(meta)
        return tracked


@dataclass(frozen=True)
class _Line:
    """Along one axis: which slices, `low` and `high`, make each new one, and the share of `high`."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: Tensor | None  # None: all are `low`

    @classmethod
    def of(cls, at: Tensor, length: int, linear: bool) -> _Line:
        """Of places in an axis of `length` slices, float64, ascending."""
        at = at.clamp(0, length - 1)
        whole = at.round()
        if not linear or bool((at - whole).abs().max() < AFFINE_TOL * 1e-3):
            near = whole.long().numpy()
            return cls(near, near, None)
        low = at.floor()
        return cls(low.long().numpy(), (low + 1).clamp(max=length - 1).long().numpy(), (at - low).float())

    def __len__(self) -> int:
        return len(self.low)

    def part(self, new: slice) -> tuple[_Line, slice]:
        """That of a part of the new slices, and of what old ones it is made."""
        low, high = self.low[new], self.high[new]
        start = int(low[0])
        share = None if self.share is None else self.share[new]
        return _Line(low - start, high - start, share), slice(start, int(high[-1]) + 1)

    def made_of(self, old: slice) -> slice:
        """The new slices that have to do with any of these old ones."""
        touched = np.flatnonzero((self.high >= old.start) & (self.low < old.stop))
        return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)

    def apply(self, volume: Tensor, axis: int) -> Tensor:
        if self.share is None:
            is_whole = len(self) == volume.shape[axis] and self.low[0] == 0 and bool((np.diff(self.low) == 1).all())
            return volume if is_whole else _take(volume, axis, self.low)
        share = self.share.to(volume.device).view(-1, *[1] * (volume.ndim - 1 - axis))
        return _take(volume, axis, self.low).lerp_(_take(volume, axis, self.high), share)


def _take(volume: Tensor, axis: int, places: NDArray[np.intp]) -> Tensor:
    if volume.device.type == "cpu":  # along the last axis four times as fast as index_select
        return torch.from_numpy(np.take(volume.numpy(), places, axis=axis))
    return volume.index_select(axis, torch.from_numpy(places).to(volume.device))


@dataclass(frozen=True)
class _Change:
    """From one grid to another along the axes."""

    mode: str
    src_affine: Tensor
    xform: Tensor  # new voxel indices to old ones
    shape: tuple[int, ...]
    lines: list[_Line]

    @classmethod
    def of(cls, img: Tensor, dst_affine: Tensor, spatial_size: Sequence[int] | None, mode: str) -> _Change | None:
        """None where it is none along the axes, or no change at all."""
        if not isinstance(img, MetaTensor) or spatial_size is None:
            return None
        old, new = tuple(img.shape[1:]), tuple(int(size) for size in spatial_size)
        # that of an image (C, H, W) may have a third axis
        src = to_affine_nd(len(old), img.peek_pending_affine().to("cpu", torch.float64))
        # by numpy, as MONAI does: then affines are equal to the last bit
        xform = torch.from_numpy(
            np.linalg.solve(src.numpy(), to_affine_nd(len(old), torch.as_tensor(dst_affine).to(src)).numpy())
        )
        if old == new and torch.allclose(xform, torch.eye(len(xform)).to(xform), atol=AFFINE_TOL):
            return None
        rank = len(old)
        scale = xform[:rank, :rank]
        astray = (scale - scale.diag().diag()).abs() @ torch.tensor(new, dtype=scale.dtype)
        if bool((astray > ALONG_AXES).any()) or bool((scale.diag() <= 0).any()):
            return None
        places = (_places(xform, axis, old, new) for axis in range(rank))
        lines = [_Line.of(at, length, mode == "bilinear") for at, length in zip(places, old, strict=True)]
        return cls(mode, src, xform, new, lines)


def _places(xform: Tensor, axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Where the new slices lie among the old: as MONAI and torch work it out, to the last bit.

    Half-way between two slices the last bit says which of them is the nearest.
    """
    rank = len(old)
    backwards = [*reversed(range(rank)), rank]
    theta = to_norm_affine(xform[None], old, new, align_corners=False)[:, backwards][:, :rank, backwards]
    line = [1, 1, *(new[axis] if other == axis else 1 for other in range(rank))]
    grid = F.affine_grid(theta, line, align_corners=False)[..., rank - 1 - axis].flatten()
    return ((grid + 1) * old[axis] - 1) / 2


def _resample(volume: Tensor, lines: Sequence[_Line]) -> Tensor:
    """A volume (C, *old) to (C, *new), float32, its axes in the same order in memory."""
    order = _memory_order(volume)
    sizes = [len(lines[axis]) for axis in order]
    back = [order.index(axis) + 1 for axis in range(len(order))]
    made = torch.empty((len(volume), *sizes), dtype=torch.float32, device=volume.device).permute(0, *back)
    for where, slab in _slabs(volume, lines):
        made[where] = slab
    return made


def _label(probabilities: Tensor, lines: Sequence[_Line], to_label: Mapping[str, Any]) -> Tensor:
    """`RegionsToLabeld` of the resampled probabilities, (R, *old) to (1, *new), uint8; they are never held as a whole.

    Only the box that can reach the threshold is resampled: interpolation does not rise above its neighbours.
    """
    label = torch.zeros((1, *map(len, lines)), dtype=torch.uint8, device=probabilities.device)
    inside = (probabilities >= to_label["threshold"]).any(dim=0)
    box = [line.made_of(_extent(inside, axis)) for axis, line in enumerate(lines)]
    if any(new.start == new.stop for new in box):
        return label
    parts, crop = zip(*(line.part(new) for line, new in zip(lines, box, strict=True)), strict=True)
    target, source = (slice(None), *box), (slice(None), *crop)
    boxed = label[target]
    for where, slab in _slabs(probabilities[source], parts):
        boxed[where] = _as_label(slab, to_label)
    return label


def _slabs(volume: Tensor, lines: Sequence[_Line]) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """The resampled volume, where and what: a few slices at a time along the axis that is the slowest in memory.

    The axes that shrink most come first.
    """
    order = _memory_order(volume)
    slow, back = order[0], [order.index(axis) + 1 for axis in range(len(order))]
    values = volume.permute(0, *(axis + 1 for axis in order))
    by_growth = sorted(order, key=lambda axis: len(lines[axis]) / volume.shape[axis + 1])
    slice_size = len(volume) * prod(max(len(lines[axis]), volume.shape[axis + 1]) for axis in order[1:])
    step = max(1, SLAB // slice_size)
    for start in range(0, len(lines[slow]), step):
        new = slice(start, min(start + step, len(lines[slow])))
        line, old = lines[slow].part(new)
        slab = values[:, old].float()
        for axis in by_growth:
            slab = (line if axis == slow else lines[axis]).apply(slab, order.index(axis) + 1)
        yield (
            (slice(None), *(new if axis == slow else slice(None) for axis in range(len(order)))),
            slab.permute(0, *back),
        )


def _memory_order(volume: Tensor) -> list[int]:
    """The spatial axes, from 0, the slowest in memory first."""
    return sorted(range(volume.ndim - 1), key=lambda axis: -volume.stride(axis + 1))


def _extent(inside: Tensor, axis: int) -> slice:
    """From the first to the last place along an axis that holds any."""
    found = inside.any(dim=tuple(other for other in range(inside.ndim) if other != axis)).nonzero().flatten()
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def _as_label(probabilities: Tensor, to_label: Mapping[str, Any]) -> Tensor:
    label: Tensor = RegionsToLabeld("pred", **to_label)({"pred": probabilities})["pred"]
    return label
