"""NIfTI files: what is raised on those of no use, how their voxels are read, and how far two grids lie apart."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

GRID_TOLERANCE = 0.1  # of the smallest voxel edge: how far corners of two grids that count as the same may lie apart

# What nibabel and gzip raise on files that are damaged or no NIfTI; MemoryError: a damaged header may ask for terabytes
UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    MemoryError,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


def open_nifti(path: str | PathLike[str]) -> nib.Nifti1Image:
    """The image of a NIfTI file, of which the header alone has been read.

    Raises:
        one of `UNREADABLE`: the file is missing, damaged, or of another format.
    """
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise ImageFileError(f"it is {type(image).__name__}; expected NIfTI")
    return image


def read_voxels(image: nib.Nifti1Image, path: str | PathLike[str]) -> NDArray[Any]:
    """The voxels, (x, y, z) in the order of the file, of the image that was opened from `path`.

    A gzip is read to its end, where the checksum is compared.

    Raises:
        one of `UNREADABLE`: the file is damaged.
    """
    found: NDArray[Any]
    if not fspath(path).endswith(".gz"):
        found = np.asanyarray(image.dataobj)
        return found
    with gzip.open(path) as stream:
        found = np.asanyarray(type(image).from_stream(stream).dataobj)
        while stream.read(2**20):  # to the end, where the checksum is compared
            continue
    return found


def corner_distance(shape: Sequence[int], one: NDArray[Any], other: NDArray[Any]) -> float:
    """The farthest that a corner voxel lies from the same voxel by the other affine, mm; NaN where an affine is.

    Args:
        shape: (x, y, z), voxels, of both grids.
        one, other: their affines, (4, 4), from voxels to mm.
    """
    ends = [(0, size - 1) for size in shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    return float(np.linalg.norm(apply_affine(one, corners) - apply_affine(other, corners), axis=1).max())


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def times(sizes: Sequence[float]) -> str:
    """Sizes by axis, as people write them: `512×512×90`."""
    return "×".join(f"{size:g}" for size in sizes)
