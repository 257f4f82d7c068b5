"""The fingerprint of a CT data set: what a plan is derived from, read from every voxel once."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..data.check_report import CheckReport, Volume
from ..data.check_volumes import check_volumes
from ..data.dicom_series import is_series, open_series
from ..data.problem_report import Problem
from ..errors import DataError, OptionError, first_few
from ..in_threads import in_threads
from ..nifti import UNREADABLE, one_line
from .file_marks import labelled_files

Triple = tuple[float, float, float]
Voxels = NDArray[Any]

DISTINCT = 2**16  # intensities of a case that are kept as they are
KNOTS = 10_001  # that stand for more
WIDEST = 2**20  # how far whole numbers may lie apart to be counted without sorting
PART = 2**22  # voxels counted at once
PERCENTILES = {"percentile_00_5": 0.005, "median": 0.5, "percentile_99_5": 0.995}
INTENSITIES = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")


@dataclass(frozen=True)
class CaseFacts:
    """One case: axes in the order of the file, (x, y, z) as nibabel gives them."""

    case: str
    shape: tuple[int, int, int]  # voxels
    spacing: Triple  # mm
    axcodes: str  # where the axes point to: "RAS", "LPS", …
    cropped_shape: tuple[int, int, int]  # voxels of the bounding box of what is not 0
    voxels: dict[int, int]  # label value → voxels, without 0
    clipped: float | None  # % of the foreground's voxels outside of the window; None without a window or foreground


@dataclass(frozen=True)
class Fingerprint:
    """A data set. Properties are in the patient's axes: x to the right, y to the front, z up."""

    cases: tuple[CaseFacts, ...]
    intensities: dict[str, float]  # HU: max, mean, median, min, percentile_00_5, percentile_99_5, std
    hu_window: tuple[float, float] | None

    @property
    def spacings(self) -> NDArray[np.float64]:
        """Of every case, mm (cases, 3)."""
        return np.array([_in_ras(case.axcodes, case.spacing) for case in self.cases], dtype=np.float64)

    @property
    def cropped_shapes(self) -> NDArray[np.int64]:
        """Of every case, voxels (cases, 3)."""
        return np.array([_in_ras(case.axcodes, case.cropped_shape) for case in self.cases], dtype=np.int64)

    @property
    def median_spacing(self) -> Triple:
        """mm."""
        return _triple(np.median(self.spacings, axis=0))

    @property
    def median_shape(self) -> Triple:
        """Of the cropped volumes, voxels."""
        return _triple(np.median(self.cropped_shapes, axis=0))

    @property
    def coarse_axis(self) -> int:
        """The axis of the largest median spacing: 0, 1 or 2 for x, y or z."""
        return int(np.argmax(self.median_spacing))

    @property
    def anisotropy(self) -> float:
        """The largest median spacing over the smallest; nnU-Net treats more than 3 apart."""
        return max(self.median_spacing) / min(self.median_spacing)

    @property
    def class_voxels(self) -> dict[int, int]:
        """Voxels of each label value but 0, over all cases."""
        return {label: sum(case.voxels[label] for case in self.cases) for label in self.cases[0].voxels}

    @property
    def class_cases(self) -> dict[int, int]:
        """Cases in which each label value but 0 is found."""
        return {label: sum(case.voxels[label] > 0 for case in self.cases) for label in self.cases[0].voxels}

    @property
    def class_shares(self) -> dict[int, float]:
        """% of all voxels that are of each label value but 0."""
        total = sum(math.prod(case.shape) for case in self.cases)
        return {label: 100 * voxels / total for label, voxels in self.class_voxels.items()}

    @property
    def foreground_share(self) -> float:
        """% of all voxels that are of any label value but 0."""
        return sum(self.class_shares.values())

    @property
    def clipped(self) -> float | None:
        """% of all foreground voxels outside of `hu_window`; None without a window."""
        known = [(case.clipped, sum(case.voxels.values())) for case in self.cases if case.clipped is not None]
        return sum(share * size for share, size in known) / sum(size for _, size in known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        cases = [asdict(case) | {"voxels": {str(k): size for k, size in case.voxels.items()}} for case in self.cases]
        return {"cases": cases, "intensities": self.intensities, "hu_window": self.hu_window}


def read_fingerprint(
    items: Sequence[Mapping[str, Any]],
    *,
    labels: Sequence[int],
    hu_window: tuple[float, float] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Fingerprint:
    """The fingerprint of a data list of CT: what nnU-Net 2's `DatasetFingerprintExtractor` finds, and more.

    Volumes are cropped to the bounding box of what is not 0. (nnU-Net fills the holes of that first, which changes no
    bounding box.) Intensities are those where label > 0. nnU-Net draws the same number of them from each case, 10⁸ in
    all, so that a case counts as much as another whatever its organs' size; here the distributions of all cases are
    averaged, exactly that without drawing. Mean, sd, minimum and maximum are exact, percentiles too unless a case has
    more than 65,536 different intensities; then they are within 0.01 % in rank. Memory: one case a thread, whose voxels
    are there twice while they are unzipped.

    Args:
        items: as from `data_list`, all with a label; DICOM series too.
        labels: the values that a label may hold; 0 is background.
        hu_window: HU, to find how much of the foreground it clips.
        workers: threads, ≥ 1; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Raises:
        DataError: a case has no label, several channels, a value that is not in `labels`, or cannot be read; the
            message names all such cases, once the others were looked at. Or no case has any foreground.
        OptionError: a value outside its range.
    """
    known = _foreground_labels(labels)
    _refuse_window(hu_window)
    files = labelled_files(items)
    headers = check_volumes(items, progress=False)
    volumes = {volume.case_id: volume for volume in headers.volumes}
    bad = {problem.case_id for problem in headers.problems if problem.kind == "error"}
    # What is wrong with a header is told with what is wrong with others' voxels
    reading = [_Reading(volumes[case], paths, known, hu_window) for case, paths in files.items() if case not in bad]
    found = in_threads(_read, reading, what="fingerprint", workers=workers, progress=progress)
    faults = [problem for problem in headers.problems if problem.kind == "error"]
    faults += [one for one in found if isinstance(one, Problem)]
    _refuse_faults(faults, list(files))
    cases = [one for one in found if isinstance(one, _Case)]
    return Fingerprint(tuple(case.facts for case in cases), _intensities(cases), hu_window)


def nnunet_fingerprint(fingerprint: Fingerprint) -> dict[str, Any]:
    """As in nnU-Net's `dataset_fingerprint.json`: cases in their order, axes z, y, x of the file."""
    relative = [math.prod(case.cropped_shape) / math.prod(case.shape) for case in fingerprint.cases]
    return {
        "foreground_intensity_properties_per_channel": {"0": dict(fingerprint.intensities)},
        "median_relative_size_after_cropping": float(np.median(relative)),
        "shapes_after_crop": [list(case.cropped_shape[::-1]) for case in fingerprint.cases],
        "spacings": [list(case.spacing[::-1]) for case in fingerprint.cases],
    }


@dataclass(frozen=True)
class _Reading:
    """What is to be read of one case, and what its header says."""

    volume: Volume
    files: Mapping[str, Path]
    labels: tuple[int, ...]
    hu_window: tuple[float, float] | None


@dataclass(frozen=True)
class _Intensities:
    """The distribution of one case's foreground: values in ascending order, and the share of each."""

    values: NDArray[np.float64]
    shares: NDArray[np.float64]
    mean: float
    variance: float


@dataclass(frozen=True)
class _Case:
    facts: CaseFacts
    foreground: _Intensities | None  # None where the label is empty


class _Fault(Exception):
    """Why a file cannot be used."""

    def __init__(self, file: Path, message: str) -> None:
        super().__init__(message)
        self.file = file


def _read(reading: _Reading) -> _Case | Problem:
    """One case, or why it cannot be used."""
    image_file, label_file = reading.files["image"], reading.files["label"]
    try:
        image = _voxels(image_file)
        box = _nonzero_box(image)
        if box is None:
            raise _Fault(image_file, "every voxel is 0")
        label = _voxels(label_file)
        voxels, unknown = _counted(label, reading.labels)
        if unknown:
            known = ", ".join(map(str, reading.labels))
            raise _Fault(label_file, f"unknown label values {first_few(unknown)}; expected 0, {known}")
        foreground = image[box][label[box] != 0]
        if foreground.dtype.kind == "f" and not np.isfinite(foreground).all():
            raise _Fault(image_file, "its foreground has voxels that are NaN or Inf")
    except _Fault as fault:
        return Problem(reading.volume.case_id, str(fault.file), "error", str(fault))
    cropped = [side.stop - side.start for side in reversed(box)]
    return _Case(_facts(reading, cropped, voxels, foreground), _distribution(foreground) if foreground.size else None)


def _voxels(path: Path) -> Voxels:
    """(z, y, x), the reverse of nibabel's, so that they lie in memory in the order of their indices."""
    try:
        found: Voxels = _image_voxels(path).transpose()
    except (*UNREADABLE, DataError) as error:
        raise _Fault(path, f"the voxels cannot be read: {one_line(error)}") from error
    return found


def _image_voxels(path: Path) -> Voxels:
    if is_series(path):
        return np.asarray(open_series(path).dataobj)
    image = nib.load(path)
    if path.name.endswith(".gz"):
        # In one go, for that leaves other threads free and compares the checksum
        image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
    proxy = image.dataobj
    plain = proxy.slope == 1 and proxy.inter == 0
    return np.asarray(proxy) if plain else np.asarray(proxy, dtype=np.float32)  # half of nibabel's float64


def _nonzero_box(image: Voxels) -> tuple[slice, ...] | None:
    """Of what is not 0; looked for from either end, since most scans have no such margin."""
    box: list[slice] = []
    for axis, size in enumerate(image.shape):
        planes = np.moveaxis(image, axis, 0)
        first = next((k for k in range(size) if planes[k].any()), None)
        if first is None:
            return None
        last = next(k for k in reversed(range(size)) if planes[k].any())
        box.append(slice(first, last + 1))
    return tuple(box)


def _counted(label: Voxels, labels: Sequence[int]) -> tuple[dict[int, int], list[str]]:
    """Voxels of each of the label values; and other values, in words."""
    foreground = label[label != 0]
    sizes = {value: int(np.count_nonzero(foreground == value)) for value in labels}
    if sum(sizes.values()) == foreground.size:
        return sizes, []
    values, counts = np.unique(foreground, return_counts=True)
    there = zip(values.tolist(), counts.tolist(), strict=True)
    return sizes, [f"{value:g} ({count} voxels)" for value, count in there if value not in sizes]


def _facts(reading: _Reading, cropped: Sequence[int], voxels: dict[int, int], foreground: Voxels) -> CaseFacts:
    clipped = None
    if reading.hu_window is not None and foreground.size:
        low, high = reading.hu_window
        clipped = 100 * float(np.count_nonzero((foreground < low) | (foreground > high))) / foreground.size
    volume = reading.volume
    shape, spacing = _ints(volume.shape), _triple(volume.spacing)
    return CaseFacts(volume.case_id, shape, spacing, volume.orientation, _ints(cropped), voxels, clipped)


def _distribution(voxels: Voxels) -> _Intensities:
    values, counts = _value_counts(voxels)
    shares = counts / voxels.size
    mean = float(values @ shares)
    variance = float((values - mean) ** 2 @ shares)
    if len(values) > DISTINCT:  # values at even steps of the rank stand for all
        ranks = np.linspace(0, voxels.size, KNOTS)
        values, shares = values[np.searchsorted(np.cumsum(counts), ranks)], np.full(KNOTS, 1 / KNOTS)
    return _Intensities(values, shares, mean, variance)


def _value_counts(voxels: Voxels) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Different values in ascending order, and how often each is there; whole numbers need no sorting for that."""
    low, high = float(voxels.min()), float(voxels.max())
    if high - low >= WIDEST or (voxels.dtype.kind == "f" and bool((voxels != np.rint(voxels)).any())):
        values, counts = np.unique(voxels, return_counts=True)
        return values.astype(np.float64), counts
    sizes = np.zeros(int(high - low) + 1, dtype=np.int64)
    for part in np.array_split(voxels, 1 + voxels.size // PART):
        sizes += np.bincount(part.astype(np.int64) - int(low), minlength=len(sizes))
    there = np.flatnonzero(sizes)
    return low + there.astype(np.float64), sizes[there]


def _intensities(cases: Sequence[_Case]) -> dict[str, float]:
    """Of the average of all cases' distributions; nnU-Net's names."""
    parts = [case.foreground for case in cases if case.foreground is not None]
    if not parts:
        raise DataError("Every label is empty, so there is nothing to learn. Are these the right labels?")
    mean = float(np.mean([part.mean for part in parts]))
    variance = float(np.mean([part.variance + (part.mean - mean) ** 2 for part in parts]))
    values, places = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
    reached = np.cumsum(np.bincount(places.ravel(), np.concatenate([part.shares for part in parts]) / len(parts)))
    found = {key: float(values[np.searchsorted(reached, share * reached[-1])]) for key, share in PERCENTILES.items()}
    found |= {"mean": mean, "std": math.sqrt(variance), "min": float(values[0]), "max": float(values[-1])}
    return {key: found[key] for key in INTENSITIES}


def _foreground_labels(labels: Sequence[int]) -> tuple[int, ...]:
    if odd := [value for value in labels if isinstance(value, bool) or not isinstance(value, int) or value < 0]:
        raise OptionError(f"labels has {odd[0]!r}; expected whole numbers of 0 or more.")
    known = tuple(sorted({*labels} - {0}))
    if not known:
        raise OptionError(f"labels is {list(labels)}; expected at least one value beside 0, the background.")
    return known


def _refuse_window(window: tuple[float, float] | None) -> None:
    if window is None:
        return
    if not isinstance(window, (tuple, list)) or len(window) != 2 or not window[0] < window[1]:
        raise OptionError(f"hu_window is {window!r}; expected (low, high) in HU with low < high.")


def _refuse_faults(faults: Sequence[Problem], cases: Sequence[str]) -> None:
    """One error for all cases that are of no use."""
    if not faults:
        return
    bad = {fault.case_id for fault in faults}
    lines = CheckReport(len(cases), list(faults), True, []).told("error")
    raise DataError(
        f"{len(bad)} of {len(cases)} cases cannot be planned with: {', '.join(case for case in cases if case in bad)}. "
        f"Correct them, or leave them out.\n" + "\n".join(f"  {line}" for line in lines)
    )


def _in_ras(axcodes: str, values: Sequence[float]) -> list[float]:
    """Values by axis of the file, in the order of the patient's axes."""
    return [values[next(i for i, code in enumerate(axcodes) if code in axis)] for axis in ("RL", "AP", "SI")]


def _ints(values: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = map(int, values)
    return x, y, z


def _triple(values: Sequence[float] | NDArray[Any]) -> Triple:
    x, y, z = map(float, values)
    return x, y, z
