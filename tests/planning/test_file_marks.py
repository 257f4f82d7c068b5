"""Marks of small data sets: what counts as a change, and what does not."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_writer import UID, turned, write_series

from metalr_monai import data_list
from metalr_monai.errors import DataError
from metalr_monai.planning.file_marks import case_files, changed, labelled_files, mark, marks_of, refuse_changed


@pytest.fixture
def items(tmp_path):
    return pairs(tmp_path / "data")


def pairs(root, cases=("a", "b", "c")):
    for k, case in enumerate(cases):
        for name in ("image", "label"):
            (root / case).mkdir(parents=True, exist_ok=True)
            array = np.full((4, 5, 6), k, np.int16)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / case / f"{name}.nii.gz")
    return data_list("pairs", root)


def touch(path):
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))


def refused(items, marks):
    with pytest.raises(DataError) as caught:
        refuse_changed(items, marks, "work/plan.json")
    message = str(caught.value)
    assert "work/plan.json" in message and "Restore the data, or plan again" in message
    return message


# --- one file, one series ---


def test_a_mark_holds_hash_size_and_time(tmp_path):
    file = tmp_path / "x.nii"
    file.write_bytes(content := bytes(range(256)) * 20_000)  # several chunks
    stat = file.stat()
    assert mark(file) == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "mtime_ns": stat.st_mtime_ns,
    }


def test_another_content_of_the_same_size_is_a_change_and_a_touch_is_none(tmp_path):
    file = tmp_path / "x.nii"
    file.write_bytes(b"abc")
    known = mark(file)
    assert not changed(file, known)
    touch(file)
    assert not changed(file, known)
    file.write_bytes(b"abd")
    touch(file)
    assert changed(file, known)
    file.write_bytes(b"abcd")
    assert changed(file, known)


def test_a_file_of_the_same_size_and_time_is_not_read_again(tmp_path):
    file = tmp_path / "x.nii"
    file.write_bytes(b"abc")
    assert not changed(file, {**mark(file), "sha256": "another"})


def test_a_series_changes_with_any_of_its_files(tmp_path):
    files = write_series(tmp_path, np.zeros((4, 4, 5)), turned((1, 1, 2)))
    known = mark(tmp_path)
    assert known["size"] == sum(file.stat().st_size for file in files)
    assert mark(tmp_path / f"{UID}.1") == known
    joined = b"".join(file.read_bytes() for file in sorted(files))
    assert known["sha256"] == hashlib.sha256(joined).hexdigest()
    (tmp_path / ".hidden").write_bytes(b"by the file manager")
    (tmp_path / "notes.txt").write_bytes(b"no DICOM")
    touch(files[1])
    assert not changed(tmp_path, known)
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    assert changed(tmp_path, known)
    files[0].write_bytes(first)
    files[1].write_bytes(second)
    assert not changed(tmp_path, known)
    files[2].unlink()
    assert changed(tmp_path, known)


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    for call in (mark, lambda path: changed(path, {"size": 1, "mtime_ns": 1, "sha256": ""})):
        with pytest.raises(DataError, match=r"gone\.nii cannot be read: No such file"):
            call(tmp_path / "gone.nii")


# --- a data list ---


def test_marks_are_by_case_and_plain_values(items):
    found = marks_of(items, progress=False)
    assert json.loads(json.dumps(found)) == found
    assert found == {item["case_id"]: {key: mark(item[key]) for key in ("image", "label")} for item in items}


def test_images_alone_have_no_mark_of_a_label(items):
    del items[0]["label"]
    assert list(marks_of(items, progress=False)["a"]) == ["image"]


def test_what_was_not_changed_passes_wherever_it_lies(items, tmp_path):
    marks = marks_of(items, progress=False)
    for item in items:
        refuse_changed([*items], marks, "plan.json")
        os.utime(item["image"])
    refuse_changed(items[::-1], json.loads(json.dumps(marks)), "plan.json")
    (tmp_path / "data").rename(tmp_path / "moved")
    refuse_changed(data_list("pairs", tmp_path / "moved"), marks, "plan.json")


def test_new_missing_and_changed_cases_are_told_at_once(items, tmp_path):
    marks = marks_of(items, progress=False)
    (tmp_path / "data" / "a").rename(tmp_path / "data" / "z")
    for file in (tmp_path / "data" / "b").iterdir():
        nib.save(nib.Nifti1Image(np.ones((4, 5, 7), np.int16), np.eye(4)), file)
    label = tmp_path / "data" / "c" / "label.nii.gz"
    label.write_bytes(label.read_bytes()[:-1] + b"x")
    touch(label)
    told = refused(data_list("pairs", tmp_path / "data"), marks)
    assert "Of its 3 case(s): 1 new: z; 1 missing: a; 2 changed: b (image and label), c (label)." in told


def test_only_the_first_few_cases_are_named(items, tmp_path):
    marks = marks_of(items, progress=False)
    told = refused(pairs(tmp_path / "data", [f"n{k}" for k in range(8)]), marks)
    assert "8 new: n0, n1, n2, n3, n4 and 3 more" in told


def test_a_file_or_a_label_that_went_or_came_is_a_change(items):
    marks = marks_of(items, progress=False)
    os.unlink(items[0]["image"])
    assert "1 changed: a (image)" in refused(items, marks)
    del items[0], items[0]["label"]
    assert "1 missing: a; 1 changed: b (label)" in refused(items, marks)
    bare = {**marks, "c": {"image": marks["c"]["image"]}}
    assert "c (label)" in refused(items, bare)


@pytest.mark.parametrize("odd", [None, {}, {"image": None}, {"image": {"sha256": "x"}}])
def test_marks_that_are_none_are_named(items, odd):
    marks = {**marks_of(items, progress=False), "b": odd}
    with pytest.raises(DataError, match=r"plan\.json has no marks of the case b"):
        refuse_changed(items, marks, "plan.json")


def test_cases_are_looked_at_in_threads_with_a_bar(items, capsys):
    marks = marks_of(items, workers=2)
    refuse_changed(items, marks, "plan.json", workers=2, progress=True)
    shown = capsys.readouterr()
    assert "hash" in shown.err and "compare" in shown.err and not shown.out


# --- files of a data list ---


def test_files_are_listed_by_case(items):
    assert case_files(items) == labelled_files(items)
    assert list(case_files(items)) == ["a", "b", "c"]
    assert case_files(items)["b"] == {key: Path(items[1][key]) for key in ("image", "label")}


def test_lists_that_are_no_ct_are_refused_by_name(items):
    for odd, words in (
        ([], "empty"),
        ([*items, items[1]], "twice: b"),
        ([{**items[0], "image": []}, items[1]], r"a \(0\)"),
        ([{**items[0], "image": ["x", "y"]}, items[1]], r"a \(2\)"),
    ):
        with pytest.raises(DataError, match=words):
            case_files(odd)
    with pytest.raises(DataError, match=r"1 of 2 cases have no label: a\."):
        labelled_files([{**items[0], "label": None}, items[1]])
