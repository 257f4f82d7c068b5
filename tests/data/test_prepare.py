"""Phantoms where there is no data, and a split written with the run."""

from __future__ import annotations

import json

import pytest

from metalr_monai import (
    DataCheck,
    apply_group_split,
    image_list,
    make_group_split,
    phantom_data_set,
    phantom_image_set,
    split_data_list,
    split_image_list,
    write_split,
)
from metalr_monai.errors import DataError


def test_phantoms_are_written_once_and_split_into_disjoint_parts(tmp_path):
    folder = phantom_data_set(tmp_path / "bundle" / "phantoms", 7)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bundle/phantoms").iterdir()}
    assert phantom_data_set(folder, 7) == folder
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "bundle/phantoms").iterdir()} == before
    assert [p.name for p in (tmp_path / "bundle").iterdir()] == ["phantoms"]

    parts = split_data_list("lits", folder, "paper", 0, tmp_path / "run")
    train, test = ({item["case_id"] for item in parts[part]} for part in ("train", "test"))
    assert len(train | test) == 7 and not train & test and parts["meta"] == []
    saved = json.loads((tmp_path / "run/split.json").read_text())
    assert set(saved["train"]) == train and set(saved["test"]) == test and saved["scheme"] == "paper"


def test_another_number_of_phantoms_is_not_taken_silently(tmp_path):
    phantom_data_set(tmp_path / "phantoms", 3)
    with pytest.raises(DataError, match=r"has 3 phantoms, not 131. Remove the folder, or set phantoms=3"):
        phantom_data_set(tmp_path / "phantoms", 131)


def test_a_folder_that_could_not_be_finished_is_not_left_behind(tmp_path, monkeypatch):
    def fail(folder, count, seed):
        folder.mkdir()
        (folder / "volume-0.nii.gz").write_bytes(b"")
        raise OSError("no space left on device")

    monkeypatch.setattr("metalr_monai.data.prepare.write_lits_phantoms", fail)
    with pytest.raises(OSError, match="no space left"):
        phantom_data_set(tmp_path / "phantoms", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_split_file_is_taken_as_it_is(tmp_path):
    folder = phantom_data_set(tmp_path / "phantoms", 4)
    (tmp_path / "mine.json").write_text('{"train": ["volume-0", "volume-3"], "test": ["volume-1"]}')
    parts = split_data_list("lits", folder, str(tmp_path / "mine.json"), 0, tmp_path / "run")
    assert [item["case_id"] for item in parts["train"]] == ["volume-0", "volume-3"]
    assert [item["case_id"] for item in parts["test"]] == ["volume-1"]


def test_a_share_of_the_training_cases_validates_where_the_split_names_none(tmp_path):
    folder = phantom_data_set(tmp_path / "phantoms", 6)
    whole = split_data_list("lits", folder, "fold 1 of 3", 0, tmp_path / "whole")
    parts = split_data_list("lits", folder, "fold 1 of 3", 0, tmp_path / "run", validation=0.25)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [3, 1, 2]
    assert parts["test"] == whole["test"]
    assert sorted(item["case_id"] for item in parts["train"] + parts["validation"]) == sorted(
        item["case_id"] for item in whole["train"]
    )
    (tmp_path / "mine.json").write_text(
        '{"train": ["volume-0", "volume-3"], "validation": ["volume-2"], "test": ["volume-1"]}'
    )
    named = split_data_list("lits", folder, str(tmp_path / "mine.json"), 0, tmp_path / "run", validation=0.5)
    assert [item["case_id"] for item in named["validation"]] == ["volume-2"]


def test_data_that_are_refused_leave_the_last_split_as_it_was(tmp_path):
    folder = phantom_data_set(tmp_path / "phantoms", 3)
    check = DataCheck(
        "headers", regions={"liver": [1, 2]}, hu_window=[-1000, 1000], spacing=[6, 6, 6], patch_size=[8, 8, 8]
    )
    split_data_list("lits", folder, "paper", 0, tmp_path / "run", check)
    before = (tmp_path / "run/split.json").read_text()
    (tmp_path / "phantoms/volume-1.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"volume-1: the header cannot be read: .*volume-1.nii.gz"):
        split_data_list("lits", folder, "paper", 1, tmp_path / "run", check)
    assert (tmp_path / "run/split.json").read_text() == before


def test_a_share_of_the_training_images_validates_in_whole_groups_where_a_split_file_names_none(tmp_path):
    folder = phantom_image_set("pocus", tmp_path / "frames", 4)
    videos = {item["group"] for item in image_list("pocus", folder)}
    assert len(videos) == 12
    split = make_group_split(image_list("pocus", folder), "fold 1 of 4")
    write_split(split, tmp_path / "mine.json")
    parts = split_image_list("pocus", folder, str(tmp_path / "mine.json"), 0, tmp_path / "run", validation=0.34)
    groups = {name: {item["group"] for item in parts[name]} for name in ("train", "validation", "test")}
    assert [len(groups[name]) for name in ("train", "validation", "test")] == [6, 3, 3]
    assert not groups["train"] & groups["validation"]
    assert groups["test"] == {item["group"] for item in apply_group_split(image_list("pocus", folder), split)["test"]}
