"""Which pictures of a folder or a list are predicted, and what they are called."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pictures import busi_folder, save

from metalr_monai import Pictures, image_list
from metalr_monai.errors import DataError


def names(source: object) -> list[str]:
    return [item["case_id"] for item in Pictures(source).items]


def test_cases_are_called_as_the_data_sets_reader_calls_them(tmp_path: Path) -> None:
    busi_folder(tmp_path)  # with a mask beside each picture
    assert sorted(names(tmp_path)) == sorted(item["case_id"] for item in image_list("busi", tmp_path))
    assert {item["image"] for item in Pictures(tmp_path).items} == {i["image"] for i in image_list("busi", tmp_path)}


def test_masks_are_passed_over_and_counted_only_beside_their_pictures(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, name in enumerate(("a.png", "a_mask.png", "a_MASK_2.png", "face_mask.png", "b/a_mask.jpg")):
        save(tmp_path / name, number)
    with caplog.at_level(logging.INFO):
        assert names(tmp_path) == ["a", "b/a_mask", "face_mask"]
    assert "2 mask(s) beside their pictures are passed over" in caplog.text


def test_only_pictures_that_show_are_taken_in_natural_order(tmp_path: Path) -> None:
    for number, name in enumerate(("10.png", "9.JPG", ".hidden.png", ".trash/1.png")):
        save(tmp_path / name, number)
    (tmp_path / "notes.txt").touch()
    assert names(tmp_path) == ["9", "10"]


def test_names_that_differ_in_the_suffix_alone_keep_it(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "a.jpg", "b.png")):
        save(tmp_path / name, number)
    assert names(tmp_path) == ["a.jpg", "a.png", "b"]


def test_a_list_is_named_from_the_folder_in_common(tmp_path: Path) -> None:
    files = [save(tmp_path / name, number) for number, name in enumerate(("x/1/a.png", "x/2/a.png", "x/2/a_mask.png"))]
    assert names(files) == ["1/a", "2/a", "2/a_mask"]
    assert names(str(files[0])) == names(files[:1]) == ["a"]


def test_what_is_no_source_of_pictures_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", 1)
    (tmp_path / "empty").mkdir()
    for source, says in (
        (tmp_path / "nowhere", "There is no "),
        ([file, tmp_path / "nowhere"], "nowhere; expected the folder of the pictures"),
        (tmp_path / "empty", "there are no pictures in this folder or below it"),
        ([], "The list of pictures is empty"),
        ([file, tmp_path / "empty"], "has folders in it"),
        ([file, file], "1 picture(s) are there more than once: a.png"),
    ):
        with pytest.raises(DataError) as caught:
            names(source)
        assert says in str(caught.value)
