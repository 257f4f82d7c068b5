"""DICOM series: their place in space, what is refused, how folders of them are listed and checked."""

from __future__ import annotations

import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dicom_writer import STORAGE, UID, hide_position, turned, write, write_report, write_series
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged

from metalr_monai import ScanReader, Scans, check_volumes, data_list
from metalr_monai.data.dicom_series import PLACE_TOLERANCE, open_series
from metalr_monai.errors import DataError

SHAPE = (7, 6, 5)
PLAIN = np.diag([-0.8, -0.9, 2.5, 1.0])
FLIPPED = turned((0.8, -0.9, -2.5))  # runs to anterior and down
SAGITTAL = np.array([[0, 0, 3.0, -20], [-0.9, 0, 0, 40], [0, -0.8, 0, 10], [0, 0, 0, 1]])
TILTED = PLAIN @ np.array([[1, 0, 0, 0], [0, 1, 0.7, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def noise(shape=SHAPE, seed=0):
    """HU with air in them."""
    return np.random.default_rng(seed).integers(-1024, 1500, shape).astype(np.int16)


def place_code(affine, shape=SHAPE):
    """Voxels whose value tells their place: 3 x + 2 y − z of their mm (RAS), rounded."""
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.round((indices @ affine[:3, :3].T + affine[:3, 3]) @ (3, 2, -1)).astype(np.int16)


def refused(path):
    with pytest.raises(DataError) as caught:
        open_series(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def items(folder):
    return {item["case_id"]: item["image"] for item in data_list("pairs", folder)}


# --- place and values ---


@pytest.mark.parametrize("affine", [PLAIN, FLIPPED, SAGITTAL], ids=["plain", "flipped", "sagittal"])
def test_a_series_lies_where_simpleitk_puts_it(tmp_path, affine):
    write_series(tmp_path, noise(), affine)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    theirs, ours = reader.Execute(), open_series(tmp_path)
    to_mm = np.reshape(theirs.GetDirection(), (3, 3)) * theirs.GetSpacing()
    np.testing.assert_allclose(ours.affine[:3, :3], np.diag([-1, -1, 1]) @ to_mm, atol=1e-9)
    np.testing.assert_allclose(ours.affine[:3, 3], theirs.GetOrigin() * np.array([-1, -1, 1]), atol=1e-9)
    assert np.array_equal(np.asarray(ours.dataobj), sitk.GetArrayFromImage(theirs).T)


@pytest.mark.parametrize("affine", [PLAIN, FLIPPED, SAGITTAL, TILTED], ids=["plain", "flipped", "sagittal", "tilted"])
def test_every_voxel_is_at_the_mm_where_it_was_written(tmp_path, affine):
    write_series(tmp_path, place_code(affine), affine)
    image = open_series(tmp_path)
    assert image.shape == SHAPE
    assert np.array_equal(np.asarray(image.dataobj), place_code(image.affine))
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)


def test_slices_against_their_normal_are_turned_round_but_stay_in_their_place(tmp_path):
    against = PLAIN @ np.diag([1, 1, -1, 1])
    write_series(tmp_path, place_code(against), against)
    image = open_series(tmp_path)
    assert image.affine[2, 2] == 2.5
    assert np.array_equal(np.asarray(image.dataobj), place_code(image.affine))


def test_values_are_hu(tmp_path):
    voxels = noise()
    file = write_series(tmp_path, voxels, PLAIN)[0]
    stored = np.frombuffer(file.read_bytes()[-SHAPE[0] * SHAPE[1] * 2 :], np.uint16).reshape(SHAPE[1::-1]).T
    assert np.array_equal(stored, voxels[:, :, 0] + 1024)
    image = open_series(tmp_path)
    assert np.array_equal(np.asarray(image.dataobj), voxels)
    assert np.asarray(image.dataobj).dtype == image.get_data_dtype()


def test_monai_loads_files_and_series_alike(tmp_path):
    affine = FLIPPED
    write_series(tmp_path / "series", noise(), affine)
    nib.save(nib.Nifti1Image(noise(), affine), tmp_path / "file.nii.gz")
    load = LoadImaged("image", reader="metalr_monai.ScanReader", ensure_channel_first=True)
    series, file = (load({"image": str(tmp_path / name)})["image"] for name in ("series", "file.nii.gz"))
    assert series.shape == (1, *SHAPE)
    assert series.dtype == torch.float32
    assert series.meta["space"] == "RAS"
    assert torch.equal(series.as_tensor(), file.as_tensor())
    np.testing.assert_allclose(series.affine, file.affine, atol=1e-5)
    assert series.meta.keys() == file.meta.keys()
    both = Dataset([{"image": str(tmp_path / name)} for name in ("series", "file.nii.gz")], load)
    assert next(iter(DataLoader(both, batch_size=2)))["image"].shape == (2, 1, *SHAPE)


def test_several_files_are_channels(tmp_path):
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(noise(seed=ord(name)), PLAIN), tmp_path / f"{name}.nii.gz")
    reader = ScanReader()
    stacked, meta = reader.get_data(reader.read([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]))
    assert np.array_equal(stacked, np.stack([noise(seed=ord(name)) for name in "ab"]))
    assert meta["original_channel_dim"] == 0


def test_what_is_wrong_reaches_the_user_through_monai(tmp_path):
    write_series(tmp_path, noise(), PLAIN)[2].unlink()
    load = LoadImaged("image", reader="metalr_monai.ScanReader")
    with pytest.raises(DataError, match="missing"):
        load({"image": str(tmp_path)})


def test_the_reader_knows_its_paths(tmp_path):
    assert ScanReader().verify_suffix(str(tmp_path))
    assert ScanReader().verify_suffix([str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii")])
    assert not ScanReader().verify_suffix(str(tmp_path / "a.png"))


# --- slices that make no volume ---


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    files = write_series(tmp_path, noise((7, 6, 9)), PLAIN)
    files[4].unlink()
    message = refused(tmp_path)
    assert "about 1 slice(s) are missing" in message
    assert f"{files[3].name} and {files[5].name} are 5 mm apart, others 2.5" in message


def test_unequal_distances_are_refused_beyond_the_tolerance(tmp_path):
    beyond, within = (PLACE_TOLERANCE * share for share in (1.1, 0.9))
    write_series(tmp_path / "beyond", noise(), PLAIN, places=[0, 1, 2 + beyond, 3, 4])
    assert "1.95 to 3.05 mm apart; expected equal distances" in refused(tmp_path / "beyond")
    write_series(tmp_path / "within", noise(), PLAIN, places=[0, 1, 2 + within, 3, 4])
    assert open_series(tmp_path / "within").affine[2, 2] == pytest.approx(2.5)


def test_positions_rounded_to_tenths_of_a_millimetre_are_even(tmp_path, capfd):
    heights = np.round(np.arange(30) * 0.625, 1)
    write_series(tmp_path, noise((7, 6, 30)), PLAIN @ np.diag([1, 1, 0.25, 1]), places=heights / 0.625)
    assert open_series(tmp_path).get_fdata().shape == (7, 6, 30)
    assert capfd.readouterr().err == ""


def test_a_slice_that_is_off_sideways_is_refused(tmp_path):
    files = write_series(tmp_path, noise(), PLAIN)
    aside = PLAIN.copy()
    aside[0, 3] = 4.0
    moved = write_series(tmp_path / "aside", noise(), aside)
    shutil.move(moved[2], files[2])
    shutil.rmtree(tmp_path / "aside")
    assert "expected equal distances" in refused(tmp_path)


def test_two_phases_in_one_series_are_refused(tmp_path):
    write_series(tmp_path, noise((7, 6, 6)), PLAIN, places=[0, 1, 2, 0, 1, 2])
    assert "3 slice(s) lie where another one lies" in refused(tmp_path)


@pytest.mark.parametrize(
    ("what", "shape", "affine", "intercept"),
    [
        ("size", (7, 5, 5), PLAIN, "-1024"),
        ("orientation", SHAPE, FLIPPED, "-1024"),
        ("pixel spacing", SHAPE, PLAIN @ np.diag([1.1, 1, 1, 1]), "-1024"),
        ("pixel type", SHAPE, PLAIN, "0"),
    ],
)
def test_slices_that_differ_are_named(tmp_path, what, shape, affine, intercept):
    files = write_series(tmp_path, noise(), PLAIN)
    other = write_series(tmp_path / "other", noise(shape), affine, tags={"0028|1052": intercept})
    shutil.move(other[-1], files[-1])
    shutil.rmtree(tmp_path / "other")
    assert f"{what} of {files[-1].name} differs from the others'" in refused(tmp_path)


def test_slices_without_a_position_are_named(tmp_path):
    files = write_series(tmp_path, noise(), PLAIN)
    hide_position(files[0])
    assert f"1 slice(s) have no position, orientation or pixel spacing: {files[0].name}" in refused(tmp_path)


@pytest.mark.parametrize("left", [300, -2], ids=["header", "pixels"])
def test_a_damaged_slice_at_the_end_does_not_shorten_the_volume(tmp_path, left):
    last = write_series(tmp_path, noise(), PLAIN)[-1]
    last.write_bytes(last.read_bytes()[:left])
    assert f"1 DICOM file(s) cannot be read: {last.name}" in refused(tmp_path)


def test_a_multi_frame_file_is_refused(tmp_path):
    image = sitk.GetImageFromArray(noise().T)
    for tag, value in {"0008|0060": "CT", "0020|000e": f"{UID}.3"}.items():
        image.SetMetaData(tag, value)
    write(image, tmp_path / "frames.dcm")
    assert "multi-frame file(s) frames.dcm" in refused(tmp_path)


def test_colour_is_refused(tmp_path):
    for file in write_series(tmp_path, noise(), PLAIN):
        grey = sitk.ReadImage(str(file))
        colour = sitk.Compose([sitk.Cast(sitk.Abs(grey) / 10, sitk.sitkUInt8)] * 3)
        for key in ("0008|0060", "0020|000e", "0020|0032", "0020|0037"):
            colour.SetMetaData(key, grey.GetMetaData(key))
        colour.SetSpacing(grey.GetSpacing())
        write(colour, file)
    assert "in colour" in refused(tmp_path)


def test_a_folder_without_a_volume_tells_what_is_there(tmp_path):
    assert "no DICOM series" in refused(tmp_path)
    write_series(tmp_path, noise((7, 6, 1)), PLAIN)
    write_report(tmp_path / "dose.dcm")
    message = refused(tmp_path)
    assert f"{UID}.1 (CT, 1 slice(s)): a single slice" in message
    assert "1 file(s) without an image" in message


def test_several_series_are_never_chosen_from_in_silence(tmp_path):
    for k in (1, 2):
        for file in write_series(tmp_path / str(k), noise((7, 6, 3 + k)), PLAIN, uid=f"{UID}.{k}"):
            shutil.move(file, tmp_path / f"{k}{file.name}")
    message = refused(tmp_path)
    assert "holds 2 DICOM series" in message
    assert f"{UID}.1 (CT, 4 slice(s))" in message
    assert f"{UID}.2 (CT, 5 slice(s))" in message
    assert open_series(tmp_path / f"{UID}.2").shape == (7, 6, 5)
    with pytest.raises(DataError, match=f"no image volume with the series UID {UID}.3"):
        open_series(tmp_path / f"{UID}.3")


# --- lists ---


def test_a_study_is_listed_series_by_series(tmp_path, caplog):
    write_series(tmp_path / "anna" / "1.2.3" / "1.2.3.4", noise(), PLAIN, ending="")
    write_series(tmp_path / "anna" / "scout", noise((7, 6, 1)), PLAIN)
    for k, number in ((1, "3"), (2, "12")):
        write_series(tmp_path / "bert" / f"{k}", noise(), PLAIN, uid=f"{UID}.{k}", tags={"0020|0011": number})
        shutil.copytree(tmp_path / "bert" / f"{k}", tmp_path / "carl" / f"{k}")
        for file in (tmp_path / "carl" / f"{k}").iterdir():
            shutil.move(file, tmp_path / "carl" / f"{k}{file.name}")
    write_report(tmp_path / "dora" / "report.dcm")
    (tmp_path / ".trash").mkdir()
    shutil.copytree(tmp_path / "bert" / "1", tmp_path / ".trash" / "1")
    (tmp_path / "readme.txt").write_text("words")
    with caplog.at_level(logging.WARNING):
        found = items(tmp_path)
    assert found == {
        "anna": str(tmp_path / "anna" / "1.2.3" / "1.2.3.4"),
        "bert_1": str(tmp_path / "bert" / "1"),
        "bert_2": str(tmp_path / "bert" / "2"),
        "carl_series3": str(tmp_path / "carl" / f"{UID}.1"),
        "carl_series12": str(tmp_path / "carl" / f"{UID}.2"),
    }
    assert (
        f"{tmp_path / 'anna' / 'scout'}: passed over, since no volume: {UID}.1 (CT, 1 slice(s)): a single"
        in caplog.text
    )
    assert f"{tmp_path / 'dora'}: passed over" in caplog.text
    assert all(open_series(path).shape == SHAPE for path in found.values())


def test_a_folder_of_slices_is_one_case_of_its_name(tmp_path):
    write_series(tmp_path / "scan", noise(), PLAIN)
    assert items(tmp_path / "scan") == {"scan": str(tmp_path / "scan")}


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"}, "a localizer"),
        ({"0008|0060": "OT"}, "modality OT"),
        (None, "no slice has a position"),
    ],
)
def test_what_is_no_volume_is_passed_over_and_named(tmp_path, caplog, tags, reason):
    write_series(tmp_path, noise(), PLAIN, uid=f"{UID}.2")
    for file in write_series(tmp_path / "more", noise(), PLAIN, tags=tags):
        if tags is None:
            hide_position(file)
        shutil.move(file, tmp_path / f"x{file.name}")
    (tmp_path / "more").rmdir()
    assert items(tmp_path) == {tmp_path.name: str(tmp_path)}
    assert f"{UID}.1 (" in caplog.text
    assert f"): {reason}" in caplog.text
    assert open_series(tmp_path).shape == SHAPE


@pytest.mark.parametrize("sop_class", [f"{STORAGE}.88.67", "1.2.840.10008.1.3.10", "1.3.12.2.1107.5.9.1"])
def test_files_without_pixels_do_not_make_a_series_damaged(tmp_path, sop_class):
    write_series(tmp_path, noise(), PLAIN)
    write_report(tmp_path / "more.dcm", sop_class)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert open_series(tmp_path).shape == SHAPE


def test_dicom_beside_the_nifti_of_a_case_is_not_a_case(tmp_path):
    (tmp_path / "p1").mkdir()
    nib.save(nib.Nifti1Image(noise(), PLAIN), tmp_path / "p1" / "image.nii.gz")
    write_series(tmp_path / "p1" / "source", noise(), PLAIN)
    assert items(tmp_path) == {"p1": str(tmp_path / "p1" / "image.nii.gz")}


def test_series_are_paired_with_labels_wherever_they_lie_below_their_case(tmp_path):
    write_series(tmp_path / "images" / "p1" / "study" / "series", noise(), PLAIN)
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), PLAIN), tmp_path / "labels" / "p1.nii.gz")
    (item,) = data_list("pairs", tmp_path)
    loaded = LoadImaged(("image", "label"), reader="metalr_monai.ScanReader")(item)
    np.testing.assert_allclose(loaded["image"].affine, loaded["label"].affine, atol=1e-6)


# --- checks ---


def check(item, **options):
    return check_volumes([{"case_id": "a", **item}], progress=False, **options)


def test_a_series_and_its_label_are_checked_as_nifti_is(tmp_path):
    write_series(tmp_path / "series", noise(), FLIPPED)
    for name, affine in (("same", FLIPPED), ("other", PLAIN)):
        nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine), tmp_path / f"{name}.nii.gz")
    item = {"image": str(tmp_path / "series")}
    good = check(item | {"label": str(tmp_path / "same.nii.gz")}, voxels=True)
    assert good.problems == []
    assert good.volumes[0].shape == SHAPE
    assert good.volumes[0].spacing == pytest.approx((0.8, 0.9, 2.5))
    assert good.volumes[0].orientation == "".join(nib.aff2axcodes(FLIPPED))
    assert good.volumes[0].label_ml == pytest.approx({1: np.prod(SHAPE) * 0.8 * 0.9 * 2.5 / 1000, 2: 0})
    (problem,) = check(item | {"label": str(tmp_path / "other.nii.gz")}).problems
    assert (problem.kind, "corner" in problem.message) == ("error", True)


def test_voxels_of_a_series_are_read_for_the_check(tmp_path):
    write_series(tmp_path, np.full(SHAPE, 7, np.int16), PLAIN)
    assert check({"image": str(tmp_path)}).problems == []
    (problem,) = check({"image": str(tmp_path)}, voxels=True).problems
    assert (problem.kind, problem.message) == ("error", "every voxel is 7")


def test_modality_and_tilt_are_warnings(tmp_path):
    write_series(tmp_path, noise(), TILTED, tags={"0008|0060": "MR"})
    found = [(problem.kind, problem.message) for problem in check({"image": str(tmp_path)}).problems]
    assert found[0] == ("warning", "its modality is MR; expected CT, in HU")
    angle = np.degrees(np.arctan(0.7 * 0.9 / 2.5))
    assert found[1][0] == "warning"
    assert f"sheared by {angle:.1f}°" in found[1][1]


def test_a_bad_series_is_an_error_of_the_check(tmp_path):
    write_series(tmp_path / "gap", noise((7, 6, 9)), PLAIN)[4].unlink()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.dcm").write_bytes(b"nothing")
    report = check_volumes(data_list("pairs", tmp_path), progress=False)
    assert [(p.case_id, p.kind) for p in report.problems] == [("gap", "error"), ("odd", "error")]
    assert "missing" in report.problems[0].message
    assert "x.dcm" in report.problems[1].message


def test_inference_refuses_all_bad_scans_at_once_and_tells_of_the_odd(tmp_path, caplog):
    for name in ("gap1", "gap2"):
        write_series(tmp_path / name, noise((7, 6, 9)), PLAIN)[4].unlink()
    with pytest.raises(DataError, match=r"2 error\(s\)(?s:.)*gap1(?s:.)*gap2"):
        Scans(tmp_path).check()
    for name in ("gap1", "gap2"):
        shutil.rmtree(tmp_path / name)
    write_series(tmp_path / "mr", noise(), PLAIN, tags={"0008|0060": "MR"})
    Scans(tmp_path).check()
    assert "its modality is MR" in caplog.text
