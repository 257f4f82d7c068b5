"""Breast ultrasound: masks are no images, and near-duplicates stay together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pictures import BUSI, blobs, busi_folder, save
from PIL import Image

from metalr_monai.data.image_lists import image_list
from metalr_monai.data.near_duplicates import BITS, clusters, near_pairs, perceptual_hash
from metalr_monai.errors import DataError, OptionError


def grey(seed, shape=(48, 64)):
    return blobs(seed, shape).astype(np.float32) / 255


def distance(one, other):
    return int((perceptual_hash(one) != perceptual_hash(other)).sum())


def test_items_have_the_class_the_label_and_no_masks(tmp_path):
    items = image_list("busi", busi_folder(tmp_path))
    assert Counter((item["class_name"], item["label"]) for item in items) == {
        ("benign", 0): 5,
        ("malignant", 1): 4,
        ("normal", 2): 3,
    }
    assert items[0]["case_id"] == "benign/benign (1)"
    assert not any("_mask" in item["image"] for item in items)
    assert any("12 mask(s)" in note for note in items.notes)


def test_cases_are_unique_and_sorted_by_their_numbers(tmp_path):
    items = image_list("busi", busi_folder(tmp_path, (11, 2, 2)))
    cases = [item["case_id"] for item in items]
    assert len(set(cases)) == 15
    assert cases[:2] == ["benign/benign (1)", "benign/benign (2)"]
    assert cases[10] == "benign/benign (11)"


def test_no_key_can_be_taken_for_the_meta_data_of_image_or_label(tmp_path):
    for item in image_list("busi", busi_folder(tmp_path)):
        assert not [key for key in item if key.startswith(("image_", "label_"))]


def test_masks_of_several_lesions_are_passed_over(tmp_path):
    busi_folder(tmp_path)
    save(tmp_path / "benign" / "benign (1)_mask_1.png", 7)
    assert len(image_list("busi", tmp_path)) == 12


def test_near_duplicates_are_one_group_even_across_classes(tmp_path):
    busi_folder(tmp_path)
    first = Image.open(tmp_path / "benign" / "benign (1).png")
    first.resize((80, 60)).save(tmp_path / "benign" / "benign (6).png")
    marked = np.array(first)
    marked[20:23, 30:36] = 255  # a calliper
    save(tmp_path / "malignant" / "malignant (5).png", marked)
    items = image_list("busi", tmp_path)
    group = {item["case_id"]: item["group"] for item in items}
    assert group["benign/benign (1)"] == group["benign/benign (6)"] == group["malignant/malignant (5)"]
    assert len(set(group.values())) == 12
    assert any("3 image(s) that are near-duplicates" in note and "in 1 group(s)" in note for note in items.notes)


def test_a_file_that_cannot_be_read_is_a_group_of_its_own(tmp_path):
    busi_folder(tmp_path)
    (tmp_path / "normal" / "normal (4).png").write_bytes(b"")
    group = {item["case_id"]: item["group"] for item in image_list("busi", tmp_path)}
    assert group["normal/normal (4)"] == "normal/normal (4)"


@pytest.mark.parametrize("emptied", ["images", "folder"])
def test_a_class_without_images_is_refused(tmp_path, emptied):
    busi_folder(tmp_path)
    for path in (tmp_path / "normal").iterdir():
        if emptied == "folder" or "_mask" not in path.name:
            path.unlink()
    if emptied == "folder":
        (tmp_path / "normal").rmdir()
    with pytest.raises(DataError, match="normal") as caught:
        image_list("busi", tmp_path)
    assert "malignant (1).png" in str(caught.value)


def test_another_folder_is_refused_with_what_is_there(tmp_path):
    busi_folder(tmp_path / "Dataset_BUSI_with_GT")
    with pytest.raises(DataError, match="Found: Dataset_BUSI_with_GT/"):
        image_list("busi", tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        image_list("busi", tmp_path / "none")


def test_an_unknown_kind_or_option_is_refused(tmp_path):
    with pytest.raises(OptionError, match="Did you mean busi"):
        image_list("bus", tmp_path)
    with pytest.raises(OptionError, match="no option one_numbering"):
        image_list("busi", busi_folder(tmp_path), one_numbering=True)


def test_the_hash_is_that_of_the_view_not_of_size_or_brightness():
    assert perceptual_hash(grey(1)).shape == (BITS,)
    assert distance(grey(1), grey(1, (96, 128))) <= 20
    assert distance(grey(1), 0.2 + 0.5 * grey(1)) <= 4
    assert min(distance(grey(1), grey(n)) for n in range(2, 30)) > 76
    assert distance(grey(1), grey(1)[:, ::-1]) > 76


def test_near_pairs_are_those_of_a_slow_comparison_across_blocks(monkeypatch):
    monkeypatch.setattr("metalr_monai.data.near_duplicates.ROWS", 7)
    draw = np.random.default_rng(0)
    hashes = list(draw.random((20, BITS)) > 0.5)
    hashes += [one ^ (draw.random(BITS) < 0.1) for one in hashes[:8]]
    slow = [(i, j) for j in range(28) for i in range(j) if (hashes[i] != hashes[j]).sum() <= 40]
    assert len(slow) == 8
    assert sorted(near_pairs(hashes, 40)) == sorted(slow)
    assert list(near_pairs([], 40)) == []


def test_chains_of_near_duplicates_are_one_cluster():
    zero = np.zeros(BITS, bool)
    chain = [zero.copy() for _ in range(3)]
    chain[1][:10], chain[2][:20] = True, True
    numbers = clusters([chain[0], None, chain[2], chain[1], ~zero], 10)
    assert numbers[0] == numbers[2] == numbers[3]
    assert len(set(numbers)) == 3


@pytest.mark.skipif(not BUSI.is_dir(), reason="the published BUSI images are not here")
def test_the_published_images_are_780_in_groups_of_which_8_are_in_two_classes():
    items = image_list("busi", BUSI)
    assert Counter(item["class_name"] for item in items) == {"benign": 437, "malignant": 210, "normal": 133}
    groups = Counter(item["group"] for item in items)
    assert 580 <= len(groups) <= 610  # an audit found 235 duplicates
    assert max(groups.values()) <= 10
    classes = {(item["group"], item["class_name"]) for item in items}
    assert len(classes) - len(groups) == 8  # as the audit found
