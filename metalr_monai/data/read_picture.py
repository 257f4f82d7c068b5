"""Pictures of any depth and colour (PNG, JPEG, BMP, a GIF's first frame) as arrays (channels, rows, columns) in [0, 1].

MONAI's own `PILReader` swaps rows and columns, so that pictures follow the (x, y, z) of its volumes. Here they keep the
orientation in which they are looked at, (C, H, W), which is what networks pre-trained on photographs have seen, and
what augmentation by a *horizontal* flip means.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Hashable, Iterable, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.transforms import LoadImaged
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import DataError, OptionError

# What Pillow raises on files that are damaged or no pictures
UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    MemoryError,
    zlib.error,
    struct.error,
    Image.DecompressionBombError,
)
CHANNELS = (1, 3)
ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


def open_picture(path: str | PathLike[str]) -> Image.Image:
    """The decoded picture, its first frame if there are several, turned upright as its EXIF orientation says.

    Raises:
        DataError: the file is missing, empty, damaged or no picture.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            return ImageOps.exif_transpose(picture)
    except UNREADABLE as error:
        raise DataError(f"{fspath(path)} cannot be read as a picture: {_told(error)}.") from error


def picture_array(picture: Image.Image, channels: int = 1) -> NDArray[np.float32]:
    """The picture as float32, shape (channels, rows, columns), in [0, 1]: 0 is the depth's least value, 1 its largest.

    Colour becomes grey by its luma (ITU-R 601), grey becomes colour by repetition. What is transparent is laid over
    black. 16-bit grey keeps its depth; 16-bit colour is read by Pillow as 8-bit.

    Raises:
        OptionError: `channels` is neither 1 nor 3.
        DataError: a picture of floats or of 32-bit integers beyond 65,535: there is no knowing what is white.
    """
    if channels not in CHANNELS:
        raise OptionError(f"channels is {channels!r}; expected 1 (grey) or 3 (RGB).")
    if picture.mode == "F":
        raise DataError("The picture has floating point values, whose range is not known; store it with 8 or 16 bits.")
    if picture.mode.startswith("I"):  # 16 bits of a PNG come as I or I;16
        deep = np.asarray(picture, dtype=np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise DataError(
                f"The picture's values go from {deep.min()} to {deep.max()}; expected 8 or 16 bits, 0 … 65,535."
            )
        scaled: NDArray[np.float32] = (deep[None] / 65535).astype(np.float32)
        return np.repeat(scaled, channels, axis=0)
    plain = _opaque(picture).convert("L" if channels == 1 else "RGB")
    array = np.asarray(plain, dtype=np.float32) / 255
    planes = array[None] if channels == 1 else array.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, dtype=np.float32)


def has_alpha(picture: Image.Image) -> bool:
    """Some of the picture may be transparent."""
    return picture.mode in ALPHA or "transparency" in picture.info


def read_picture(path: str | PathLike[str], channels: int = 1) -> NDArray[np.float32]:
    """The picture in a file as `picture_array` gives it.

    Raises:
        OptionError, DataError: see `open_picture` and `picture_array`; the message names the file.
    """
    picture = open_picture(path)
    try:
        return picture_array(picture, channels)
    except DataError as error:
        raise DataError(f"{fspath(path)}: {error}") from error


class PictureReader(ImageReader):  # type: ignore[misc]  # MONAI is untyped
    """A reader for MONAI's `LoadImage(d)`: arrays as `picture_array` gives them.

    Example:
        >>> load = LoadImaged("image", reader=PictureReader(channels=3))
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        if channels not in CHANNELS:
            raise OptionError(f"channels is {channels!r}; expected 1 (grey) or 3 (RGB).")
        self.channels = channels

    def verify_suffix(self, filename: Sequence[PathLike[str]] | PathLike[str]) -> bool:
        """Any suffix; the content tells."""
        return True

    def read(self, data: Sequence[PathLike[str]] | PathLike[str], **kwargs: object) -> str:
        """The path alone: MONAI hides what a reader raises here, but not what `get_data` raises."""
        if isinstance(data, (list, tuple)):
            if len(data) != 1:
                raise DataError(f"A picture is one file; got {len(data)}.")
            data = data[0]
        return fspath(data)  # type: ignore[arg-type]  # one path by now

    def get_data(self, img: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The array (C, H, W) and what MONAI keeps beside it."""
        array = read_picture(img, self.channels)
        shape = np.asarray(array.shape[1:])
        return array, {"original_channel_dim": 0, "spatial_shape": shape, "affine": np.eye(3)}


def load_picture(keys: Hashable | Iterable[Hashable] = "image", channels: int = 1) -> LoadImaged:
    """A MONAI transform that reads pictures as float32 `MetaTensor`s, (channels, rows, columns), in [0, 1]."""
    return LoadImaged(keys, reader=PictureReader(channels), image_only=True)


def _opaque(picture: Image.Image) -> Image.Image:
    if not has_alpha(picture):
        return picture
    coloured = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)


def _told(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
