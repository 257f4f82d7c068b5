"""Small DICOM series on disk, written slice by slice."""

from __future__ import annotations

import locale
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

UID = "1.2.826.0.1.3680043.8.498.7"
STORAGE = "1.2.840.10008.5.1.4.1.1"


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    places: Sequence[float] | None = None,
    uid: str = f"{UID}.1",
    ending: str = ".dcm",
    tags: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write HU (x, y, z) with an affine (RAS, mm); files are named against the order of the slices.

    Args:
        places: of each slice along the third axis, in steps of the affine; 0, 1, 2… unless told otherwise.
        tags: more of them, or in place of those that are written anyway.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :2], axis=0)
    cosines = (lps[:3, :2] / spacing).T.ravel()
    count = voxels.shape[2]
    files = []
    for k, place in enumerate(range(count) if places is None else places):
        image = sitk.GetImageFromArray(voxels[:, :, k : k + 1].T.astype(np.int16))
        image.SetSpacing((*spacing, 1.0))
        values = {
            "0008|0060": "CT",
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0018": f"{uid}.{k + 1}",
            "0020|000d": UID,
            "0020|000e": uid,
            "0020|0013": str(k),
            "0020|0032": decimals(lps[:3, 3] + place * lps[:3, 2]),
            "0020|0037": decimals(cosines),
            "0028|1052": "-1024",
            "0028|1053": "1",
            **(tags or {}),
        }
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        files.append(folder / f"I{count - k:04d}{ending}")
        write(image, files[-1])
    return files


def write(image: sitk.Image, file: Path) -> None:
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(file))
    before = locale.setlocale(locale.LC_ALL)
    writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # ITK's writer may leave "C" behind: text files would be ASCII


def hide_position(file: Path) -> None:
    """Give the tag Image Position a number that means nothing; SimpleITK would not write CT without it."""
    file.write_bytes(file.read_bytes().replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", 1))


def write_report(file: Path, sop_class: str = f"{STORAGE}.88.67") -> None:
    """A DICOM file without pixels, such as a dose report."""
    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", sop_class) + element(2, 16, "UI", "1.2.840.10008.1.2.1")
    meta = element(2, 0, "UL", struct.pack("<I", len(meta))) + meta
    body = element(8, 0x16, "UI", sop_class) + element(8, 0x60, "CS", "SR") + element(0x20, 0xE, "UI", f"{UID}.88")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\0" * 128 + b"DICM" + meta + body)


def element(group: int, number: int, kind: str, value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    content += b"\0" * (len(content) % 2)
    head = struct.pack("<HH2s", group, number, kind.encode())
    return head + (struct.pack("<HI", 0, len(content)) if kind == "OB" else struct.pack("<H", len(content))) + content


def decimals(numbers: Sequence[float] | np.ndarray) -> str:
    """DICOM's decimal strings: 16 characters a number."""
    return "\\".join(f"{number:.12f}"[:16] for number in numbers)


def turned(spacing: Sequence[float], angles: Sequence[float] = (0.2, 0.15, -0.3)) -> np.ndarray:
    """An affine (RAS) turned about all axes; its third axis is the normal of the first two, as seen in LPS."""
    a, b, c = angles
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ about_y @ np.diag(spacing)
    affine[:3, 3] = (91.25, -120.5, 33.75)
    return affine
