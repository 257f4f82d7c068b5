"""The check of small NIfTI files, each with one fault."""

from __future__ import annotations

import io
import json
import logging
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from problems import only

from metalr_monai.data.check_volumes import check_volumes
from metalr_monai.data.ct_lists import data_list
from metalr_monai.errors import DataError

DATA = Path(__file__).parents[2] / "../shared/data/ct_liver"
SHAPE = (12, 11, 10)
AFFINE = np.diag([-0.8, -0.8, 2.5, 1.0])


def ct(dtype=np.int16):
    """Noise between air and bone, HU."""
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(dtype)


def mask():
    """60 voxels of class 1 and 8 of class 2; 1.6 mm³ each."""
    label = np.zeros(SHAPE, np.uint8)
    label[2:7, 2:6, 2:5] = 1
    label[8:10, 8:10, 7:9] = 2
    return label


def save(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


def case(folder, name="a", image=None, label=None, image_affine=AFFINE, label_affine=AFFINE):
    return {
        "image": save(folder / f"{name}_image.nii.gz", ct() if image is None else image, image_affine),
        "label": save(folder / f"{name}_label.nii.gz", mask() if label is None else label, label_affine),
        "case_id": name,
    }


def check(*items, voxels=True, **settings):
    return check_volumes(items, voxels=voxels, progress=False, **settings)


@pytest.mark.parametrize("voxels", [False, True])
def test_a_good_case_has_no_problems(tmp_path, voxels):
    report = check(case(tmp_path), voxels=voxels)
    assert report.ok
    assert report.problems == []
    report.raise_if_bad()


def test_the_summary_tells_sizes_orientation_and_label_volumes(tmp_path):
    report = check(case(tmp_path, "a"), case(tmp_path, "b", image_affine=np.eye(4), label_affine=np.eye(4)))
    a, b = report.volumes
    assert (a.shape, a.orientation, b.orientation) == (SHAPE, "LPS", "RAS")
    assert a.spacing == pytest.approx((0.8, 0.8, 2.5))
    assert a.label_ml == pytest.approx({1: 60 * 1.6e-3, 2: 8 * 1.6e-3})
    assert b.label_ml == pytest.approx({1: 0.060, 2: 0.008})
    text = str(report)
    assert "2 case(s), headers and voxels read: 0 error(s), 0 warning(s)" in text
    assert "LPS: 1, RAS: 1" in text
    assert "label 2       0.008, 0.0128, 0.0128 ml in 2 case(s)" in text


def test_label_volumes_are_not_known_from_headers(tmp_path):
    assert check(case(tmp_path), voxels=False).volumes[0].label_ml is None


def test_a_missing_file_is_named(tmp_path):
    item = case(tmp_path) | {"label": str(tmp_path / "nowhere.nii.gz")}
    assert only(check(item), "error", "missing").file.endswith("nowhere.nii.gz")


def test_an_item_without_image_is_an_error(tmp_path):
    only(check({"case_id": "a"}), "error", 'no "image"')


def test_an_empty_list_is_not_ok():
    only(check(), "error", "the list of cases is empty")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b"])
def test_a_file_that_is_no_nifti_is_found_by_its_header(tmp_path, content):
    item = case(tmp_path)
    Path(item["image"]).write_bytes(content)
    problem = only(check(item, voxels=False), "error", "header cannot be read")
    assert problem.file == item["image"]


def test_another_format_is_refused(tmp_path):
    item = case(tmp_path)
    item["image"] = str(tmp_path / "image.mgz")
    nib.save(nib.MGHImage(ct(np.float32), AFFINE), item["image"])
    only(check(item), "error", "MGHImage; expected NIfTI")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no end"])
def test_damaged_gzip_is_found_when_voxels_are_read(tmp_path, damage):
    item = case(tmp_path)
    content = bytearray(Path(item["image"]).read_bytes())
    if damage == "flipped":
        content[-100] ^= 0xFF
    else:
        content = content[: len(content) // 2] if damage == "truncated" else content[:-4]
    Path(item["image"]).write_bytes(content)
    assert check(item, voxels=False).ok
    only(check(item), "error", "voxels cannot be read")


def test_a_truncated_plain_file_is_found_when_voxels_are_read(tmp_path):
    path = save(tmp_path / "a.nii", ct())
    Path(path).write_bytes(Path(path).read_bytes()[:-10])
    only(check({"image": path, "case_id": "a"}), "error", "voxels cannot be read")


def test_a_header_that_asks_for_terabytes_is_an_error(tmp_path):
    path = Path(save(tmp_path / "a.nii", ct()))
    content = bytearray(path.read_bytes())
    content[40:48] = struct.pack("<4h", 3, 30000, 30000, 30000)
    path.write_bytes(content)
    only(check({"image": str(path), "case_id": "a"}), "error", "voxels cannot be read")


@pytest.mark.parametrize(
    ("shape", "words"),
    [((12, 11), "2D image of 12×11"), ((12, 11, 1), "single slice"), ((12, 11, 10, 2), "4D image of 12×11×10×2")],
)
def test_only_3d_volumes_pass(tmp_path, shape, words):
    voxels = np.resize(ct(), shape)
    path = save(tmp_path / "a.nii.gz", voxels)
    only(check({"image": path, "case_id": "a"}), "error", words)


def test_colour_is_refused(tmp_path):
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    only(check(case(tmp_path, image=rgb)), "error", "colour (RGB)")


def test_other_shapes_of_image_and_label_are_an_error(tmp_path):
    report = check(case(tmp_path, label=mask()[:, :, :-1]), voxels=False)
    assert only(report, "error", "12×11×9", "12×11×10").file.endswith("label.nii.gz")


@pytest.mark.parametrize("change", ["shift", "flip", "scale"])
def test_other_places_of_image_and_label_are_an_error(tmp_path, change):
    affine = AFFINE.copy()
    if change == "shift":
        affine[0, 3] = 0.1
    elif change == "flip":
        affine[0, 0] *= -1
    else:
        affine[2, 2] *= 1.01
    report = check(case(tmp_path, label_affine=affine), voxels=False)
    only(
        report, "error", "its affine puts a corner", {"shift": "0.1 mm", "flip": "17.6 mm", "scale": "0.225 mm"}[change]
    )


def test_the_rounding_of_headers_is_no_error(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] += 1e-4
    assert check(case(tmp_path, label_affine=affine), voxels=False).problems == []


def test_channels_must_lie_on_one_grid(tmp_path):
    first, second = case(tmp_path, "a"), case(tmp_path, "b", image=ct()[1:])
    item = first | {"image": [first["image"], second["image"]]}
    assert only(check(item), "error", "11×11×10").file == second["image"]


def test_unknown_label_values_are_counted(tmp_path):
    label = mask().astype(np.float32)
    label[0, 0, :3] = 7
    label[0, 1, :2] = 0.5
    only(check(case(tmp_path, label=label)), "error", "0.5 (2 voxels), 7 (3 voxels)", "known are 0, 1, 2")


def test_the_known_labels_can_be_given(tmp_path):
    only(check(case(tmp_path), labels=(0, 1)), "error", "2 (8 voxels)")


def test_an_empty_label_among_others_is_a_warning(tmp_path):
    empty = case(tmp_path, label=np.zeros(SHAPE, np.uint8))
    assert only(check(empty, case(tmp_path, "b")), "warning", "the label is empty").file == empty["label"]


def test_empty_labels_alone_are_an_error(tmp_path):
    report = check(*(case(tmp_path, name, label=np.zeros(SHAPE, np.uint8)) for name in "ab"))
    assert [problem.kind for problem in report.problems] == ["error", "warning", "warning"]
    assert report.problems[0].message == "every label is empty, so there is nothing to learn"


def test_a_label_of_unknown_values_is_not_called_empty(tmp_path):
    only(check(case(tmp_path, label=np.full(SHAPE, 255, np.uint8))), "error", "unknown label values 255")


def test_the_clipped_share_is_told_below_and_above(tmp_path):
    image = np.repeat(np.int16([-1001, -1000, 0, 1000, 1001]), 264).reshape(SHAPE)
    report = check(case(tmp_path, image=image))
    assert report.problems == []
    assert report.volumes[0].clipped == (20.0, 20.0)
    assert "20, 20, 20 % of the voxels below the window of HU, 20, 20, 20 % above it" in str(report)
    assert check(case(tmp_path), voxels=False).volumes[0].clipped is None


def test_a_window_that_clips_most_of_the_body_is_a_warning_and_clipped_air_is_none(tmp_path):
    image = np.full(SHAPE, -1024, np.int16)
    image[:, :, :2] = 50
    assert check(case(tmp_path, image=image)).problems == []
    image[:, :, :1] = 1500
    image[0, 0, 0] = 1500
    assert check(case(tmp_path, image=image), hu_window=(-1000, 1500)).problems == []
    image[0, 0, 1] = 1500
    only(
        check(case(tmp_path, image=image)),
        "warning",
        "the window [-1000, 1000] HU clips 50.4 % of the voxels above -200",
    )


def test_voxels_that_are_not_finite_are_counted(tmp_path):
    image = ct(np.float32)
    image[0, 0, :3] = np.nan
    image[0, 1, 0] = np.inf
    only(check(case(tmp_path, image=image)), "error", "4 of 1320 voxels are NaN or Inf")
    only(check(case(tmp_path, image=np.full(SHAPE, np.nan, np.float32))), "error", "1320 of 1320")


def test_the_finite_voxels_are_checked_on(tmp_path):
    image = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    image[0, 0, 0] = np.nan
    report = check(case(tmp_path, image=image))
    assert [p.kind for p in report.problems] == ["error", "warning"]
    assert "maximum 1," in report.problems[1].message


def test_a_constant_volume_is_an_error(tmp_path):
    only(check(case(tmp_path, image=np.full(SHAPE, -1024, np.int16))), "error", "every voxel is -1024")


@pytest.mark.parametrize(
    ("low", "high", "guess"),
    [(0, 255, "8-bit"), (0, 2000, "shifted"), (-150, 250, "windowed")],
)
def test_intensities_unlike_hu_are_a_warning_with_figures(tmp_path, low, high, guess):
    image = np.linspace(low, high, np.prod(SHAPE)).reshape(SHAPE).round().astype(np.int16)
    first, last = np.percentile(image, [1, 99])
    figures = f"minimum {low}, maximum {high}, percentiles 1 and 99 {first:g} and {last:g}"
    only(check(case(tmp_path, image=image)), "warning", figures, guess)


@pytest.mark.parametrize("edge", [0.0, -2.0])
def test_spacing_that_nibabel_repairs_is_an_error_here(tmp_path, edge):
    item = case(tmp_path)
    path = Path(item["image"]).with_suffix("")  # .nii, whose header is plain
    save(path, ct())
    content = bytearray(path.read_bytes())
    content[84:88] = struct.pack("<f", edge)
    path.write_bytes(content)
    nibabel_says = io.StringIO()
    handler = logging.StreamHandler(nibabel_says)
    nib.imageglobals.logger.addHandler(handler)
    try:
        only(check(item | {"image": str(path)}), "error", f"the spacing 0.8×{edge:g}×2.5")
    finally:
        nib.imageglobals.logger.removeHandler(handler)
    assert nibabel_says.getvalue() == ""


def test_wide_spacing_is_a_warning(tmp_path):
    affine = np.diag([800.0, 800.0, 2500.0, 1.0])  # µm
    report = check(case(tmp_path, image_affine=affine, label_affine=affine), voxels=False)
    assert [(p.kind, "800×800×2500 mm" in p.message) for p in report.problems] == [("warning", True)] * 2


def test_a_header_without_orientation_is_a_warning(tmp_path):
    image = nib.Nifti1Image(ct(), None)
    nib.save(image, tmp_path / "a.nii.gz")
    only(check({"image": str(tmp_path / "a.nii.gz"), "case_id": "a"}), "warning", "no orientation")


def test_a_singular_affine_is_an_error(tmp_path):
    item = case(tmp_path)
    path = tmp_path / "singular.nii"
    save(path, ct())
    content = bytearray(path.read_bytes())
    content[312:328] = struct.pack("<4f", 0, 0, 0, 0)  # srow_z
    path.write_bytes(content)
    report = check(item | {"image": str(path)})
    only(report, "error", "singular")
    assert report.volumes == []


def test_cases_and_files_listed_twice_are_errors(tmp_path):
    a, b = case(tmp_path, "a"), case(tmp_path, "b")
    only(check(a, b | {"case_id": "a"}), "error", "listed 2 times")
    other_spelling = str(Path(a["image"]).parent / ".." / tmp_path.name / "a_image.nii.gz")
    only(check(a, b | {"image": other_spelling}), "error", "used 2 times: image of a, image of b")
    problems = check(a | {"label": a["image"]}, voxels=False).problems
    assert [p.message for p in problems] == ["the same file is used 2 times: image of a, label of a"]


def test_a_folder_without_a_dicom_series_is_an_error(tmp_path):
    (tmp_path / "series").mkdir()
    only(check({"image": str(tmp_path / "series"), "case_id": "a"}), "error", "no DICOM series")


def test_all_problems_of_all_cases_come_at_once(tmp_path):
    bad = case(tmp_path, "bad", image=np.zeros(SHAPE, np.int16), label=mask()[1:] + 5)
    report = check(bad, case(tmp_path, "good"), {"image": "nowhere.nii", "case_id": "gone"})
    assert [p.case_id for p in report.problems] == ["bad", "bad", "bad", "gone"]
    assert len(report.volumes) == 2


def test_raise_if_bad_lists_ten_errors_and_counts_the_rest(tmp_path):
    report = check(*({"image": f"nowhere-{n}.nii", "case_id": f"case-{n}"} for n in range(12)))
    with pytest.raises(DataError) as caught:
        report.raise_if_bad()
    lines = str(caught.value).splitlines()
    assert lines[0] == "12 error(s) in 12 case(s):"
    assert lines[10] == "  case-9: the file is missing (nowhere-9.nii)"
    assert lines[11:] == ["  and 2 more"]


def test_the_report_goes_into_json_and_into_a_table(tmp_path):
    report = check(case(tmp_path), {"image": "nowhere.nii", "case_id": "gone"})
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (content["ok"], content["cases"], content["errors"], content["warnings"]) == (False, 2, 1, 0)
    assert content["problems"] == [
        {"case_id": "gone", "file": "nowhere.nii", "kind": "error", "message": "the file is missing"}
    ]
    assert content["volumes"][0]["shape"] == list(SHAPE)
    assert set(content["volumes"][0]["label_ml"]) == {"1", "2"}
    assert str(report).splitlines()[-1].split() == ["error", "gone", "nowhere.nii", "the", "file", "is", "missing"]


def test_progress_goes_to_standard_error_alone(tmp_path, capfd):
    check_volumes([case(tmp_path)])
    out, err = capfd.readouterr()
    assert out == ""
    assert "1/1" in err


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real CT at {DATA}")
def test_real_ct_passes_and_its_livers_have_the_size_of_livers():
    report = check(*data_list("pairs", DATA))
    assert report.problems == []
    crop, whole, slab = report.volumes
    assert (crop.orientation, whole.orientation, slab.shape) == ("LPS", "RAS", (512, 512, 20))
    assert 800 < whole.label_ml[1] < 2500
    assert crop.label_ml[2] > 0
    assert whole.label_ml[2] == slab.label_ml[2] == 0
