"""Chest X-rays: a group is a person of a published part."""

from __future__ import annotations

from collections import Counter

import pytest
from pictures import CHEST_NAMES, CHEST_XRAY, chest_folder

from metalr_monai.data.group_splits import make_group_split, split_counts
from metalr_monai.data.image_lists import image_list
from metalr_monai.errors import DataError

VAL = {"val/NORMAL": ["NORMAL2-IM-1427-0001"], "val/PNEUMONIA": ["person1946_bacteria_4874"]}


def groups(items):
    return {item["case_id"].rpartition("/")[2]: item["group"] for item in items}


def test_items_keep_class_and_published_part(tmp_path):
    items = image_list("chest_xray", chest_folder(tmp_path))
    assert Counter((item["part"], item["class_name"], item["label"]) for item in items) == {
        ("train", "NORMAL", 0): 4,
        ("train", "PNEUMONIA", 1): 4,
        ("test", "NORMAL", 0): 2,
        ("test", "PNEUMONIA", 1): 2,
    }


def test_a_person_is_told_by_the_name_within_a_part(tmp_path):
    group = groups(image_list("chest_xray", chest_folder(tmp_path)))
    assert group["person1_bacteria_1"] == group["person1_virus_6"] == "train/person1"
    assert group["person12_virus_3"] == "train/person12"
    assert group["person1_virus_7"] == "test/person1"
    assert group["IM-0115-0001"] == group["IM-0115-0002"] == "train/IM-0115"
    assert group["NORMAL2-IM-0115-0001"] == "train/NORMAL2-IM-0115"


def test_one_numbering_makes_one_person_of_equal_numbers_and_refuses_the_published_split(tmp_path):
    items = image_list("chest_xray", chest_folder(tmp_path), one_numbering=True)
    assert groups(items)["person1_virus_7"] == groups(items)["person1_bacteria_1"] == "person1"
    with pytest.raises(DataError, match=r"parts 1 group.*person1 "):
        make_group_split(items, "published")


def test_val_is_numbered_with_train_and_is_the_validation_part(tmp_path):
    items = image_list("chest_xray", chest_folder(tmp_path, CHEST_NAMES | VAL))
    assert groups(items)["person1946_bacteria_4874"] == "train/person1946"
    counts = split_counts(items, make_group_split(items, "published"))
    assert {part: count["images"] for part, count in counts.items()} == {
        "train": 8,
        "meta": 0,
        "validation": 2,
        "test": 4,
    }


@pytest.mark.parametrize("missing", ["train/NORMAL", "test/PNEUMONIA", "val/NORMAL"])
def test_a_class_that_is_missing_in_a_part_is_named(tmp_path, missing):
    names = {folder: files for folder, files in (CHEST_NAMES | VAL).items() if folder != missing}
    with pytest.raises(DataError, match=f"no images in {missing}"):
        image_list("chest_xray", chest_folder(tmp_path, names))


def test_a_name_that_tells_no_person_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1 file name\(s\) tell no person, such as scan\.jpeg"):
        image_list("chest_xray", chest_folder(tmp_path, CHEST_NAMES | {"train/NORMAL": ["IM-0115-0001", "scan"]}))


@pytest.mark.skipif(not CHEST_XRAY.is_dir(), reason="the published chest X-rays are not here")
def test_the_published_images_are_5840_of_which_no_split_parts_a_person():
    items = image_list("chest_xray", CHEST_XRAY)
    assert Counter((item["part"], item["class_name"]) for item in items) == {
        ("train", "NORMAL"): 1341,
        ("train", "PNEUMONIA"): 3875,
        ("test", "NORMAL"): 234,
        ("test", "PNEUMONIA"): 390,
    }
    numbers = [
        {g.partition("/")[2] for g in groups(items).values() if g.startswith(part)} for part in ("train", "test")
    ]
    assert len(numbers[0] & numbers[1]) == 170
    group = {item["case_id"]: item["group"] for item in items}
    for scheme in ("published", "fold 2 of 5", "test 0.2"):
        split = make_group_split(items, scheme, meta=0.25, validation=0.1)
        inside = [{group[case] for case in split[part]} for part in ("train", "meta", "validation", "test")]
        assert sum(map(len, inside)) == len(set().union(*inside)) == len(set(group.values()))
    counts = split_counts(items, make_group_split(items, "published", meta=0.25))
    assert counts["test"]["images"] == 624
    assert counts["meta"]["NORMAL"] == round(0.25 * 1341)
    assert counts["meta"]["PNEUMONIA"] == round(0.25 * 3875)
