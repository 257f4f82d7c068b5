"""nnU-Net's files, written and read: small ones in its forms, and what is told of faulty ones."""

from __future__ import annotations

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_writer import turned, write_series

from metalr_monai import data_list
from metalr_monai.errors import DataError, OptionError
from metalr_monai.planning.nnunet_files import (
    make_folds,
    nnunet_regions,
    read_folds,
    read_nnunet_fingerprint,
    read_nnunet_plans,
    write_folds,
    write_nnunet_raw,
)

LABELS = {"background": 0, "liver": 1, "tumour": 2}
AFFINE = np.diag([0.5, 0.75, 3.0, 1.0])


@pytest.fixture
def items(tmp_path):
    """A zipped case, a plain one and a DICOM series."""
    root = tmp_path / "source"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for case, ending, affine in (("a", ".nii.gz", AFFINE), ("b", ".nii", AFFINE), ("c", "", turned((1, 1, 2)))):
        if ending:
            nib.save(nib.Nifti1Image(image(), affine), root / "images" / f"{case}{ending}")
        else:
            write_series(root / "images" / case, image(), affine)
        nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), affine), root / "labels" / f"{case}{ending or '.nii'}")
    return data_list("pairs", root)


def image():
    return np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def refused(call, *arguments, error=DataError, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


# --- raw data sets ---


def test_a_raw_data_set_is_listed_again_with_the_same_voxels(items, tmp_path):
    root = write_nnunet_raw(items, tmp_path / "raw" / "Dataset001_Liver", LABELS, progress=False)
    found = data_list("nnunet", root)
    assert [item["case_id"] for item in found] == ["a", "b", "c"]
    assert nnunet_regions(root) == ({"liver": [1], "tumour": [2]}, [1, 2])
    for item in found:
        assert item["image"].endswith(f"imagesTr/{item['case_id']}_0000.nii.gz")
        np.testing.assert_array_equal(np.asarray(nib.load(item["image"]).dataobj), image())
        assert (np.asarray(nib.load(item["label"]).dataobj) == 1).all()
    assert json.loads((root / "dataset.json").read_text()) == {
        "channel_names": {"0": "CT"},
        "labels": LABELS,
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_zipped_files_are_copied_and_plain_ones_zipped_as_they_are(items, tmp_path):
    root = write_nnunet_raw(items, tmp_path / "Dataset001_Liver", LABELS, progress=False)
    source = tmp_path / "source" / "images"
    assert (root / "imagesTr" / "a_0000.nii.gz").read_bytes() == (source / "a.nii.gz").read_bytes()
    zipped = (root / "imagesTr" / "b_0000.nii.gz").read_bytes()
    assert gzip.decompress(zipped) == (source / "b.nii").read_bytes()


def test_a_converted_series_lies_where_its_label_lies_for_itk(items, tmp_path):
    root = write_nnunet_raw(items, tmp_path / "Dataset001_Liver", LABELS, progress=False)
    scan = sitk.ReadImage(str(root / "imagesTr" / "c_0000.nii.gz"))
    label = sitk.ReadImage(str(root / "labelsTr" / "c.nii.gz"))
    assert scan.GetSpacing() == pytest.approx((1, 1, 2))
    assert scan.GetOrigin() == pytest.approx(label.GetOrigin(), abs=1e-4)
    assert scan.GetDirection() == pytest.approx(label.GetDirection(), abs=1e-5)


def test_regions_are_written_with_the_order_in_which_they_are_saved(items, tmp_path):
    labels = {"background": 0, "liver": (1, 2), "tumour": 2}
    root = write_nnunet_raw(
        items, tmp_path / "Dataset002_Regions", labels, regions_class_order=(1, 2), workers=1, progress=False
    )
    assert nnunet_regions(root) == ({"liver": [1, 2], "tumour": [2]}, [1, 2])


def test_nothing_is_left_of_a_data_set_that_could_not_be_copied(items, tmp_path):
    (tmp_path / "source" / "labels" / "b.nii").unlink()
    target = tmp_path / "raw" / "Dataset001_Liver"
    assert "labels/b.nii is missing" in refused(write_nnunet_raw, items, target, LABELS, progress=False)
    assert list(target.parent.iterdir()) == []


def test_a_folder_that_holds_something_is_not_written_to(items, tmp_path):
    target = tmp_path / "Dataset001_Liver"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert "not empty" in refused(write_nnunet_raw, items, target, LABELS, progress=False)
    (target / "mine.txt").unlink()
    write_nnunet_raw(items, target, LABELS, progress=False)


@pytest.mark.parametrize("name", ["Liver", "Dataset1_Liver", "Dataset001", "Dataset0001_Liver"])
def test_names_that_nnunet_does_not_find_are_refused(items, tmp_path, name):
    assert name in refused(write_nnunet_raw, items, tmp_path / name, LABELS, error=OptionError)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "liver": 1, "tumour": 3}, "0, 1, 3; nnU-Net expects no gaps"),
        ({"liver": 1}, '"background": 0'),
        ({"background": 0, "liver": "one"}, "'liver'"),
        ({"background": 0, "liver": (1, 2), "tumour": 2}, "regions_class_order"),
    ],
)
def test_labels_that_nnunet_refuses_are_not_written(items, tmp_path, labels, words):
    assert words in refused(write_nnunet_raw, items, tmp_path / "Dataset001_Liver", labels)
    assert not (tmp_path / "Dataset001_Liver").exists()


def test_cases_without_a_label_or_with_channels_are_not_written(items, tmp_path):
    target = tmp_path / "Dataset001_Liver"
    two = [{**items[0], "image": [items[0]["image"], items[1]["image"]]}, *items[1:]]
    assert "a (2)" in refused(write_nnunet_raw, two, target, LABELS)
    del items[1]["label"]
    assert "no label: b." in refused(write_nnunet_raw, items, target, LABELS)


# --- regions ---


@pytest.mark.parametrize(
    ("labels", "order", "expected"),
    [
        ({"background": 0, "spleen": 1, "liver": 2}, None, ({"spleen": [1], "liver": [2]}, [1, 2])),
        ({"liver": 2, "background": 0, "spleen": [1]}, None, ({"liver": [2], "spleen": [1]}, [2, 1])),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3},
            [1, 2, 3],
            ({"whole": [1, 2, 3], "core": [2, 3], "active": [3]}, [1, 2, 3]),
        ),
        ({"background": 0, "whole": [1, 2], "core": 2}, [2, 1], ({"whole": [1, 2], "core": [2]}, [2, 1])),
    ],
)
def test_labels_and_regions_are_read_with_what_they_are_saved_as(tmp_path, labels, order, expected):
    write_json(tmp_path / "dataset.json", {"labels": labels, **({"regions_class_order": order} if order else {})})
    assert nnunet_regions(tmp_path) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "there is no 'labels'; found nothing"),
        ([], "holds a list"),
        ({"labels": ["liver"]}, "'labels' is ['liver']"),
        ({"labels": {"0": "background", "1": "liver"}}, "the label '0': 'background'"),
        ({"labels": {"background": 0, "liver": []}}, "'liver': []"),
        ({"labels": {"background": 1, "liver": 2}}, '"background": 0'),
        ({"labels": {"background": 0}}, "no label but the background"),
        ({"labels": {"background": 0, "body": [0, 1]}}, "below 1 in body"),
        ({"labels": {"background": 0, "liver": 1, "ignore": 2}}, '"ignore" label'),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "None as regions_class_order"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]}, "a list of 2 values"),
    ],
)
def test_faulty_labels_are_told_with_their_file(tmp_path, content, words):
    path = write_json(tmp_path / "dataset.json", content)
    told = refused(nnunet_regions, tmp_path)
    assert str(path) in told and words in told


def test_a_data_set_without_its_json_is_told(tmp_path):
    assert "dataset.json cannot be read: No such file" in refused(nnunet_regions, tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    assert "not valid JSON" in refused(nnunet_regions, tmp_path)


# --- folds ---


@pytest.mark.parametrize(
    ("cases", "folds", "seed", "held_out"),  # of scikit-learn 1.9.1's KFold(folds, shuffle=True, random_state=seed)
    [
        (7, 5, 12345, [[3, 6], [0, 4], [1], [5], [2]]),
        (20, 5, 12345, [[3, 8, 13, 16], [0, 10, 12, 15], [6, 7, 11, 17], [9, 14, 18, 19], [1, 2, 4, 5]]),
        (11, 3, 7, [[0, 2, 5, 8], [1, 3, 7, 10], [4, 6, 9]]),
    ],
)
def test_folds_are_those_of_scikit_learn(cases, folds, seed, held_out):
    names = [f"case_{k:02d}" for k in range(cases)]
    found = make_folds(names[::-1], folds, seed)
    assert [fold["val"] for fold in found] == [[names[k] for k in part] for part in held_out]
    for fold in found:
        assert fold["train"] == [name for name in names if name not in fold["val"]]


def test_cases_are_sorted_as_text_as_nnunet_sorts_them():
    names = [f"volume-{k}" for k in range(12)]
    held_out = [case for fold in make_folds(names, 12) for case in fold["val"]]
    order = np.arange(12)
    np.random.RandomState(12345).shuffle(order)
    assert held_out == [sorted(names)[k] for k in order]


@pytest.mark.parametrize(("folds", "seed"), [(1, 0), (2.0, 0), (True, 0), (2, -1), (2, 2**32), (2, None)])
def test_numbers_of_folds_and_seeds_out_of_range_are_refused(folds, seed):
    assert "expected" in refused(make_folds, list("abc"), folds, seed, error=OptionError)


def test_too_few_cases_or_a_case_twice_are_refused():
    assert "5 folds need at least 5 cases; found 4" in refused(make_folds, list("abcd"))
    assert "twice: b" in refused(make_folds, list("abbcde"))


def test_folds_are_written_in_nnunets_form_and_read_again(tmp_path):
    folds = make_folds([f"c{k}" for k in range(6)], 3)
    path = tmp_path / "new" / "splits_final.json"
    write_folds(folds, path)
    assert json.loads(path.read_text()) == folds
    assert read_folds(path) == folds
    assert read_folds(path, [f"c{k}" for k in range(9)]) == folds


FOLDS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["a", "c"], "val": ["b"]}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "holds []"),
        ({"train": ["a"], "val": ["b"]}, "expected a list of"),
        ([FOLDS[0], {"train": ["a"]}], "as fold 2"),
        ([{"train": ["a"], "val": []}], "with a case at least in each"),
        ([{"train": [1], "val": ["b"]}], "as fold 1"),
        ([FOLDS[0], {"train": ["a", "b"], "val": ["b"]}], "twice in fold 2: b."),
        ([FOLDS[0], FOLDS[0]], "out in two folds: c."),
    ],
)
def test_faulty_folds_are_neither_read_nor_written(tmp_path, content, words):
    path = write_json(tmp_path / "splits_final.json", content)
    told = refused(read_folds, path)
    assert str(path) in told and words in told
    assert words in refused(write_folds, content, tmp_path / "other.json")
    assert not (tmp_path / "other.json").exists()


def test_folds_of_other_data_are_told(tmp_path):
    path = write_json(tmp_path / "splits_final.json", FOLDS)
    told = refused(read_folds, path, ["a", "b"])
    assert "names 1 case(s) that the data list of 2 lacks: c." in told and str(path) in told
    assert "cannot be read" in refused(read_folds, tmp_path / "none.json")


# --- fingerprints and plans ---

INTENSITIES = {
    "max": 200.0,
    "mean": 94.5,
    "median": 101.0,
    "min": -240.0,
    "percentile_00_5": -18.0,
    "percentile_99_5": 159.0,
    "std": 33.5,
}


def fingerprint_json():
    return {
        "foreground_intensity_properties_per_channel": {"0": dict(INTENSITIES)},
        "median_relative_size_after_cropping": 0.9,
        "shapes_after_crop": [[64, 112, 96], [30, 40, 50]],
        "spacings": [[5.0, 0.5, 0.75], [1.0, 2.0, 3.0]],
    }


def test_a_fingerprint_is_read_in_x_y_z(tmp_path):
    path = write_json(tmp_path / "dataset_fingerprint.json", fingerprint_json())
    assert read_nnunet_fingerprint(path) == {
        "spacings": [[0.75, 0.5, 5.0], [3.0, 2.0, 1.0]],
        "shapes_after_crop": [[96, 112, 64], [50, 40, 30]],
        "intensities": INTENSITIES,
        "median_relative_size_after_cropping": 0.9,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("spacings"), "there is no 'spacings'"),
        (lambda c: c.update(spacings=[[1.0]]), "'spacings' is [[1.0]]"),
        (lambda c: c["foreground_intensity_properties_per_channel"].update({"1": {}}), "2 channels, 0, 1; expected CT"),
        (lambda c: c["foreground_intensity_properties_per_channel"]["0"].pop("std"), "channel, 0: there is no 'std'"),
        (lambda c: c.update(median_relative_size_after_cropping="all"), "expected a number"),
    ],
)
def test_a_faulty_fingerprint_is_told_with_its_file_and_key(tmp_path, change, words):
    content = fingerprint_json()
    change(content)
    path = write_json(tmp_path / "dataset_fingerprint.json", content)
    told = refused(read_nnunet_fingerprint, path)
    assert str(path) in told and words in told


def configuration(size, **changes):
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [32, 64],
            "kernel_sizes": [[1, *[3] * (size - 1)], [3] * size],
            "strides": [[1] * size, [1, *[2] * (size - 1)]],
            "n_conv_per_stage": [2, 2],
            "n_conv_per_stage_decoder": [2],
        },
    }
    return {
        "batch_size": 2,
        "patch_size": [16, 128, 96][:size],
        "median_image_size_in_voxels": [20.0, 300.0, 200.0][:size],
        "spacing": [5.0, 0.5, 0.75][:size],
        "normalization_schemes": ["CTNormalization"],
        "architecture": network,
        **changes,
    }


def plans_json(forward=(0, 1, 2)):
    return {
        "transpose_forward": list(forward),
        "configurations": {
            "2d": configuration(2, patch_size=[128, 96], spacing=[0.5, 0.75], median_image_size_in_voxels=[300, 200]),
            "3d_fullres": configuration(3),
            "bigger": {"inherits_from": "3d_fullres", "batch_size": 4},
        },
    }


def test_plans_are_read_in_x_y_z(tmp_path):
    plans = read_nnunet_plans(write_json(tmp_path / "nnUNetPlans.json", plans_json()))
    assert list(plans) == ["2d", "3d_fullres", "bigger"]
    assert plans["3d_fullres"] == {
        "spacing": [0.75, 0.5, 5.0],
        "patch_size": [96, 128, 16],
        "median_image_size_in_voxels": [200.0, 300.0, 20.0],
        "batch_size": 2,
        "normalization_schemes": ["CTNormalization"],
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "n_stages": 2,
        "features_per_stage": [32, 64],
        "n_conv_per_stage": [2, 2],
        "n_conv_per_stage_decoder": [2],
        "kernel_sizes": [[3, 3, 1], [3, 3, 3]],
        "strides": [[1, 1, 1], [2, 2, 1]],
    }
    assert plans["2d"]["patch_size"] == [96, 128] and plans["2d"]["spacing"] == [0.75, 0.5]


def test_what_a_configuration_inherits_is_filled_in(tmp_path):
    plans = read_nnunet_plans(write_json(tmp_path / "nnUNetPlans.json", plans_json()))
    assert plans["bigger"] == {**plans["3d_fullres"], "batch_size": 4}


@pytest.mark.parametrize(
    ("forward", "spacing", "spacing_2d"),
    [
        # nnU-Net's spacing is [5.0, 0.5, 0.75], of the axes (z, y, x)[forward]
        ((0, 1, 2), [0.75, 0.5, 5.0], [0.75, 0.5]),
        ((1, 0, 2), [0.75, 5.0, 0.5], [0.75, 0.5]),
        ((2, 0, 1), [5.0, 0.75, 0.5], [0.75, 0.5]),
    ],
)
def test_the_coarse_axis_returns_from_the_front(tmp_path, forward, spacing, spacing_2d):
    plans = read_nnunet_plans(write_json(tmp_path / "nnUNetPlans.json", plans_json(forward)))
    assert plans["3d_fullres"]["spacing"] == spacing
    assert plans["2d"]["spacing"] == spacing_2d
    assert plans["3d_fullres"]["kernel_sizes"][0].index(1) == spacing.index(5.0)


def test_a_residual_network_says_its_blocks(tmp_path):
    content = plans_json()
    options = content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    options["n_blocks_per_stage"] = [1, options.pop("n_conv_per_stage")[0]]
    plans = read_nnunet_plans(write_json(tmp_path / "nnUNetPlans.json", content))
    assert plans["3d_fullres"]["n_blocks_per_stage"] == [1, 2] and "n_conv_per_stage" not in plans["3d_fullres"]


def of(content, *keys):
    for key in keys:
        content = content[key]
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("transpose_forward"), "there is no 'transpose_forward'; found configurations"),
        (lambda c: c.update(transpose_forward=[0, 1]), "[0, 1] as transpose_forward"),
        (lambda c: c.update(configurations=[]), "'configurations' is []"),
        (lambda c: of(c, "configurations", "2d").pop("spacing"), "configurations, 2d: there is no 'spacing'"),
        (lambda c: of(c, "configurations", "2d").update(patch_size=128), "'patch_size' is 128"),
        (lambda c: of(c, "configurations", "2d", "architecture").pop("arch_kwargs"), "there is no 'arch_kwargs'"),
        (
            lambda c: of(c, "configurations", "3d_fullres", "architecture", "arch_kwargs").pop("strides"),
            "configurations, 3d_fullres, architecture, arch_kwargs: there is no 'strides'",
        ),
        (lambda c: of(c, "configurations", "bigger").update(inherits_from="big"), "configurations: there is no 'big'"),
        (lambda c: of(c, "configurations", "3d_fullres").update(inherits_from="bigger"), "inherit from each other"),
    ],
)
def test_faulty_plans_are_told_with_their_file_and_key(tmp_path, change, words):
    content = plans_json()
    change(content)
    path = write_json(tmp_path / "nnUNetPlans.json", content)
    told = refused(read_nnunet_plans, path)
    assert str(path) in told and words in told
