"""What a check has passed is not read again until its files change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metalr_monai.data.check_memory import CheckMemory
from metalr_monai.data.check_report import CaseReport
from metalr_monai.data.check_volumes import check_volumes

SETTINGS = {"labels": [0, 1]}


def case(folder, name):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 2:4, 1:3] = name != "empty"
    item = {"case_id": name}
    for key, content in (("image", voxels), ("label", label)):
        item[key] = str(folder / f"{name}_{key}.nii")
        nib.save(nib.Nifti1Image(content, np.diag([0.8, 0.7, 2.5, 1])), item[key])
    return item


def check(memory_file, *items, settings=SETTINGS):
    memory = CheckMemory(memory_file, settings)
    return check_volumes(items, voxels=True, labels=(0, 1), memory=memory, progress=False)


def spoil_unseen(file):
    """Put an unknown label into a file whose size and time stay: only reading it could tell."""
    path, stat = Path(file), os.stat(file)
    content = bytearray(path.read_bytes())
    content[-1] = 7
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.fixture
def memory_file(tmp_path):
    return tmp_path / "run/data_check.json"


def test_a_case_that_passed_is_not_read_again_and_gives_the_same_report(tmp_path, memory_file):
    items = [case(tmp_path, "a"), case(tmp_path, "empty")]
    first = check(memory_file, *items)
    assert [problem.kind for problem in first.problems] == ["warning"]
    spoil_unseen(items[0]["label"])
    assert check(memory_file, *items) == first
    assert [path.name for path in memory_file.parent.iterdir()] == [memory_file.name]


@pytest.mark.parametrize("change", ["time", "size", "path", "settings"])
def test_what_changed_is_read_again(tmp_path, memory_file, change):
    item, settings = case(tmp_path, "a"), SETTINGS
    check(memory_file, item)
    spoil_unseen(item["label"])
    if change == "time":
        os.utime(item["label"], ns=(0, 0))
    elif change == "size":
        stat = os.stat(item["label"])
        with open(item["label"], "ab") as file:
            file.write(b"\0")
        os.utime(item["label"], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "path":
        item["label"] = str(Path(item["label"]).rename(tmp_path / "other.nii"))
    else:
        settings = {"labels": [0, 1, 2]}
    assert not check(memory_file, item, settings=settings).ok


def test_errors_are_not_remembered_and_cost_the_good_cases_nothing(tmp_path, memory_file):
    good, bad = case(tmp_path, "good"), case(tmp_path, "bad")
    spoil_unseen(bad["label"])
    assert not check(memory_file, good, bad).ok
    assert list(json.loads(memory_file.read_text())["cases"]) == ["good"]
    assert not check(memory_file, good, bad).ok


def test_a_case_that_turned_bad_is_forgotten(tmp_path, memory_file):
    item = case(tmp_path, "a")
    check(memory_file, item)
    spoil_unseen(item["label"])
    os.utime(item["label"], ns=(0, 0))
    check(memory_file, item)
    assert json.loads(memory_file.read_text())["cases"] == {}


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', "{", '{"version": 1, "settings": {}, "cases": 3}'])
def test_a_damaged_memory_is_begun_anew(tmp_path, memory_file, content):
    item = case(tmp_path, "a")
    memory_file.parent.mkdir()
    memory_file.write_text(content)
    assert check(memory_file, item, settings={}).ok
    assert list(json.loads(memory_file.read_text())["cases"]) == ["a"]


def test_a_damaged_case_is_read_again(tmp_path, memory_file):
    item = case(tmp_path, "a")
    first = check(memory_file, item)
    content = json.loads(memory_file.read_text())
    del content["cases"]["a"]["volume"]["shape"]
    memory_file.write_text(json.dumps(content))
    assert check(memory_file, item) == first


def test_a_full_disk_leaves_the_memory_whole(tmp_path, memory_file, monkeypatch):
    first, second = case(tmp_path, "a"), case(tmp_path, "b")
    check(memory_file, first)
    before = memory_file.read_bytes()
    write = Path.write_text

    def fail(path, text, **settings):
        write(path, text[: len(text) // 2], **settings)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*data_check.json"):
        check(memory_file, first, second)
    assert memory_file.read_bytes() == before
    assert list(memory_file.parent.iterdir()) == [memory_file]


def test_a_folder_of_slices_is_read_again_when_one_of_them_changes(tmp_path, memory_file):
    item = {"case_id": "a", "image": str(tmp_path / "series")}
    (tmp_path / "series").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "series" / name).write_bytes(b"slice")
    memory = CheckMemory(memory_file, SETTINGS)
    memory.keep(CaseReport("a", [], None), item)
    assert memory.recall("a", item) == CaseReport("a", [], None)
    os.utime(tmp_path / "series/1.dcm", ns=(0, 0))
    assert memory.recall("a", item) is None
