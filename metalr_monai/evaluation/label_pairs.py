"""Pairs of label files, a prediction and its reference: found by case, read one by one, refused where they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, cpu_count
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from ..errors import DataError, OptionError, first_few
from ..in_threads import in_threads
from ..nifti import GRID_TOLERANCE, UNREADABLE, corner_distance, one_line, open_nifti, read_voxels, times

ENDINGS = (".nii.gz", ".nii")
HIGHEST_LABEL = 2**16 - 1
WORKERS = min(4, cpu_count() or 1)  # each holds one case's two volumes

Files = Mapping[str, str | PathLike[str]] | str | PathLike[str]
Labels = NDArray[np.unsignedinteger[Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class LabelPair:
    """One case's two files."""

    case: str
    prediction: Path
    reference: Path

    def read(self, values: Sequence[int]) -> tuple[Labels, Labels]:
        """Both label maps, (H, W, D), uint8, or uint16 where a label is above 255.

        Args:
            values: the labels that they may hold, besides 0.

        Raises:
            DataError: a file is missing, damaged or no 3D volume, or holds other values; their grids differ.
        """
        predicted, wanted = _open(self.prediction, "prediction"), _open(self.reference, "reference")
        _refuse_grids(predicted, wanted)
        return (
            _labels(predicted, self.prediction, "prediction", values),
            _labels(wanted, self.reference, "reference", values),
        )


def label_files(files: Files) -> dict[str, Path]:
    """Case → its file: of a mapping, or of a folder with `<case>.nii.gz` or `<case>.nii`, in the order of file names.

    Raises:
        DataError: there is no such folder, or it has a case twice.
    """
    if isinstance(files, Mapping):
        return {str(case): Path(path).expanduser() for case, path in files.items()}
    folder = Path(files).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder; expected one with a file <case>.nii.gz a case.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(ENDINGS) and not path.name.startswith("."):
            case = case_name(path)
            if case in found:
                raise DataError(f"{folder}: case {case} is there twice, as {found[case].name} and {path.name}.")
            found[case] = path
    return found


def case_name(path: str | PathLike[str]) -> str:
    """A label file's name without its ending."""
    name = Path(path).name
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name


def label_pairs(predictions: Files, references: Files) -> tuple[list[LabelPair], dict[str, str]]:
    """The pairs, in the order of the predictions' file names, and case → reason of what has no partner."""
    predicted, wanted = label_files(predictions), label_files(references)
    failed = {case: f"there is no prediction of it; its reference is {wanted[case]}" for case in wanted}
    pairs = []
    for case, path in sorted(predicted.items(), key=lambda item: item[1].name):
        if case in wanted:
            pairs.append(LabelPair(case, path, wanted[case]))
            del failed[case]
        else:
            failed[case] = f"there is no reference for its prediction {path}"
    return pairs, failed


def of_each_pair(
    function: Callable[[LabelPair], T],
    pairs: Sequence[LabelPair],
    *,
    desc: str,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[list[T], dict[str, str]]:
    """Call `function` in threads, each with one case at a time, under a bar with the time left on standard error.

    Returns:
        What it gave, in the order of the pairs, and case → reason of those where it raised a `DataError`.

    Raises:
        OptionError: fewer than one worker.
    """
    if workers is not None and workers < 1:
        raise OptionError(f"workers is {workers!r}; expected a number of threads from 1 on.")

    def attempt(pair: LabelPair) -> tuple[T | None, DataError | None]:
        try:
            return function(pair), None
        except DataError as error:
            return None, error

    outcomes = in_threads(attempt, pairs, what=desc, workers=workers or WORKERS, progress=progress)
    found = [result for result, _ in outcomes if result is not None]
    failed = {pair.case: str(error) for pair, (_, error) in zip(pairs, outcomes, strict=True) if error is not None}
    return found, failed


def refuse_all_failed(failed: Mapping[str, str], what: str) -> None:
    """Raise the `DataError` for that there is not one usable case."""
    told = first_few([f"{case}: {reason}" for case, reason in failed.items()]) or "there are no files"
    raise DataError(f"No case could be {what}: {told}.")


def label_values(classes: Mapping[str, Sequence[int]]) -> list[int]:
    """All label values of the classes, ascending, without 0.

    Raises:
        OptionError: one is above 65535.
    """
    values = sorted({value for several in classes.values() for value in several})
    if values[-1] > HIGHEST_LABEL:
        raise OptionError(f"classes name the label {values[-1]}; expected labels up to {HIGHEST_LABEL}.")
    return values


def _open(path: Path, what: str) -> nib.Nifti1Image:
    if not path.is_file():
        raise DataError(f"the {what} {path} is missing")
    try:
        image = open_nifti(path)
    except UNREADABLE as error:
        raise DataError(f"the {what} {path} cannot be read: {one_line(error)}") from error
    if len(image.shape) != 3 or min(image.shape) < 1 or image.get_data_dtype().kind not in "iuf":
        raise DataError(
            f"the {what} {path} has the shape {times(image.shape)} of {image.get_data_dtype()}; expected one 3D "
            f"volume of plain numbers"
        )
    return image


def _refuse_grids(predicted: nib.Nifti1Image, wanted: nib.Nifti1Image) -> None:
    if predicted.shape != wanted.shape:
        raise DataError(
            f"the prediction's shape is {times(predicted.shape)}, the reference's {times(wanted.shape)}; expected "
            f"the same grid"
        )
    apart = corner_distance(wanted.shape, predicted.affine, wanted.affine)
    edge = float(voxel_sizes(wanted.affine).min())
    if not apart <= GRID_TOLERANCE * edge:  # NaN, too
        raise DataError(
            f"the prediction's affine puts a corner {apart:.3g} mm from the reference's (voxels: {edge:.3g}); expected "
            f"the same grid"
        )


def _labels(image: nib.Nifti1Image, path: Path, what: str, values: Sequence[int]) -> Labels:
    dtype: type[np.unsignedinteger[Any]] = np.uint8 if max(values) < 2**8 else np.uint16
    known = np.zeros(np.iinfo(dtype).max + 1, dtype=bool)
    known[[0, *values]] = True
    try:
        voxels = read_voxels(image, path)
    except UNREADABLE as error:
        raise DataError(f"the voxels of the {what} {path} cannot be read: {one_line(error)}") from error
    with np.errstate(invalid="ignore"):  # NaN and what does not fit differ from their cast
        labels = voxels.astype(dtype, copy=False)
    odd = ~known[labels]
    if labels is not voxels:
        odd |= labels != voxels
    if odd.any():
        found = [f"{value:g}" for value in np.unique(voxels[odd]).tolist()]
        raise DataError(
            f"the {what} {path} holds the label {first_few(found)}, which belongs to no class; expected 0 and "
            f"{', '.join(map(str, values))}"
        )
    return labels
