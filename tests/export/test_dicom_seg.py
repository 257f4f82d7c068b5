"""DICOM series in, DICOM SEG out: written, read back by its own library, and compared voxel by voxel in space."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_writer import UID, write_series

from metalr_monai.data.dicom_series import open_series
from metalr_monai.errors import DataError, OptionError
from metalr_monai.export.dicom_seg import write_dicom_seg

highdicom = pytest.importorskip("highdicom")

SHAPE = (20, 24, 10)
TAGS = {"0020|0052": f"{UID}.9", "0010|0010": "Doe^Jane", "0010|0020": "7"}
REGIONS = ["liver", "tumour"]


def oblique() -> np.ndarray:
    """RAS, mm: turned about two axes, so that no two axes can be taken for each other."""
    a, b = 0.2, 0.3
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_y @ np.diag([-0.8, -0.7, 3.0])
    affine[:3, 3] = [10, 20, -5]
    return affine


def label_map() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 5:20, 2:7] = 1
    label[4:6, 6:9, 3:5] = 2
    return label


@pytest.fixture
def series(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_series(tmp_path / "series", voxels, oblique(), tags=TAGS)
    return tmp_path / "series"


def read_back(path: Path, reference: Path) -> np.ndarray:
    """The segments in the series' voxels, by their places in space: (x, y, z), the number of the segment."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    to_series = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ open_series(reference).affine) @ volume.affine
    found = np.zeros(SHAPE, np.uint8)
    indices = np.argwhere(volume.array)
    places = nib.affines.apply_affine(to_series, indices)
    np.testing.assert_allclose(places, places.round(), atol=1e-3)
    found[tuple(places.round().astype(int).T)] = volume.array[tuple(indices.T)]
    return found


def test_a_label_map_is_read_back_voxel_by_voxel(series, tmp_path):
    file = write_dicom_seg(label_map(), series, tmp_path / "out/a.dcm", REGIONS, algorithm="test")
    np.testing.assert_array_equal(read_back(file, series), label_map())


def test_it_belongs_to_the_patient_study_and_slices_of_its_series(series, tmp_path):
    file = write_dicom_seg(label_map(), series, tmp_path / "a.dcm", REGIONS, algorithm="test")
    found, slices = pydicom.dcmread(file), [pydicom.dcmread(path) for path in series.iterdir()]
    assert (found.PatientName, found.PatientID, found.Modality) == ("Doe^Jane", "7", "SEG")
    assert found.StudyInstanceUID == slices[0].StudyInstanceUID
    assert found.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert found.SeriesInstanceUID != slices[0].SeriesInstanceUID
    referred = {item.ReferencedSOPInstanceUID for item in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {one.SOPInstanceUID for one in slices}
    segments = [(one.SegmentLabel, one.SegmentedPropertyTypeCodeSequence[0].CodeValue) for one in found.SegmentSequence]
    assert segments == [("liver", "10200004"), ("tumour", "108369006")]


def test_an_empty_mask_and_a_region_without_a_code_are_written_too(series, tmp_path):
    file = write_dicom_seg(np.zeros(SHAPE, np.uint8), series, tmp_path / "a.dcm", ["spleen"], algorithm="test")
    assert not read_back(file, series).any()
    assert pydicom.dcmread(file).SegmentSequence[0].SegmentLabel == "spleen"


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (np.zeros((24, 20, 10), np.uint8), "expected one"),
        (np.full(SHAPE, 3, np.uint8), r"values \[3\]; expected 0 … 2"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(series, tmp_path, label, reason):
    with pytest.raises(DataError, match=reason):
        write_dicom_seg(label, series, tmp_path / "a.dcm", REGIONS, algorithm="test")
    assert not (tmp_path / "a.dcm").exists()


def test_a_series_without_a_frame_of_reference_is_named(tmp_path):
    write_series(tmp_path / "series", np.zeros(SHAPE, np.int16), oblique())
    with pytest.raises(DataError, match=r"series lacks what a DICOM SEG must name.*Frame Of Reference"):
        write_dicom_seg(label_map(), tmp_path / "series", tmp_path / "a.dcm", REGIONS, algorithm="test")


def test_without_the_extra_it_is_asked_for(series, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(OptionError, match=r"metalr_monai\[dicom\]"):
        write_dicom_seg(label_map(), series, tmp_path / "a.dcm", REGIONS, algorithm="test")
