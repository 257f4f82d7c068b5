"""DICOM series as volumes: find them in a folder, check their slices' places, read them as NIfTI images are read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ..errors import DataError, first_few
from .dicom_files import Slice, dicom_files, has_pixels, read_slice
from .problem_report import Kind

PLACE_TOLERANCE = 0.2  # of the distance between slices: how far a slice may lie from its place on the even grid
SAME_PLACE = 0.01  # mm along the normal; slices that are closer are at one place
TILT_TOLERANCE = 0.1  # degrees between the slices' normal and the line through their corners
SCANS = {"CT", "MR", "PT", ""}  # modalities that are scanned as volumes; some writers leave the tag empty

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """The slices of one Series Instance UID in one folder, along their normal; `damaged`: unreadable files there."""

    folder: Path
    slices: tuple[Slice, ...]
    damaged: tuple[Path, ...] = ()

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.slices[0].series_uid

    @property
    def number(self) -> str:
        """Series Number, or ''."""
        return self.slices[0].series_number

    @property
    def modality(self) -> str:
        """As "CT", or ''."""
        return self.slices[0].modality

    def __str__(self) -> str:
        about = [self.modality, f"{len(self.slices)} slice(s)", self.slices[0].description]
        return f"{self.uid} ({', '.join(filter(None, about))})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        return (*self.slices[0].size[:2], len(self.slices))

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to mm, RAS, (4, 4); from the slices' positions, so that a tilted gantry gives a shear."""
        first, last = self.slices[0], self.slices[-1]
        lps = np.eye(4)
        lps[:3, :2] = first.axes[:, :2] * first.spacing
        lps[:3, 2] = (last.origin - first.origin) / (len(self.slices) - 1)
        lps[:3, 3] = first.origin
        return _LPS_TO_RAS @ lps

    def why_no_volume(self) -> str:
        """Why nobody would take this series for a scan, or ''."""
        if self.modality not in SCANS:
            return f"modality {self.modality}"
        if all("LOCALIZER" in one.image_type for one in self.slices):
            return "a localizer"
        if any(one.size[2] > 1 for one in self.slices):
            return ""  # its frames may be a volume: an error, see `problems`
        if len(self.slices) == 1:
            return "a single slice"
        if not any(one.is_placed for one in self.slices):
            return "no slice has a position"
        return ""

    def problems(self) -> Iterator[tuple[Kind, str]]:
        """What is wrong with the series; an "error" keeps it from being read."""
        if self.damaged:
            names = first_few([path.name for path in self.damaged])
            yield "error", f"{len(self.damaged)} DICOM file(s) cannot be read: {names}. Copy them again, or remove them"
        if self.modality != "CT":
            yield "warning", f"its modality is {self.modality or 'not stated'}; expected CT, in HU"
        error = self._unlike() or self._misplaced()
        if error:
            yield "error", error
        elif (tilt := self._tilt()) > TILT_TOLERANCE:
            yield "warning", f"its slices are sheared by {tilt:.1f}° (a tilted gantry); its affine states the shear"

    def _unlike(self) -> str:
        """Slices that do not make one volume, or ''."""
        if framed := [one.file.name for one in self.slices if one.size[2] > 1]:
            return f"multi-frame file(s) {first_few(framed)}; expected one slice a file: convert the series to NIfTI"
        if len(self.slices) == 1:
            return "a single slice; expected a volume"
        if bare := [one.file.name for one in self.slices if not one.is_placed]:
            return f"{len(bare)} slice(s) have no position, orientation or pixel spacing: {first_few(bare)}"
        if any(one.voxel_type[1] > 1 for one in self.slices):
            return "its voxels are in colour; expected one plain number each"
        first = self.slices[0]
        for what, is_like in (
            ("size", lambda one: one.size == first.size),
            ("orientation", lambda one: np.allclose(one.axes, first.axes, atol=1e-3)),
            ("pixel spacing", lambda one: np.allclose(one.spacing, first.spacing, rtol=1e-3)),
            ("pixel type", lambda one: one.voxel_type == first.voxel_type),
        ):
            groups: dict[bool, list[str]] = {True: [], False: []}
            for one in self.slices:
                groups[bool(is_like(one))].append(one.file.name)
            if groups[False]:
                return f"{what} of {first_few(min(groups.values(), key=len))} differs from the others'; expected one"
        return ""

    def _misplaced(self) -> str:
        """Slices that are missing, double or unevenly spaced, or ''."""
        origins = np.stack([one.origin for one in self.slices])
        gaps = np.diff(origins @ self.slices[0].axes[:, 2])
        if shared := int((gaps < SAME_PLACE).sum()):
            return f"{shared} slice(s) lie where another one lies; several phases or copies? Expected each place once"
        step = (origins[-1] - origins[0]) / len(gaps)
        off = np.linalg.norm(origins - (origins[0] + np.arange(len(origins))[:, None] * step), axis=1).max()
        if off <= PLACE_TOLERANCE * np.linalg.norm(step):
            return ""
        usual, widest = float(np.median(gaps)), int(gaps.argmax())
        if gaps[widest] < 1.5 * usual:
            return f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart; expected equal distances"
        missing = int(np.maximum(np.round(gaps / usual) - 1, 0).sum())
        names = f"{self.slices[widest].file.name} and {self.slices[widest + 1].file.name}"
        return (
            f"about {missing} slice(s) are missing: {names} are {gaps[widest]:.3g} mm apart, others {usual:.3g}. "
            f"Copy the series again, whole"
        )

    def _tilt(self) -> float:
        """Degrees between the normal and the way from slice to slice."""
        way = self.slices[-1].origin - self.slices[0].origin
        cosine = way @ self.slices[0].axes[:, 2] / np.linalg.norm(way)
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@dataclass(frozen=True)
class SeriesFolder:
    """What the DICOM files of one folder are: volumes, other series (in words), and files that cannot be read."""

    volumes: list[Series]
    others: list[str]
    damaged: list[Path]


def has_dicom(folder: Path) -> bool:
    """The folder itself holds a DICOM file, by its ending or its first bytes."""
    return next(dicom_files(folder), None) is not None


def is_series(path: str | PathLike[str]) -> bool:
    """The path means a series: a folder, or `FOLDER/UID` for one of several series in a folder."""
    path = Path(path)
    return path.is_dir() or (bool(re.fullmatch(r"[\d.]+", path.name)) and not path.exists() and path.parent.is_dir())


def scan_folder(folder: Path) -> SeriesFolder:
    """Read the headers of all DICOM files of one folder, not of those below it: about a second for 2000 slices."""
    slices: dict[str, list[Slice]] = defaultdict(list)
    damaged, without_pixels = [], 0
    for file in dicom_files(folder):
        if (header := read_slice(file)) is not None:
            slices[header.series_uid].append(header)
        elif has_pixels(file):
            damaged.append(file)
        else:
            without_pixels += 1
    found = [Series(folder, _along_normal(parts), tuple(damaged)) for parts in slices.values()]
    others = [f"{series}: {reason}" for series in found if (reason := series.why_no_volume())]
    others += [f"{without_pixels} file(s) without an image (reports and the like)"] if without_pixels else []
    return SeriesFolder([series for series in found if not series.why_no_volume()], others, damaged)


def find_series(path: str | PathLike[str]) -> Series:
    """The one volume in a folder, or `FOLDER/UID`; its headers are read, its voxels are not.

    Raises:
        DataError: there is none, or there are several and the UID does not choose one.
    """
    path = Path(path)
    folder, uid = (path, None) if path.is_dir() else (path.parent, path.name)
    found = scan_folder(folder)
    volumes = [series for series in found.volumes if uid in (None, series.uid)]
    if len(volumes) == 1:
        return volumes[0]
    there = _listed(map(str, found.volumes))
    if volumes:
        raise DataError(
            f"{folder} holds {len(volumes)} DICOM series; expected one:{there}\nName one as FOLDER/UID, give each a "
            f"folder of its own, or list the folder with data_list('pairs', …)."
        )
    what = "no DICOM series with an image volume" if uid is None else f"no image volume with the series UID {uid}"
    unread = [f"{len(found.damaged)} file(s) that cannot be read: {first_few([one.name for one in found.damaged])}"]
    there += _listed([*found.others, *(unread if found.damaged else [])])
    raise DataError(f"{folder} holds {what}.{' There are:' + there if there else ''}")


def inspect_series(path: str | PathLike[str]) -> tuple[nib.Nifti1Image | None, list[tuple[Kind, str]]]:
    """The series as an image whose voxels are read when they are asked for, unless it has errors; all its problems."""
    try:
        series = find_series(path)
    except DataError as error:
        return None, [("error", str(error))]
    problems = list(series.problems())
    fit = all(kind != "error" for kind, _ in problems)
    return (nib.Nifti1Image(_Voxels(series), series.affine) if fit else None), problems


def open_series(path: str | PathLike[str]) -> nib.Nifti1Image:
    """A DICOM series as nibabel gives its conversion to NIfTI: voxels (x, y, z) in HU, affine to mm, RAS.

    Rescale slope and intercept are applied (SimpleITK, GDCM); voxels are read when they are asked for. Slices are
    placed by their Image Position, and must lie on an even grid within `PLACE_TOLERANCE`.

    Args:
        path: folder of one series, or `FOLDER/UID` for one of several in it.

    Raises:
        DataError: no or several series; missing, double or unevenly spaced slices; slices of different size,
            orientation, spacing or type; a multi-frame file; a file that cannot be read.
    """
    image, problems = inspect_series(path)
    if image is None:
        raise DataError(f"{path}: {'; '.join(message for kind, message in problems if kind == 'error')}.")
    return image


class _Voxels:
    """The voxels of a series, (x, y, z), read from its files by `np.asarray`."""

    ndim = 3

    def __init__(self, series: Series) -> None:
        self._series = series
        self.shape = series.shape
        self.dtype = np.dtype(_NUMPY_TYPES.get(series.slices[0].voxel_type[0], np.float64))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: ANN401 - numpy's protocol
        reader = sitk.ImageSeriesReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames([str(one.file) for one in self._series.slices])
        reader.SetSpacingWarningRelThreshold(1.0)  # ITK would print what `problems` has judged
        try:
            voxels: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute()).T
        except RuntimeError as error:
            raise DataError(
                f"{self._series.folder}: the voxels of series {self._series} cannot be read: {error}"
            ) from error
        return voxels.astype(dtype or voxels.dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return np.asarray(self)[index]


_NUMPY_TYPES = {
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt32: np.int32,
    sitk.sitkFloat32: np.float32,
}


def _along_normal(slices: Sequence[Slice]) -> tuple[Slice, ...]:
    """As ITK orders them."""
    normal = slices[0].axes[:, 2]
    return tuple(sorted(slices, key=lambda one: float(one.origin @ normal)))


def _listed(lines: Iterable[str]) -> str:
    return "".join(f"\n  {line}" for line in lines)
