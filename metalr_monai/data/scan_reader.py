"""Scans as users have them, NIfTI files or DICOM series, for MONAI's `LoadImaged`."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai.data import NibabelReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from .dicom_series import is_series, open_series

Paths = Sequence[str | PathLike[str]] | str | PathLike[str]


class ScanReader(NibabelReader):  # type: ignore[misc]  # MONAI is untyped
    """MONAI's NibabelReader, to which a DICOM series is one more image: a folder, or `FOLDER/UID`.

    Arrays are (x, y, z), affines RAS in mm; the meta data of a series are those of its conversion to NIfTI. For a
    config: `{"_target_": "LoadImaged", "keys": "image", "reader": "metalr_monai.ScanReader"}`.

    Raises:
        DataError: (on loading) what `open_series` refuses.
    """

    def verify_suffix(self, filename: Paths) -> bool:
        """Whether all are series, or NIfTI files by their endings."""
        return all(is_series(path) for path in ensure_tuple(filename)) or bool(super().verify_suffix(filename))

    def read(self, data: Paths) -> list[Path]:
        """The paths: `LoadImage` would answer an error here by trying all other readers, and hide what was wrong."""
        return [Path(path) for path in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Array and meta data of one image, or of several stacked as channels."""
        images = [open_series(path) if is_series(path) else super(ScanReader, self).read(path) for path in img]
        self.filenames = tuple(img)  # which the base class takes beside the images
        array, meta = super().get_data(images)
        return array, meta
