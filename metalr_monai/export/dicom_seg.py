"""Label maps of DICOM series as DICOM Segmentation objects, which PACS and viewers show over the series."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey
from numpy.typing import NDArray

from ..data.dicom_series import Series, find_series, is_series
from ..data.scans import Scans
from ..errors import DataError, OptionError
from ..files import atomic_path

logger = logging.getLogger(__name__)

ENDING = "_seg.dcm"
# SNOMED CT: category and type of what a region is, by its name; others get a code of our own
CODES: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "liver": (("123037004", "Anatomical Structure"), ("10200004", "Liver")),
    "tumour": (("49755003", "Morphologically Altered Structure"), ("108369006", "Neoplasm")),
}
OTHER = ("85756007", "Tissue")


def write_dicom_seg(
    label: NDArray[np.integer[Any]],
    series: str | Path,
    path: str | Path,
    regions: Sequence[str],
    *,
    algorithm: str,
) -> Path:
    """Write a label map as a DICOM SEG that refers to the slices it was made from.

    Args:
        label: (x, y, z) on the series' own grid, as `open_series` reads it: i + 1 for the i-th region, 0 for none.
        series: folder of the series, or `FOLDER/UID`.
        path: of the file.
        regions: their names, the segments' labels; one segment each, also where it is empty.
        algorithm: who made it, for the segments' descriptions.

    Raises:
        DataError: the label map is not on the series' grid, or has a value of no region.
        OptionError: the extra `dicom` is not installed.
    """
    highdicom, dcmread = _dicom()
    found, path = find_series(series), Path(path)
    if label.shape != found.shape:
        raise DataError(f"The label map has the shape {label.shape}, the series {series} {found.shape}; expected one.")
    if unknown := sorted(set(np.unique(label).tolist()) - set(range(len(regions) + 1))):
        raise DataError(f"The label map has the values {unknown}; expected 0 … {len(regions)}: {', '.join(regions)}.")
    masks = np.stack([label == number for number in range(1, len(regions) + 1)], axis=-1)
    try:
        content = _segmentation(highdicom, _headers(dcmread, found), masks, regions, algorithm)
    except (AttributeError, KeyError, ValueError) as error:
        raise DataError(f"The series {series} lacks what a DICOM SEG must name: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        content.save_as(temporary)
    return path


class SaveDicomSegd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Write the label map of an item whose image is a DICOM series as `NAME_seg.dcm`; see `write_dicom_seg`.

    An image that is no series has no patient, study or slices to refer to: it is passed over, and the log says so.

    Args:
        keys: of the label maps, (1, x, y, z) on the image's own grid.
        scans: what the series are called.
        output_dir: folder of the files.
        regions: their names, in the order of the values 1, 2, ….
        algorithm: see `write_dicom_seg`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scans: Scans,
        output_dir: str | Path,
        regions: Sequence[str] | Mapping[str, Any],
        algorithm: str,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _dicom()  # before any inference
        self._scans, self._folder = scans, Path(output_dir)
        self._regions, self._algorithm = list(regions), algorithm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write; the item stays as it is."""
        for key in self.key_iterator(data):
            label: MetaTensor = data[key]
            source = str(label.meta[ImageMetaKey.FILENAME_OR_OBJ])
            if not is_series(source):
                logger.warning("%s is no DICOM series, so there is no DICOM SEG of it.", Path(source).name)
                continue
            case = {str(item["image"]): item["case_id"] for item in self._scans.items}[source]
            values = label.as_tensor()[0].cpu().numpy()
            write_dicom_seg(values, source, self._folder / f"{case}{ENDING}", self._regions, algorithm=self._algorithm)
        return dict(data)


def _dicom() -> tuple[Any, Any]:
    try:
        import highdicom
        import pydicom
    except ImportError as error:
        raise OptionError(f"DICOM SEG needs the extra dicom ({error}): pip install 'metalr_monai[dicom]'.") from error
    return highdicom, pydicom.dcmread


def _headers(dcmread: Any, series: Series) -> list[Any]:  # noqa: ANN401
    """Of the slices, in order; a thickness, which CT may leave empty, is the distance between them."""
    headers = [dcmread(one.file) for one in series.slices]
    for header in headers:
        if header.get("SliceThickness") is None:
            header.SliceThickness = round(float(np.linalg.norm(series.affine[:3, 2])), 4)
    return headers


def _segmentation(
    highdicom: Any,  # noqa: ANN401 - an extra
    slices: Sequence[Any],
    masks: NDArray[np.bool_],
    regions: Sequence[str],
    algorithm: str,
) -> Any:  # noqa: ANN401
    """The object, of masks (x, y, z, regions)."""
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=masks.transpose(2, 1, 0, 3).astype(np.uint8),  # (slices, rows, columns, segments)
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(highdicom, i + 1, name, algorithm) for i, name in enumerate(regions)],
        series_instance_uid=highdicom.UID(),
        series_number=900,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="metalr_monai",
        manufacturer_model_name=algorithm,
        software_versions=version("metalr_monai"),
        device_serial_number="none",
        omit_empty_frames=bool(masks.any()),
    )


def _segment(highdicom: Any, number: int, name: str, algorithm: str) -> Any:  # noqa: ANN401 - an extra
    def code(value: str, meaning: str, scheme: str = "SCT") -> Any:  # noqa: ANN401
        return highdicom.sr.CodedConcept(value, scheme, meaning)

    category, kind = CODES.get(name, (OTHER, None))
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=code(*category),
        segmented_property_type=code(*kind) if kind else code(name[:16], name, "99METALR"),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm, version=version("metalr_monai"), family=code("123109", "Artificial Intelligence", "DCM")
        ),
    )
