"""The fingerprint, folds, regions and data sets of `planning` against those of nnU-Net itself."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from metalr_monai import data_list
from metalr_monai.planning.fingerprint import nnunet_fingerprint, read_fingerprint
from metalr_monai.planning.nnunet_files import (
    make_folds,
    nnunet_regions,
    read_nnunet_fingerprint,
    read_nnunet_plans,
    write_nnunet_raw,
)

DATASET = "Dataset001_Phantom"
LABELS = {"background": 0, "liver": 1, "tumour": 2}


@pytest.fixture(scope="session")
def theirs(nnunet):
    """The folder of what nnU-Net planned."""
    return nnunet / "nnUNet_preprocessed" / DATASET


@pytest.fixture(scope="session")
def ours(nnunet):
    return read_fingerprint(data_list("nnunet", nnunet / "nnUNet_raw" / DATASET), labels=(0, 1, 2), progress=False)


def test_the_fingerprint_is_nnunets(theirs, ours):
    expected = json.loads((theirs / "dataset_fingerprint.json").read_text())
    found = nnunet_fingerprint(ours)
    assert list(found) == list(expected)
    assert found["shapes_after_crop"] == expected["shapes_after_crop"]
    assert found["median_relative_size_after_cropping"] == expected["median_relative_size_after_cropping"]
    np.testing.assert_allclose(found["spacings"], expected["spacings"], rtol=1e-6)
    # nnU-Net draws 10⁸ intensities
    intensities = expected["foreground_intensity_properties_per_channel"]["0"]
    assert found["foreground_intensity_properties_per_channel"]["0"] == pytest.approx(intensities, rel=1e-3)


def test_a_case_that_is_cropped_has_nnunets_fingerprint(tmp_path):
    """One with margins, holes and an organ in the margins, by nnU-Net's function for a case."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    rng = np.random.default_rng(0)
    image = np.zeros((30, 26, 22), np.int16)
    image[3:-1, 2:-5, 4:] = rng.integers(-1000, 1000, (26, 19, 18)) * (rng.random((26, 19, 18)) < 0.8)
    label = rng.choice([0, 1, 2], size=image.shape, p=[0.5, 0.3, 0.2]).astype(np.uint8)
    for name, array in (("image", image), ("label", label)):
        (tmp_path / "a").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([0.5, 0.75, 3, 1])), tmp_path / "a" / f"{name}.nii.gz")
    files = [str(tmp_path / "a" / f"{name}.nii.gz") for name in ("image", "label")]
    shape, spacing, _, statistics, relative = DatasetFingerprintExtractor.analyze_case(
        files[:1], files[1], SimpleITKIO, num_samples=10
    )
    fingerprint = read_fingerprint(data_list("pairs", tmp_path), labels=(0, 1, 2), progress=False)
    found = nnunet_fingerprint(fingerprint)
    assert (found["shapes_after_crop"], found["spacings"]) == ([list(shape)], [list(spacing)])
    assert found["median_relative_size_after_cropping"] == relative
    for key in ("mean", "min", "max"):
        assert fingerprint.intensities[key] == pytest.approx(statistics[0][key], rel=1e-6)
    drawn = image[3:-1, 2:-5, 4:][label[3:-1, 2:-5, 4:] > 0]
    for key, rank in {"percentile_00_5": 0.5, "median": 50, "percentile_99_5": 99.5}.items():
        # nnU-Net's lies between two voxels' values, ours is one of them
        below, above = (np.percentile(drawn, rank, method=method) for method in ("lower", "higher"))
        assert below <= statistics[0][key] <= above and fingerprint.intensities[key] in (below, above)


def test_folds_are_those_of_nnunet():
    for count in (5, 7, 23, 131):
        cases = sorted(f"volume-{k}" for k in range(count))
        assert make_folds(cases[::-1]) == generate_crossval_split(cases)


def test_nnunets_fingerprint_is_read_as_ours(theirs, ours):
    found = read_nnunet_fingerprint(theirs / "dataset_fingerprint.json")
    assert [tuple(shape) for shape in found["shapes_after_crop"]] == [case.cropped_shape for case in ours.cases]
    np.testing.assert_allclose(found["spacings"], [case.spacing for case in ours.cases], rtol=1e-6)


@pytest.mark.parametrize("forward", [None, [1, 0, 2], [2, 0, 1]])
def test_nnunets_plans_are_read_in_the_axes_of_the_files(theirs, ours, tmp_path, forward):
    content = json.loads((theirs / "nnUNetPlans.json").read_text())
    if forward is not None:  # as for another coarse axis
        fullres = np.median([case.spacing[::-1] for case in ours.cases], axis=0)
        content["transpose_forward"] = forward
        content["configurations"]["3d_fullres"]["spacing"] = fullres[forward].tolist()
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(content))
    found = read_nnunet_plans(file)
    assert found.keys() == content["configurations"].keys()
    np.testing.assert_allclose(
        found["3d_fullres"]["spacing"], np.median([case.spacing for case in ours.cases], axis=0), rtol=1e-6
    )
    manager = PlansManager(content)
    for name, plan in found.items():
        configuration = manager.get_configuration(name)
        assert sorted(plan["patch_size"]) == sorted(configuration.patch_size)
        assert plan["batch_size"] == configuration.batch_size
        assert len(plan["strides"]) == len(plan["kernel_sizes"]) == plan["n_stages"]
        shrunk = np.prod(plan["strides"], axis=0)
        assert (np.array(plan["patch_size"]) % shrunk == 0).all()


def test_regions_are_those_of_nnunet(tmp_path):
    labels, order = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}, [1, 2, 3]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": order}))
    regions, values = nnunet_regions(tmp_path)
    manager = LabelManager(labels, order)
    assert [values if len(values) > 1 else values[0] for values in regions.values()] == [
        list(region) if isinstance(region, tuple) else region for region in manager.all_regions
    ]
    probabilities = np.random.default_rng(0).random((3, 4, 5, 6))
    saved = np.zeros((4, 5, 6), np.uint16)
    for probability, value in zip(probabilities, values, strict=True):
        saved[probability > 0.5] = value
    np.testing.assert_array_equal(manager.convert_probabilities_to_segmentation(probabilities), saved)


def test_a_written_data_set_passes_nnunets_check(nnunet, tmp_path):
    items = data_list("nnunet", nnunet / "nnUNet_raw" / DATASET)
    root = write_nnunet_raw(items, tmp_path / "Dataset007_Copy", LABELS, progress=False)
    verify_dataset_integrity(str(root), num_processes=1)
