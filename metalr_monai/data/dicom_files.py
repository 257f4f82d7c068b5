"""DICOM files one by one: which files of a folder they are, and what their headers say of a slice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

_STORAGE = "1.2.840.10008.5.1.4.1.1"
# SOP classes of files without pixels: directories, waveforms, presentation states, raw data, reports, documents, plans
_WITHOUT_PIXELS = ("1.2.840.10008.1.3.10", *(f"{_STORAGE}.{k}" for k in ("9", "11", "66", "67", "88", "104", "481")))


@dataclass(frozen=True)
class Slice:
    """The header of one DICOM file with an image; its tags are "" where they are absent.

    Args:
        series_uid, series_number, description, modality, image_type: as the tags of these names.
        size: columns, rows, frames.
        spacing: mm between columns and between rows.
        origin: centre of the first pixel, mm, LPS.
        axes: directions along a row, down a column and of the normal, as columns, LPS.
        is_placed: position, orientation and spacing are stated, not ITK's defaults.
        voxel_type: SimpleITK's pixel id of the rescaled values (HU), and the number of components.
    """

    file: Path
    series_uid: str
    series_number: str
    description: str
    modality: str
    image_type: str
    size: tuple[int, int, int]
    spacing: tuple[float, float]
    origin: NDArray[np.float64]
    axes: NDArray[np.float64]
    is_placed: bool
    voxel_type: tuple[int, int]


def dicom_files(folder: Path) -> Iterator[Path]:
    """Files in `folder`, not below it, that are DICOM by their ending `.dcm` or by their first bytes; sorted."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        if path.suffix.lower() == ".dcm" or _first_bytes(path, 132)[128:] == b"DICM":
            yield path


def read_slice(file: Path) -> Slice | None:
    """The header of a DICOM file, or None where GDCM finds no image in it."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def tag(number: str) -> str:
        return str(reader.GetMetaData(number)).strip(" \0") if reader.HasMetaDataKey(number) else ""

    columns, rows, frames = reader.GetSize()
    across, down, _ = reader.GetSpacing()
    return Slice(
        file,
        series_uid=tag("0020|000e"),
        series_number=tag("0020|0011"),
        description=tag("0008|103e"),
        modality=tag("0008|0060"),
        image_type=tag("0008|0008"),
        size=(columns, rows, frames),
        spacing=(across, down),
        origin=np.array(reader.GetOrigin()),
        axes=np.array(reader.GetDirection()).reshape(3, 3),
        is_placed=bool(tag("0020|0032") and tag("0020|0037") and tag("0028|0030")),
        voxel_type=(reader.GetPixelID(), reader.GetNumberOfComponents()),
    )


def has_pixels(file: Path) -> bool:
    """By the SOP class at the file's beginning; True too where that cannot be told, as in a damaged file."""
    match = re.search(rb"\x02\x00\x02\x00UI..([\d.]+)", _first_bytes(file, 1024), re.DOTALL)
    sop_class = match[1].decode() if match else ""
    if sop_class and not sop_class.startswith("1.2.840.10008."):
        return False  # a vendor's own
    return not any(f"{sop_class}.".startswith(f"{name}.") for name in _WITHOUT_PIXELS)


def _first_bytes(file: Path, count: int) -> bytes:
    with file.open("rb") as stream:
        return stream.read(count)
