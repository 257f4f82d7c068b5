"""The liver CT bundle writes label maps on the scans' own grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from liver_ct_bundle import GRID, WARNINGS, run, workflow

from metalr_monai.data.ct_phantom import phantom

pytestmark = WARNINGS


def oblique(axes_mm: tuple[float, float, float]) -> np.ndarray:
    """An affine turned about all axes; its first axis runs the other way."""
    a, b = 0.2, 0.15
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-axes_mm[0], axes_mm[1], axes_mm[2]])
    affine[:3, 3] = (91.25, -120.5, 33.75)
    return affine.astype(np.float32)  # as NIfTI keeps it


def test_inference_keeps_shape_and_affine_and_orientation(balanced: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    image, affine = phantom((44, 36, 20), seed=3).image, oblique((6.0, 7.0, 9.0))
    mirrored = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 19], [0, 0, 0, 1]])  # the same patient
    for name, voxels, where in (("a", image, affine), ("b", image[:, :, ::-1], mirrored)):
        (scans / name).mkdir(parents=True)  # one folder a case: equal file names must not meet in the output
        nib.save(nib.Nifti1Image(voxels, where), scans / name / "image.nii.gz")
    run(
        "inference.json",
        root=tmp_path,
        dataset_dir=str(scans),
        output_dir=str(out),
        ckpt_path=str(balanced),
        probabilities=True,
        **GRID,
    )
    for name in ("a", "b"):
        source, label = nib.load(scans / name / "image.nii.gz"), nib.load(out / name / "image_label.nii.gz")
        assert label.shape == source.shape
        assert np.array_equal(label.affine, source.affine)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1}
    first, second = (nib.load(out / name / "image_probability.nii.gz").get_fdata() for name in ("a", "b"))
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_allclose(first, second[:, :, ::-1], atol=1e-4)


def test_largest_component_leaves_one(balanced: Path, data: Path, tmp_path: Path) -> None:
    measure = pytest.importorskip("skimage.measure", reason="MONAI's largest component needs scikit-image")
    scans, counts = tmp_path / "scans", {}
    scans.mkdir()
    (scans / "volume-0.nii.gz").symlink_to(data / "volume-0.nii.gz")
    for largest in (False, True):
        out = tmp_path / str(largest)
        run(
            "inference.json",
            root=tmp_path,
            dataset_dir=str(scans),
            output_dir=str(out),
            ckpt_path=str(balanced),
            largest_component=largest,
            **GRID,
        )
        counts[largest] = measure.label(np.asarray(nib.load(out / "volume-0_label.nii.gz").dataobj)).max()
    assert counts[True] == 1 < counts[False]


def test_inference_takes_items_with_an_image_path(data: Path) -> None:
    """MONAI Label adds the key, which Spacingd would take for the image's meta data."""
    config = workflow("inference.json", kind="inference", **GRID)
    path = str(data / "volume-0.nii.gz")
    item = config.parser.get_parsed_content("preprocessing")({"image": path, "image_path": path})
    assert item["path_image"] == path
    assert "image_path" not in item
