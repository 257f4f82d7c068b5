"""What `DataCheck` makes of the parts of a data list."""

from __future__ import annotations

import logging

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import Compose, LoadImaged, Orientationd, Spacingd

from metalr_monai import DataCheck
from metalr_monai.errors import DataError, MetaDataError, OptionError

SETTINGS = {"regions": {"liver": [1]}, "hu_window": [-1000, 1000], "spacing": [2, 2, 2], "patch_size": [8, 8, 8]}
SHAPE = (20, 22, 24)


def case(folder, name, shape=SHAPE, affine=None, label=1):
    voxels = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 2:5, 2:5] = label
    item = {"case_id": name}
    for key, content in (("image", voxels), ("label", mask)):
        item[key] = str(folder / f"{name}_{key}.nii.gz")
        nib.save(nib.Nifti1Image(content, np.eye(4) if affine is None else affine), item[key])
    return item


def check(folder, parts, **settings):
    found = DataCheck(**{**SETTINGS, "progress": False, **settings})
    found({"train": [], "test": [], **parts}, folder / "run")
    return found


def test_good_data_pass_in_silence(tmp_path, caplog):
    assert check(tmp_path, {"train": [case(tmp_path, "a")], "test": [case(tmp_path, "b")]}).warnings == []
    assert caplog.records == []
    assert (tmp_path / "run/data_check.json").is_file()


def test_an_unknown_level_is_refused():
    with pytest.raises(OptionError, match="check is 'header'; expected voxels, headers, none"):
        DataCheck("header", **SETTINGS)


def test_each_level_reads_no_more_than_it_says(tmp_path):
    unknown, flat = case(tmp_path, "unknown", label=7), case(tmp_path, "flat", shape=(9, 9, 1))
    check(tmp_path, {"train": [unknown, flat]}, level="none")
    check(tmp_path, {"train": [unknown]}, level="headers")
    with pytest.raises(DataError, match="flat: a single slice"):
        check(tmp_path, {"train": [unknown, flat]}, level="headers")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match=r"unknown: unknown label values 7 \(27 voxels\); known are 0, 1. .*`regions`"):
        check(tmp_path, {"train": [unknown]})


def test_cases_of_all_parts_are_checked(tmp_path):
    with pytest.raises(DataError, match="b: unknown label values 2"):
        check(tmp_path, {"train": [case(tmp_path, "a")], "validation": [case(tmp_path, "b", label=2)]})


def test_a_case_without_label_is_named_whatever_the_level(tmp_path):
    bare = case(tmp_path, "bare")
    del bare["label"]
    with pytest.raises(DataError, match="1 of 2 cases have no label: bare"):
        check(tmp_path, {"train": [case(tmp_path, "a")], "test": [bare]}, level="none")


def test_the_meta_set_must_fit_the_training_part(tmp_path):
    training = [{"case_id": str(n), "image": f"{n}.nii", "label": f"{n}l.nii"} for n in range(8)]
    for meta in (None, "training", 7, 0.25):
        check(tmp_path, {"train": training}, level="none", meta=meta, batch_size=2)
    with pytest.raises(MetaDataError, match=r"meta is 8, and the training part has 8 case\(s\)"):
        check(tmp_path, {"train": training}, level="none", meta=8)
    with pytest.raises(MetaDataError, match=r"meta is 0.25, which holds 2 of 8 .* `batch_size` \(now 3\) to 2 or less"):
        check(tmp_path, {"train": training}, level="none", meta=0.25, batch_size=3)


def test_a_region_only_in_the_test_part_cannot_be_learned(tmp_path):
    parts = {"train": [case(tmp_path, "a")], "test": [case(tmp_path, "b", label=2)]}
    with pytest.raises(DataError, match=r"'tumour', label values \[2\], is in none of the 1 training cases \(a\)"):
        check(tmp_path, parts, regions={"liver": [1, 2], "tumour": [2]})


def test_warnings_are_logged_once_for_all_cases(tmp_path, caplog):
    parts = {"train": [case(tmp_path, "a"), case(tmp_path, "empty", label=0)]}
    with caplog.at_level(logging.WARNING, logger="metalr_monai"):
        found = check(tmp_path, parts, patch_size=[16, 8, 8])
    empty, small = found.warnings
    assert "empty: the label is empty" in empty
    assert "2 of 2 cases are smaller than patch_size 16×8×8" in small
    (record,) = caplog.records
    assert empty in record.getMessage() and small in record.getMessage()


def test_a_second_check_forgets_the_warnings_of_the_first(tmp_path):
    found = check(tmp_path, {"train": [case(tmp_path, "a")]}, patch_size=[16, 8, 8])
    held = found.warnings  # as the run's report holds it
    assert len(held) == 1
    found({"train": [case(tmp_path, "b", shape=(40, 40, 40))]}, tmp_path / "run")
    assert held == []


@pytest.mark.parametrize(
    "turn", [np.eye(3), [[0, 0, 1], [-1, 0, 0], [0, 1, 0]], [[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, -1]]]
)
def test_sizes_after_resampling_are_those_of_monai(tmp_path, turn):
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.9, 1.3, 3.0])
    item = case(tmp_path, "a", affine=affine)
    (said,) = check(tmp_path, {"train": [item]}, patch_size=[64, 64, 64]).warnings
    steps = [
        LoadImaged("image", ensure_channel_first=True),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=SETTINGS["spacing"]),
    ]
    size = Compose(steps)(item)["image"].shape[1:]
    assert f"padded with air: a ({'×'.join(map(str, size))})" in said
