"""Look through a CT data list before training on it, and name everything that is wrong with it at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from tqdm import tqdm

from ..errors import first_few
from ..nifti import GRID_TOLERANCE, UNREADABLE, corner_distance, one_line, open_nifti, read_voxels, times
from .check_memory import CheckMemory
from .check_report import CaseReport, CheckReport, Volume
from .dicom_series import inspect_series, is_series
from .hold_out import case_names
from .problem_report import Kind, Problem

MAX_SPACING = 20.0  # mm; beyond it the unit is rather not mm
AIR = -200.0  # HU; every CT of a body shows air or fat below it
MUCH_CLIPPED = 50.0  # % of the voxels above AIR


def check_volumes(
    items: Sequence[Mapping[str, Any]],
    *,
    voxels: bool = False,
    labels: Sequence[int] = (0, 1, 2),
    hu_window: tuple[float, float] = (-1000.0, 1000.0),
    memory: CheckMemory | None = None,
    progress: bool = True,
) -> CheckReport:
    """Check every header, or every voxel, of a data list of CT; problems are collected, none is raised.

    Headers: a file is missing or unreadable; a volume is not 3D or not of plain numbers; spacing ≤ 0 or > 20 mm; no
    orientation; image and label on different grids (shape; corners apart by more than a tenth of a voxel); a case or
    a file that is listed twice. Voxels, besides: truncated or damaged data; NaN or Inf; a constant image; intensities
    that are not like HU, or mostly outside of `hu_window`; label values other than `labels`; an empty label, or none
    but empty ones. Warnings: spacing > 20 mm, orientation, intensities, an empty label among others, a series of
    another modality than CT. A DICOM series is checked as a volume is, and besides for what `open_series` refuses.

    Args:
        items: as from `data_list`: "image" (a path, or a list of paths to its channels), "label" and "case_id" if any.
        voxels: read the voxels too: seconds instead of milliseconds a case.
        labels: the values that a label may hold.
        hu_window: what training clips intensities to, HU.
        memory: what was checked before, by the same settings; its cases are not read again.
        progress: show a bar with the time left on standard error.
    """
    names = case_names(items)
    problems = [] if names else [Problem("", "", "error", "there is nothing to check: the list of cases is empty")]
    problems += _listed_twice(items, names)
    cases = {i: known for i, item in enumerate(items) if memory and (known := memory.recall(names[i], item))}
    unknown = [i for i in range(len(items)) if i not in cases]
    with LoggingOutputSuppressor():  # nibabel prints what it repairs in a header; that is reported here
        for i in tqdm(unknown, desc="check", unit="case", disable=not (progress and unknown)):
            cases[i] = _Case(names[i], tuple(labels), hu_window).check(items[i], voxels)
            if memory:
                memory.keep(cases[i], items[i])
    found = [cases[i] for i in range(len(items))]
    volumes = [case.volume for case in found if case.volume]
    of_cases = [problem for case in found for problem in case.problems]
    if all(problem.kind == "warning" for problem in of_cases):
        problems += _nothing_to_learn(volumes)
    return CheckReport(len(names), problems + of_cases, voxels, volumes)


@dataclass(frozen=True)
class _Header:
    """A NIfTI file's header; `pixdim` as it stands in the file, which nibabel would repair in silence."""

    file: str
    image: nib.Nifti1Image
    affine: NDArray[np.float64]
    pixdim: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.image.shape))

    @property
    def placed(self) -> bool:
        """The affine maps voxels to mm."""
        return bool(np.isfinite(self.affine).all() and np.linalg.det(self.affine[:3, :3]) != 0)

    @property
    def is_volume(self) -> bool:
        return len(self.shape) == 3 and min(self.shape) > 1

    @property
    def is_plain(self) -> bool:
        return self.image.get_data_dtype().kind in "iuf"


class _Case:
    """The check of one case; it collects problems."""

    def __init__(self, name: str, labels: tuple[int, ...], hu_window: tuple[float, float]) -> None:
        self._name, self._labels, self._hu_window = name, labels, hu_window
        self._problems: list[Problem] = []

    def check(self, item: Mapping[str, Any], voxels: bool) -> CaseReport:
        """The problems, and what the first image is like, if that can be read."""
        return CaseReport(self._name, self._problems, self._volume(item, voxels))

    def _volume(self, item: Mapping[str, Any], voxels: bool) -> Volume | None:
        if not _files(item, "image"):
            self._note("", "error", 'the item has no "image"')
        images = [self._header(file) for file in _files(item, "image")]
        masks = [self._header(file) for file in _files(item, "label")]
        first = images[0] if images else None
        for other in [*images[1:], *masks]:
            if first and other:
                self._compare(first, other)
        clipped = [self._image_voxels(image) for image in images if voxels]
        label_ml = [self._label_voxels(mask) for mask in masks if voxels]
        if first is None or not first.placed:
            return None
        spacing = tuple(float(edge) for edge in voxel_sizes(first.affine))
        orientation = "".join(nib.aff2axcodes(first.affine))
        return Volume(
            self._name, first.shape, spacing, orientation, (label_ml or [None])[-1], clipped[0] if clipped else None
        )

    def _note(self, file: str, kind: Kind, message: str) -> None:
        self._problems.append(Problem(self._name, file, kind, message))

    def _header(self, file: str) -> _Header | None:
        path = Path(file)
        if is_series(path):
            return self._series(file)
        if not path.exists():
            self._note(file, "error", "the file is missing")
            return None
        try:
            header = _read_header(file)
        except UNREADABLE as error:
            self._note(file, "error", f"the header cannot be read: {one_line(error)}")
            return None
        for kind, message in _header_problems(header):
            self._note(file, kind, message)
        return header

    def _series(self, folder: str) -> _Header | None:
        image, problems = inspect_series(folder)
        for kind, message in problems:
            self._note(folder, kind, message)
        return None if image is None else _Header(folder, image, image.affine, tuple(image.header.get_zooms()))

    def _compare(self, image: _Header, other: _Header) -> None:
        if image.shape != other.shape:
            self._note(other.file, "error", f"its shape is {times(other.shape)}, its image's {times(image.shape)}")
        elif image.placed and other.placed and image.is_volume:
            apart = corner_distance(image.shape, image.affine, other.affine)
            edge = float(voxel_sizes(image.affine).min())
            if apart > GRID_TOLERANCE * edge:
                self._note(
                    other.file,
                    "error",
                    f"its affine puts a corner {apart:.3g} mm from its image's (voxels: {edge:.3g})",
                )

    def _voxels(self, header: _Header | None) -> NDArray[Any] | None:
        if header is None or not header.is_plain:
            return None
        try:
            return read_voxels(header.image, header.file)
        except UNREADABLE as error:
            self._note(header.file, "error", f"the voxels cannot be read: {one_line(error)}")
            return None

    def _image_voxels(self, header: _Header | None) -> tuple[float, float] | None:
        """% of the voxels below and above the window of HU."""
        found = self._voxels(header)
        if header is None or found is None:
            return None
        for kind, message in _intensity_problems(found, self._hu_window):
            self._note(header.file, kind, message)
        low, high = self._hu_window
        return _percent(found < low), _percent(found > high)

    def _label_voxels(self, header: _Header | None) -> dict[int, float] | None:
        """ml of each class but 0."""
        found = self._voxels(header)
        if header is None or found is None:
            return None
        values, counts = np.unique(found, return_counts=True)
        sizes = dict(zip(values.tolist(), counts.tolist(), strict=True))
        if unknown := [f"{value:g} ({count} voxels)" for value, count in sizes.items() if value not in self._labels]:
            known = ", ".join(map(str, self._labels))
            self._note(
                header.file,
                "error",
                f"unknown label values {first_few(unknown)}; known are {known}. Correct the label, or name them: in a "
                f"config's `regions`, or as --labels of check-data",
            )
        elif not any(sizes.get(label) for label in self._labels if label != 0):
            self._note(header.file, "warning", "the label is empty: background alone")
        if not header.placed:
            return None
        voxel_ml = abs(float(np.linalg.det(header.affine[:3, :3]))) / 1000
        return {label: sizes.get(label, 0) * voxel_ml for label in self._labels if label != 0}


def _read_header(file: str) -> _Header:
    image = open_nifti(file)
    if min(image.shape, default=0) < 1:
        raise HeaderDataError(f"it claims the shape {times(image.shape)}")
    with ImageOpener(file) as stream:
        pixdim = type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4]
    return _Header(file, image, np.asarray(image.affine, dtype=np.float64), tuple(map(float, pixdim)))


def _header_problems(header: _Header) -> Iterator[tuple[Kind, str]]:
    shape, dtype = header.shape, header.image.get_data_dtype()
    if len(shape) != 3:
        yield "error", f"a {len(shape)}D image of {times(shape)}; expected one 3D volume a file"
    elif not header.is_volume:
        yield "error", f"a single slice of {times(shape)}; expected a 3D volume"
    if not header.is_plain:
        what = "colour (RGB)" if dtype.fields else str(dtype)
        yield "error", f"its voxels are {what}; expected one plain number each"
    if not all(edge > 0 for edge in header.pixdim[: len(shape)]):
        yield "error", f"its header gives the spacing {times(header.pixdim)}; expected mm > 0"
    if not header.placed:
        yield "error", "its affine is singular or not finite, so it has no place in space"
        return
    if max(spacing := voxel_sizes(header.affine).tolist()) > MAX_SPACING:
        yield "warning", f"its spacing is {times(spacing)} mm, more than {MAX_SPACING:g}; is it in other units?"
    if header.image.header["sform_code"] == header.image.header["qform_code"] == 0:
        yield "warning", "its header states no orientation (sform and qform code 0), so left and right are a guess"


def _intensity_problems(voxels: NDArray[Any], hu_window: tuple[float, float]) -> Iterator[tuple[Kind, str]]:
    if voxels.dtype.kind == "f" and (bad := voxels.size - int(np.isfinite(voxels).sum())):
        yield "error", f"{bad} of {voxels.size} voxels are NaN or Inf"
        voxels = voxels[np.isfinite(voxels)]
        if not voxels.size:
            return
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        yield "error", f"every voxel is {low:g}"
        return
    body = voxels[voxels > AIR]  # that air is clipped does no harm
    clipped = _percent((body < hu_window[0]) | (body > hu_window[1]))
    lost = f"the window [{hu_window[0]:g}, {hu_window[1]:g}] HU clips {clipped:.3g} % of the voxels above {AIR:g}"
    if low > AIR:
        first, last = np.percentile(voxels, [1, 99])
        guess = "8-bit grey values" if low >= 0 and high <= 255 else "windowed, normalised or shifted"
        yield (
            "warning",
            f"not like HU, where air is −1000: minimum {low:g}, maximum {high:g}, percentiles 1 and 99 {first:g} and "
            f"{last:g} ({guess}?); {lost}",
        )
    elif clipped > MUCH_CLIPPED:
        yield "warning", f"{lost}; is it the right one for these images?"


def _nothing_to_learn(volumes: Sequence[Volume]) -> list[Problem]:
    sizes = [volume.label_ml for volume in volumes if volume.label_ml is not None]
    if not sizes or any(ml for size in sizes for ml in size.values()):
        return []
    return [Problem("", "", "error", "every label is empty, so there is nothing to learn")]


def _listed_twice(items: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Problem]:
    problems = [
        Problem(name, "", "error", f"the case is listed {count} times")
        for name, count in Counter(names).items()
        if count > 1
    ]
    uses: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for name, item in zip(names, items, strict=True):
        for key in ("image", "label"):
            for file in _files(item, key):
                uses[Path(file).resolve()].append((key, name))
    for path, used in uses.items():
        if len(used) > 1:
            where = first_few([f"{key} of {name}" for key, name in used])
            problems.append(
                Problem(used[1][1], str(path), "error", f"the same file is used {len(used)} times: {where}")
            )
    return problems


def _files(item: Mapping[str, Any], key: str) -> list[str]:
    files = item.get(key) or []
    return [str(file) for file in files] if isinstance(files, (list, tuple)) else [str(files)]


def _percent(which: NDArray[np.bool_]) -> float:
    return 100 * float(which.mean()) if which.size else 0.0
