"""The check of small pictures, each with one fault, and of the published ones."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from pictures import BUSI, CHEST_XRAY, blobs, busi_folder, chest_folder, save
from PIL import Image
from problems import only

from metalr_monai.__main__ import main
from metalr_monai.data.check_images import check_images
from metalr_monai.data.image_lists import image_list
from metalr_monai.errors import DataError


def items_of(folder, files, **more):
    """An item a file, each a group of its own."""
    return [
        {"image": str(folder / file), "class_name": "a", "label": 0, "group": file, "case_id": file, **more}
        for file in files
    ]


def check(items, **settings):
    return check_images(items, progress=False, **settings)


def test_a_faultless_folder_has_counts_and_no_problems(tmp_path):
    report = check(image_list("busi", busi_folder(tmp_path)))
    assert report.ok
    assert report.problems == []
    assert report.parts == {"all": {"benign": 5, "malignant": 4, "normal": 3}}
    found = report.to_dict()
    assert found["groups"] == {"count": 12, "largest": 1, "of_several": 0, "images_in_those": 0}
    assert (found["columns"], found["rows"], found["modes"]) == ([64] * 3, [48] * 3, {"L": 12})
    assert json.loads(json.dumps(found)) == found
    assert "12 image(s) decoded: 0 error(s), 0 warning(s)" in str(report)
    assert "benign: 5, malignant: 4, normal: 3" in str(report)
    report.raise_if_bad()


def write_empty(path):
    path.write_bytes(b"")


def write_text(path):
    path.write_bytes(b"<html>not found</html>")


def write_half(path):
    whole = save(path, 1).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (lambda path: None, "error", "missing"),
        (write_empty, "error", "0 bytes"),
        (write_text, "error", "cannot be read"),
        (write_half, "error", "cannot be read"),
        (lambda path: save(path, np.full((48, 64), 51, np.uint8)), "error", "constant: every pixel is 0.2"),
        (lambda path: save(path, (blobs(1) > 100).astype(np.uint8) * 7), "error", "two values alone"),
        (lambda path: save(path, (blobs(1) > 100).astype(np.uint8) * 255, "1"), "error", "is it a mask?"),
        (lambda path: save(path, blobs(1, (31, 64))), "warning", "64×31 pixels, less than 32"),
    ],
)
def test_a_fault_of_a_file_is_named_with_it(tmp_path, write, kind, words):
    write(tmp_path / "x.png")
    save(tmp_path / "good.png", 2)
    problem = only(check(items_of(tmp_path, ["x.png", "good.png"])), kind, words)
    assert problem.case_id == "x.png"
    assert problem.file == str(tmp_path / "x.png")


def test_a_mask_is_told_by_its_name_too(tmp_path):
    save(tmp_path / "x_mask_1.png", 1)
    only(check(items_of(tmp_path, ["x_mask_1.png"])), "error", "a mask, by its name")


def test_all_faults_are_found_at_once(tmp_path):
    write_empty(tmp_path / "a.png")
    write_text(tmp_path / "b.png")
    save(tmp_path / "c.png", 1)
    report = check(items_of(tmp_path, ["a.png", "b.png", "c.png"]))
    assert [problem.case_id for problem in report.problems] == ["a.png", "b.png"]
    with pytest.raises(DataError, match=r"2 error\(s\) in 3 image\(s\)") as caught:
        report.raise_if_bad()
    assert "a.png" in str(caught.value) and "b.png" in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "name"), [("RGBA", "RGBA with transparency"), ("P", "P"), ("CMYK", "CMYK"), ("I;16", "I;16")]
)
def test_pictures_that_will_be_converted_are_noted(tmp_path, mode, name):
    pixels = blobs(1).astype(np.uint16) * 200 if mode == "I;16" else np.dstack([blobs(n) for n in range(3)])
    file = "x.jpg" if mode == "CMYK" else "x.png"
    save(tmp_path / file, pixels, None if mode == "I;16" else mode)
    report = check(items_of(tmp_path, [file]))
    assert report.problems == []
    assert report.notes == [f"1 picture(s) of mode {name} will be converted: {file}"]


def test_the_same_pixels_in_two_groups_are_a_warning_and_in_one_a_note(tmp_path):
    save(tmp_path / "a.png", 1)
    save(tmp_path / "b.bmp", 1)
    items = items_of(tmp_path, ["a.png", "b.bmp"])
    for near in (None, 24):  # not told twice
        only(
            check(items, near=near),
            "warning",
            "the same picture in two groups that a split may part: a.png (group a.png)",
        )
    items[1]["class_name"] = "b"
    only(check(items), "warning", "in 2 classes; is a label wrong?")
    items[1].update(group="a.png", class_name="a")
    report = check(items)
    assert report.problems == []
    assert report.notes == ["1 picture(s) are there again in their own group: b.bmp"]


def test_nearly_the_same_picture_in_two_groups_is_a_warning_at_the_distance_asked_for(tmp_path):
    save(tmp_path / "a.png", 1)
    Image.fromarray(blobs(1)).resize((90, 70)).save(tmp_path / "b.png")
    save(tmp_path / "c.png", 3)
    items = items_of(tmp_path, ["a.png", "b.png", "c.png"])
    assert check(items).problems == []
    problem = only(check(items, near=24), "warning", "nearly the same picture in two groups", "b.png")
    assert problem.case_id == "a.png"


def test_a_group_in_two_classes_is_a_warning(tmp_path):
    for n, name in enumerate("ab"):
        save(tmp_path / f"{name}.png", n)
    items = items_of(tmp_path, ["a.png", "b.png"], group="g")
    items[1]["class_name"] = "b"
    only(check(items), "warning", "one group in 2 classes; is a label wrong? a: a.png; b: b.png")


def test_a_list_that_is_empty_or_repeats_itself_is_an_error(tmp_path):
    only(check([]), "error", "empty")
    save(tmp_path / "a.png", 1)
    twice = check(items_of(tmp_path, ["a.png", "a.png"]))
    told = [problem.message for problem in twice.problems]
    assert told == ["the case is listed 2 times", "the file is listed 2 times"]


def test_a_class_that_lost_its_images_is_an_error(tmp_path):
    items = image_list("busi", busi_folder(tmp_path))
    items[:] = [item for item in items if item["class_name"] != "normal"]
    only(check(items), "error", "the class normal has no images")


def test_the_command_line_checks_images_of_every_kind(tmp_path, capsys):
    busi_folder(tmp_path / "busi")
    chest_folder(tmp_path / "chest")
    for n, prefix in enumerate(("Cov-a.gif_frame0", "Pneu-b.gif_frame0", "Reg-c.gif_frame0")):
        save(tmp_path / "pocus" / f"{prefix}.jpg", n)
    for kind, folder, count in (("busi", "busi", 12), ("chest_xray", "chest", 12), ("pocus", "pocus", 3)):
        assert main(["check-data", kind, str(tmp_path / folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["ok"], found["cases"]) == (True, count)
    (tmp_path / "busi/benign/benign (2).png").write_bytes(b"")
    assert main(["check-data", "busi", str(tmp_path / "busi")]) == 2
    assert "benign (2).png" in capsys.readouterr().out
    assert main(["check-data", "busi", str(tmp_path / "busi"), "--labels", "0,1"]) == 2
    assert "--labels is for masks of CT" in capsys.readouterr().err
    assert main(["check-data", "bussi", str(tmp_path)]) == 2
    assert "Did you mean busi?" in capsys.readouterr().err


@pytest.mark.skipif(not BUSI.is_dir(), reason="the published BUSI images are not here")
def test_the_published_breast_images_have_8_warnings_of_lesions_in_two_classes():
    report = check(image_list("busi", BUSI))
    assert report.n_cases == 780
    assert report.ok
    assert [problem.kind for problem in report.problems] == ["warning"] * 8
    assert all("one group in 2 classes" in problem.message for problem in report.problems)


@pytest.mark.skipif(not CHEST_XRAY.is_dir(), reason="the published chest X-rays are not here")
def test_the_published_chest_x_rays_pass_within_a_minute():
    start = time.monotonic()
    report = check(image_list("chest_xray", CHEST_XRAY))
    assert time.monotonic() - start < 60
    assert report.ok
    assert sum(count for part in report.parts.values() for count in part.values()) == 5840
    problem = only(report, "warning", "the same picture in two groups")
    assert "IM-0095" in problem.message and "IM-0096" in problem.message
