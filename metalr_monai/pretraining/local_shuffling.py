"""Local shuffling: voxels change places within thousands of small windows, which texture must be known to undo.

Source: Zhou et al., "Models Genesis", Medical Image Analysis 2021. Every window reads from the original image, and a
later window overwrites an earlier one, so a voxel is settled by the last window over it. That one is found for all
voxels at once: each window numbers its voxels, and the largest number wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checks import DeformationError, by_size, checked_images, checked_probability, checked_windows, spatial
from .draws import coins, on_device, random_bits, uniform_integers
from .some_items import on_some_items

PROBABILITY = 0.5
PUBLISHED_WINDOWS, PUBLISHED_SHAPE = 10_000, (64, 64, 32)
LARGEST = 10  # a window is at most a tenth of the image, along each side
RANDOM_BITS = 16  # of a key at the least; two voxels whose bits are equal keep their order
DEVIATIONS = 10  # above the mean number of a batch's window voxels; more have never a chance to come


@dataclass(frozen=True)
class Windows:
    """Windows of a batch, and the permutation of each one's voxels as a list of what is read and written where.

    Voxels are numbered row by row. The list may end with entries that write beyond the batch's last voxel: they say
    nothing.

    Attributes:
        corner: the lowest place in each window, (items, N, axes), in voxels.
        side: (items, N, axes), in voxels.
        written: the voxel of the batch that is written, (entries,).
        read: the voxel of the item that is read, plus (n + 1)·2ᵏ for the item's window n, (entries,); k is
            `voxel_bits`. So the largest of all entries for a voxel is the last window's.
    """

    corner: Tensor
    side: Tensor
    written: Tensor
    read: Tensor


def local_shuffling(
    images: Tensor, generator: torch.Generator, probability: float = PROBABILITY, windows: int | None = None
) -> Tensor:
    """A new batch, in which the voxels of an item have been permuted within small windows; its channels share them.

    Args:
        images: (B, C, H, W[, D]), floating point, of any range, 20 voxels or more along one side.
        generator: on the images' device.
        probability: of each item.
        windows: number of windows an item; None takes `default_windows`, which is 10,000 for 64×64×32.

    Raises:
        DeformationError: the images have other dimensions, are not floating point, or are too small for a window.
        OptionError: `probability` is not in [0, 1], or `windows` below 1.
    """
    images = checked_images(images)
    chosen = coins((len(images),), checked_probability("probability", probability), generator)
    number = checked_windows(windows) or default_windows(spatial(images))
    if not probability:
        return images.clone()
    _check_size(spatial(images))  # now, not when the first coin falls so
    return on_some_items(
        images, chosen, lambda some: apply_windows(some, draw_windows(len(some), spatial(some), number, generator))
    )


def largest_window(shape: Sequence[int]) -> list[int]:
    """Sides of the largest window in an image of the given shape: a tenth of its sides, at least 1."""
    return [max(length // LARGEST, 1) for length in shape]


def default_windows(shape: Sequence[int]) -> int:
    """As many windows as lie over a voxel as often as the published ones do: 1.87 times in the mean.

    That leaves about 15 % of the voxels in their place, whatever the size of the image: 10,000 windows for 64×64×32,
    625 for 64×64, 709 for 224×224. (As many as 10,000 in a picture of 224×224 would leave none.)
    """
    published = PUBLISHED_WINDOWS * _mean_volume(PUBLISHED_SHAPE) / math.prod(PUBLISHED_SHAPE)
    return max(round(published * math.prod(shape) / _mean_volume(shape)), 1)


def draw_windows(items: int, shape: Sequence[int], number: int, generator: torch.Generator) -> Windows:
    """`number` windows for each item: sides uniform from 1 to the largest, places and permutations uniform.

    Raises:
        DeformationError: no window could hold more than one voxel.
    """
    _check_size(shape)
    device = generator.device
    most = on_device(largest_window(shape), device)[:, None, None].expand(-1, items, number)
    side = uniform_integers(1, most, generator)
    corner = uniform_integers(0, on_device(shape, device)[:, None, None] - side, generator).movedim(0, -1)
    side = side.movedim(0, -1)
    permuted = permuted_by_rows if device.type == "cpu" else permuted_by_keys
    return Windows(corner, side, *permuted(corner, side, shape, generator))


def permuted_by_rows(
    corner: Tensor, side: Tensor, shape: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`Windows.written` and `read`, the windows in order of their form. For the CPU: its host can count the forms.

    The windows of one form are the rows of a matrix of random keys, whose last bits are the way from the window's
    corner to a voxel: sorting the rows permutes the voxels. NumPy sorts short rows many times faster than torch.
    """
    items = len(corner)
    form = _number(side - 1, largest_window(shape)).flatten().numpy()
    order = form.astype(np.min_scalar_type(form.max())).argsort(kind="stable")  # by radix where 16 bits suffice
    counts = np.bincount(form).tolist()
    voxel, volume = _number(corner, shape), side.prod(dim=-1).flatten().numpy()[order]
    in_batch = voxel + torch.arange(items)[:, None] * math.prod(shape)
    ranked = _ranked(voxel, shape)
    way_bits = _bits(int(np.ravel_multi_index([most - 1 for most in largest_window(shape)], shape)) + 1)
    fits = max(int(in_batch.max()), int(ranked.max())) < 2**31 - math.prod(shape)
    dtype = np.dtype(np.int32 if fits and 31 - way_bits >= RANDOM_BITS else np.int64)
    written, read = (number.flatten().numpy().astype(dtype)[order].repeat(volume) for number in (in_batch, ranked))
    keys = random_bits(len(written), dtype, generator)
    keys &= -1 << way_bits & np.iinfo(dtype).max
    entry = 0
    # The forms beyond the last one that was drawn are left out
    for count, tile in zip(counts, _tiles(tuple(shape), _power_of_two(max(counts)), dtype), strict=False):
        rows = tile[:count]
        part = slice(entry, entry + rows.size)
        written[part] += rows.ravel()
        keys[part] |= rows.ravel()
        keys[part].reshape(rows.shape).sort(axis=1)
        entry = part.stop
    keys &= 2**way_bits - 1
    read += keys
    return torch.from_numpy(written).long(), torch.from_numpy(read)


def permuted_by_keys(
    corner: Tensor, side: Tensor, shape: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`Windows.written` and `read`, the windows in their order. For a GPU: no number on the device need be known.

    The keys of all windows are sorted at once; their first bits are the window, their last ones the place in it. The
    list's length is not that of all windows' voxels, but one that these stay below.
    """
    items, number, _ = corner.shape
    windows, device, largest = items * number, corner.device, largest_window(shape)
    entries = _most_entries(windows, largest)
    end = side.prod(dim=-1).flatten().cumsum(0).clamp(max=entries)
    starts = torch.zeros(entries + 1, dtype=torch.int64, device=device).scatter_add_(0, end, torch.ones_like(end))
    window = starts[:-1].cumsum(0)  # `windows` where there is none any more
    is_one = window < windows
    first = torch.cat((end.new_zeros(1), end))
    place = torch.where(is_one, torch.arange(entries, device=device) - first[window], 0)
    place_bits, window_bits = _bits(math.prod(largest)), _bits(windows + 1)
    random = torch.randint(2 ** (63 - place_bits - window_bits), (entries,), generator=generator, device=device)
    keys = (window << (63 - window_bits)) | (random << place_bits) | place
    source = keys.sort().values & (2**place_bits - 1)
    window = window.clamp(max=windows - 1)
    row = (_number(side[..., 1:] - 1, largest[1:]).flatten() * math.prod(largest))[window]
    ways = _table(tuple(shape), device)
    voxel = _number(corner, shape)
    in_batch = (voxel + torch.arange(items, device=device)[:, None] * math.prod(shape)).flatten()[window]
    written = torch.where(is_one, in_batch + ways[row + place], items * math.prod(shape))
    return written, _ranked(voxel, shape).flatten()[window] + ways[row + source]


def apply_windows(images: Tensor, windows: Windows) -> Tensor:
    """A new batch: each voxel as the last window over it has it; the others as they are."""
    items, channels, *shape = images.shape
    voxels, device = math.prod(shape), images.device
    last = windows.read.new_zeros(items * voxels + 1)
    last[:-1].view(items, voxels).copy_(torch.arange(voxels, device=device))  # each voxel its own, unless written
    last.scatter_reduce_(0, windows.written, windows.read, "amax")
    read = last[:-1].bitwise_and_(2 ** voxel_bits(shape) - 1).view(items, voxels)
    read += torch.arange(items, device=device, dtype=read.dtype)[:, None] * voxels
    shuffled = images.transpose(0, 1).reshape(channels, -1).index_select(1, read.flatten())
    return shuffled.view(channels, items, *shape).transpose(0, 1).contiguous()


def voxel_bits(shape: Sequence[int]) -> int:
    """How many bits the numbers of an item's voxels have."""
    return _bits(math.prod(shape))


def _ranked(voxel: Tensor, shape: Sequence[int]) -> Tensor:
    """The voxels (items, N) with their window's number above their own bits."""
    return voxel + (torch.arange(1, voxel.shape[1] + 1, device=voxel.device) << voxel_bits(shape))


def _number(place: Tensor, shape: Sequence[int]) -> Tensor:
    """Places (…, axes) in an array of this shape, as numbers row by row."""
    number = place[..., 0]
    for axis in range(1, len(shape)):
        number = number * shape[axis] + place[..., axis]
    return number


@lru_cache(maxsize=8)
def _forms(shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """For each form of a window, 1×1×1, 1×1×2, …: how far its voxels lie behind its lowest one, in voxels."""
    voxels = np.arange(math.prod(shape)).reshape(shape)
    forms = np.ndindex(*largest_window(shape))
    return [voxels[tuple(slice(most + 1) for most in form)].ravel() for form in forms]


@lru_cache(maxsize=8)
def _table(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """`_forms` with the largest first side, each filled up to the length of the longest: (forms · length,).

    A shorter first side leaves out the last voxels and changes no other, so these forms serve all windows.
    """
    forms = _forms(shape)[-math.prod(largest_window(shape)[1:]) :]
    filled = np.stack([np.pad(ways, (0, len(forms[-1]) - len(ways))) for ways in forms])
    return torch.from_numpy(filled.ravel()).to(device)


@lru_cache(maxsize=8)
def _tiles(shape: tuple[int, ...], rows: int, dtype: np.dtype[Any]) -> list[NDArray[Any]]:
    """`_forms`, each repeated in as many rows: adding those to numbers is faster than adding one row to all."""
    return [np.tile(ways.astype(dtype), (rows, 1)) for ways in _forms(shape)]


def _power_of_two(number: int) -> int:
    """The next one from `number` on."""
    return 1 << (number - 1).bit_length()


def _check_size(shape: Sequence[int]) -> None:
    if max(largest_window(shape)) == 1:
        raise DeformationError(
            f"Images of {by_size(shape)} are too small for local shuffling: a window is at most a tenth of the image, "
            f"which is no more than one voxel. Expected 20 voxels or more along a side. Take larger cubes, or set the "
            f"probability of local shuffling to 0."
        )


def _mean_volume(shape: Sequence[int]) -> float:
    return math.prod((most + 1) / 2 for most in largest_window(shape))


def _most_entries(windows: int, largest: Sequence[int]) -> int:
    """Ten standard deviations above the mean sum of the windows' volumes, or what they can have at most."""
    mean = math.prod((most + 1) / 2 for most in largest)
    mean_square = math.prod((most + 1) * (2 * most + 1) / 6 for most in largest)
    likely = windows * mean + DEVIATIONS * math.sqrt(windows * (mean_square - mean**2))
    return min(math.ceil(likely), windows * math.prod(largest))


def _bits(number: int) -> int:
    """How many bits hold 0 … number − 1, at least 1."""
    return max((number - 1).bit_length(), 1)
