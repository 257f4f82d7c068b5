"""Data lists of CT from small folders in every layout."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.data import Dataset
from monai.transforms import LoadImaged

from metalr_monai.data.ct_lists import READERS, data_list
from metalr_monai.errors import DataError, OptionError

DATA = Path(__file__).parents[2] / "../shared/data/ct_liver"


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), path)


def lits(root, numbers=(0, 2, 10), ending=".nii"):
    for n in numbers:
        write(root / f"volume-{n}{ending}", root / f"segmentation-{n}{ending}")
    return root


def msd(root, names=("liver_0", "liver_2", "liver_10"), **changes):
    write(*(root / part / f"{name}.nii.gz" for part in ("imagesTr", "labelsTr") for name in names))
    training = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in reversed(names)
    ]
    (root / "dataset.json").write_text(json.dumps({"training": training, "numTraining": len(names)} | changes))
    return root


def nnunet(root, cases=("liver_2", "liver_10"), channels=1, **changes):
    write(*(root / "imagesTr" / f"{case}_{k:04d}.nii.gz" for case in cases for k in range(channels)))
    write(*(root / "labelsTr" / f"{case}.nii.gz" for case in cases))
    names = {str(k): "CT" for k in range(channels)}
    info = {"channel_names": names, "numTraining": len(cases), "file_ending": ".nii.gz"} | changes
    (root / "dataset.json").write_text(json.dumps({key: value for key, value in info.items() if value is not None}))
    return root


def folders(root, cases=("b", "a10", "a9")):
    write(*(root / case / f"{name}.nii.gz" for case in cases for name in ("image", "label")))
    return root


def two_folders(root, cases=("b", "a10", "a9")):
    write(*(root / part / f"{case}.nii.gz" for case in cases for part in ("images", "labels")))
    return root


def ids(items):
    return [item["case_id"] for item in items]


def problem(kind, root):
    with pytest.raises(DataError) as caught:
        data_list(kind, root)
    message = str(caught.value)
    assert str(root) in message
    assert READERS[kind].layout in message
    assert "Found: " in message
    return message


# --- what is read ---


@pytest.mark.parametrize(
    ("kind", "make", "cases"),
    [
        ("lits", lits, ["volume-0", "volume-2", "volume-10"]),
        ("msd", msd, ["liver_0", "liver_2", "liver_10"]),
        ("nnunet", nnunet, ["liver_2", "liver_10"]),
        ("pairs", folders, ["a9", "a10", "b"]),
        ("pairs", two_folders, ["a9", "a10", "b"]),
    ],
)
def test_every_layout_is_listed_in_numerical_order_and_loads_in_monai(tmp_path, kind, make, cases):
    items = data_list(kind, str(make(tmp_path)))
    assert ids(items) == cases
    assert all(set(item) == {"image", "label", "case_id"} for item in items)
    loaded = Dataset(items, LoadImaged(("image", "label")))[0]
    assert loaded["image"].shape == loaded["label"].shape == (4, 5, 6)


def test_image_and_label_are_of_the_same_case(tmp_path):
    for item in data_list("lits", lits(tmp_path)):
        assert item["image"] == str(tmp_path / f"{item['case_id']}.nii")
        assert item["label"] == item["image"].replace("volume", "segmentation")


def test_lits_is_read_from_nested_folders_and_both_endings(tmp_path):
    lits(tmp_path / "Training Batch 1", (3, 27), ".nii")
    lits(tmp_path / "Training Batch 2", (28, 130), ".nii.gz")
    write(tmp_path / "test" / "test-volume-3.nii", tmp_path / "Training Batch 1" / "._volume-5.nii")
    assert ids(data_list("lits", tmp_path)) == ["volume-3", "volume-27", "volume-28", "volume-130"]


def test_hidden_files_in_an_msd_list_are_passed_over(tmp_path):
    root = msd(tmp_path, ("liver_1", "._liver_1"))
    assert ids(data_list("msd", root)) == ["liver_1"]


@pytest.mark.parametrize(("kind", "make", "part"), [("nnunet", nnunet, "Tr"), ("pairs", two_folders, "")])
def test_hidden_files_in_folders_are_passed_over(tmp_path, kind, make, part):
    root = make(tmp_path)
    expected = data_list(kind, root)
    write(root / f"images{part}" / "._x_0000.nii.gz", root / f"labels{part}" / "._y.nii.gz")
    assert data_list(kind, root) == expected


def test_several_channels_become_a_list_of_paths(tmp_path):
    item = data_list("nnunet", nnunet(tmp_path, channels=2))[0]
    assert item["image"] == [str(tmp_path / "imagesTr" / f"liver_2_000{k}.nii.gz") for k in (0, 1)]


def test_nnunet_version_1_is_read(tmp_path):
    root = nnunet(tmp_path, channel_names=None, file_ending=None, modality={"0": "CT"})
    assert ids(data_list("nnunet", root)) == ["liver_2", "liver_10"]


def test_images_alone_have_no_label(tmp_path):
    write(tmp_path / "b.nii", tmp_path / "a.nii.gz")
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"")
    assert data_list("pairs", tmp_path) == [
        {"image": str(tmp_path / "a.nii.gz"), "case_id": "a"},
        {"image": str(tmp_path / "b.nii"), "case_id": "b"},
        {"image": str(series), "case_id": "series"},
    ]


def test_case_folders_and_an_images_folder_without_labels_are_for_inference(tmp_path):
    write(tmp_path / "one" / "x" / "image.nii.gz", tmp_path / "two" / "images" / "y.nii.gz")
    assert ids(data_list("pairs", tmp_path / "one")) == ["x"]
    assert "label" not in data_list("pairs", tmp_path / "two")[0]


def test_a_dicom_series_beside_a_label_folder_is_one_image(tmp_path):
    (tmp_path / "images" / "p1").mkdir(parents=True)
    (tmp_path / "images" / "p1" / "slice.DCM").write_bytes(b"")
    write(tmp_path / "labels" / "p1.nii.gz")
    expected = {
        "image": str(tmp_path / "images" / "p1"),
        "label": str(tmp_path / "labels" / "p1.nii.gz"),
        "case_id": "p1",
    }
    assert data_list("pairs", tmp_path) == [expected]


# --- what is refused ---


@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_folder_is_named_with_the_layout_and_what_is_there(tmp_path, kind):
    assert "no such folder" in problem(kind, tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    assert "Found: notes.txt" in problem(kind, tmp_path)
    (tmp_path / "notes.txt").unlink()
    assert "Found: nothing" in problem(kind, tmp_path)
    write(tmp_path / "file.nii")
    assert "not a folder" in problem(kind, tmp_path / "file.nii")


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match=r"'litts'; known: lits, msd, nnunet, pairs. Did you mean lits"):
        data_list("litts", tmp_path)


REMOVED = [
    ("lits", lits, "segmentation-2.nii", "volume-2"),
    ("nnunet", nnunet, "labelsTr/liver_2.nii.gz", "liver_2"),
    ("pairs", folders, "a9/label.nii.gz", "a9"),
    ("pairs", two_folders, "labels/a9.nii.gz", "a9"),
]


@pytest.mark.parametrize(("kind", "make", "file", "case"), REMOVED)
def test_a_volume_without_its_segmentation_is_named(tmp_path, kind, make, file, case):
    (make(tmp_path) / file).unlink()
    assert f"volumes have no segmentation: {case}. " in problem(kind, tmp_path)


@pytest.mark.parametrize(
    ("kind", "make", "file", "case"),
    [("lits", lits, "volume-2.nii", "volume-2"), ("pairs", two_folders, "images/a9.nii.gz", "a9")],
)
def test_a_segmentation_without_its_volume_is_named(tmp_path, kind, make, file, case):
    (make(tmp_path) / file).unlink()
    assert f"1 segmentations have no volume: {case}. " in problem(kind, tmp_path)


def test_files_that_an_msd_list_names_must_be_there(tmp_path):
    (msd(tmp_path) / "labelsTr" / "liver_2.nii.gz").unlink()
    assert "1 of 3 files that dataset.json lists are missing: labelsTr/liver_2.nii.gz" in problem("msd", tmp_path)


def test_a_case_that_is_there_twice_is_refused_with_both_places(tmp_path):
    lits(tmp_path / "a", (1, 2))
    lits(tmp_path / "b", (2,), ".nii.gz")
    message = problem("lits", tmp_path)
    assert "more than once: volume-2" in message
    assert str(tmp_path / "a" / "volume-2.nii") in message
    assert str(tmp_path / "b" / "volume-2.nii.gz") in message

    write(tmp_path / "flat" / "c.nii", tmp_path / "flat" / "c.nii.gz")
    assert "more than once: c " in problem("pairs", tmp_path / "flat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"training": []}', 'no list "training"'),
        ('{"training": ["imagesTr/a.nii.gz"]}', "'imagesTr/a.nii.gz'; expected"),
        ('{"training": [{"image": "imagesTr/a.nii.gz"}]}', "expected"),
    ],
)
def test_a_bad_dataset_json_is_refused(tmp_path, content, message):
    (tmp_path / "dataset.json").write_text(content)
    assert message in problem("msd", tmp_path)


def test_nnunet_channels_and_number_of_cases_must_agree_with_dataset_json(tmp_path):
    one = nnunet(tmp_path / "one", channel_names={"0": "CT", "1": "PET"})
    assert "names 2 channel(s), _0000 to _0001, but these cases have others: liver_2, liver_10" in problem(
        "nnunet", one
    )
    assert "numTraining 5, but there are 2" in problem("nnunet", nnunet(tmp_path / "two", numTraining=5))
    assert '"channel_names"' in problem("nnunet", nnunet(tmp_path / "three", channel_names=None))


def test_mixed_or_misnamed_pairs_are_refused(tmp_path):
    write(folders(tmp_path / "mixed") / "stray.nii.gz")
    assert "two layouts are mixed" in problem("pairs", tmp_path / "mixed")
    write(folders(tmp_path / "odd") / "c" / "ct.nii.gz")
    assert "c holds ct.nii.gz, but no image.nii" in problem("pairs", tmp_path / "odd")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real CT at {DATA}")
def test_real_ct_is_listed():
    items = data_list("pairs", DATA)
    assert ids(items) == ["lits_117_crop", "totalseg_a_3mm", "totalseg_b_slab"]
    assert all(Path(item[key]).is_file() for item in items for key in ("image", "label"))
