"""Generated CT: the layout on disk, the geometry, what is in it, and that thresholding does not solve it."""

from __future__ import annotations

import re
from functools import cache

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from metalr_monai.data import ct_phantom
from metalr_monai.data.ct_phantom import ORIENTATIONS, phantom, write_lits_phantoms
from metalr_monai.errors import OptionError

CASES = range(20)
SMALL = (20, 24, 16)


@cache
def case(number):
    return phantom(number=number)


def world(mask, affine):
    """(N, 3) positions in RAS+ mm of the voxels in a mask."""
    return nib.affines.apply_affine(affine, np.argwhere(mask))


def is_oblique(affine):
    return np.abs(nib.affines.obliquity(affine)).max() > np.deg2rad(0.5)


def main_axes(affine):
    """For each voxel axis, the patient's axis it runs along."""
    return np.abs(affine[:3, :3]).argmax(axis=0)


def along_patient(values, affine):
    """Values given per voxel axis, in the order right, anterior, superior."""
    return np.array(values)[np.argsort(main_axes(affine))]


def lung(scan):
    """Voxels whose neighbours are lung too: neither the air around the patient nor the edge of the skin."""
    return (ndimage.minimum_filter(scan.image, 3) > -960) & (ndimage.maximum_filter(scan.image, 3) < -720)


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "label", "affine"))


# --- determinism


def test_same_seed_and_number_give_the_same_arrays():
    assert equal(phantom(SMALL, seed=3, number=2), phantom(SMALL, seed=3, number=2))


@pytest.mark.parametrize("other", [{"seed": 4, "number": 2}, {"seed": 3, "number": 1}, {"seed": 2, "number": 3}])
def test_another_seed_or_number_gives_another_patient(other):
    a, b = phantom(SMALL, seed=3, number=2), phantom(SMALL, **other)
    assert not np.array_equal(a.label, b.label) and not np.array_equal(a.affine, b.affine)


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = phantom(SMALL)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    assert equal(first, phantom(SMALL))


def test_files_do_not_depend_on_how_many_are_written(tmp_path):
    few = write_lits_phantoms(tmp_path / "few", 2, size=SMALL, seed=5, progress=False)
    many = write_lits_phantoms(tmp_path / "many", 3, size=SMALL, seed=5, progress=False)
    assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many[:2]]


# --- files


def test_layout_and_types_are_those_of_lits(tmp_path):
    folder = tmp_path / "new" / "lits"
    paths = write_lits_phantoms(folder, 11, size=SMALL, seed=1, progress=False)
    assert paths == [folder / f"volume-{n}.nii.gz" for n in range(11)]
    segmentations = {f"segmentation-{n}.nii.gz" for n in range(11)}
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths} | segmentations
    for number in (0, 10):
        expected = phantom(SMALL, seed=1, number=number)
        volume, segmentation = (nib.load(folder / f"{name}-{number}.nii.gz") for name in ("volume", "segmentation"))
        assert volume.get_data_dtype() == np.int16 and segmentation.get_data_dtype() == np.uint8
        assert np.array_equal(np.asanyarray(volume.dataobj), expected.image)
        assert np.array_equal(np.asanyarray(segmentation.dataobj), expected.label)
        assert volume.header.get_xyzt_units()[0] == "mm"
        for file in (volume, segmentation):
            np.testing.assert_allclose(file.affine, expected.affine, rtol=1e-6, atol=1e-4)
            np.testing.assert_allclose(file.get_qform(), file.get_sform(), rtol=1e-4, atol=1e-2)


def test_bar_goes_to_standard_error_and_only_when_asked(tmp_path, capfd):
    write_lits_phantoms(tmp_path / "a", 1, size=SMALL)
    out, err = capfd.readouterr()
    assert out == "" and "1/1" in err
    write_lits_phantoms(tmp_path / "b", 1, size=SMALL, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OptionError, match=rf"{re.escape(str(tmp_path))} is not empty.*Name a new folder"):
        write_lits_phantoms(tmp_path, 1, size=SMALL, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(OptionError, match=r"mine\.txt is a file.*Name a new folder"):
        write_lits_phantoms(tmp_path / "mine.txt", 1, size=SMALL, progress=False)


def test_an_empty_folder_is_used(tmp_path):
    assert write_lits_phantoms(tmp_path, 1, size=SMALL, progress=False)[0].is_file()


BAD = [
    ("count", 0),
    ("count", -3),
    ("count", 2.0),
    ("count", True),
    ("size", (64, 64)),
    ("size", (64, 64, 15)),
    ("size", (64, 64, 32.0)),
    ("size", 64),
    ("seed", -1),
    ("seed", "0"),
]


@pytest.mark.parametrize(("option", "value"), BAD)
def test_bad_options_are_named_before_anything_is_written(tmp_path, option, value):
    options = {"count": 1, "size": SMALL, "progress": False, option: value}
    with pytest.raises(OptionError, match=f"^{option} is {re.escape(repr(value))}; expected"):
        write_lits_phantoms(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# --- geometry


@pytest.mark.parametrize("number", CASES)
def test_liver_is_on_the_right_and_spine_behind_whatever_the_orientation(number):
    scan = case(number)
    liver, body = world(scan.label > 0, scan.affine), world(scan.image > -300, scan.affine)
    bone = world(ndimage.uniform_filter(scan.image.astype(float), 3) > 250, scan.affine)
    spine = bone[np.abs(bone[:, 0]) < 25]
    assert liver[:, 0].mean() > body[:, 0].mean() + 20  # +x is the patient's right in RAS+
    assert spine[:, 1].mean() < liver[:, 1].mean() - 40  # +y is anterior
    assert world(lung(scan), scan.affine)[:, 2].mean() > liver[:, 2].mean() + 20  # +z is superior


def test_orientations_vary_and_some_are_oblique():
    codes = ["".join(nib.aff2axcodes(case(number).affine)) for number in CASES]
    oblique = sum(is_oblique(case(number).affine) for number in CASES)
    assert len(set(codes)) >= 4 and set(codes) <= set(ORIENTATIONS)
    assert 1 <= oblique < len(CASES)


@pytest.mark.parametrize("number", CASES)
def test_affine_is_rigid_with_the_spacing_of_the_field_of_view(number):
    affine, shape = case(number).affine, case(number).image.shape
    spacing = nib.affines.voxel_sizes(affine)
    directions = affine[:3, :3] / spacing
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    right, anterior, superior = along_patient(spacing * shape, affine)
    assert 300 <= right <= 380 and right == pytest.approx(anterior) and 160 <= superior <= 240


def test_spacing_varies():
    assert len({tuple(np.round(nib.affines.voxel_sizes(case(n).affine), 3)) for n in CASES}) == len(CASES)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_another_grid_shows_the_same_patient(number):
    """The anatomy is a function of mm: a finer grid moves neither the liver nor its size."""
    coarse, fine = case(number), phantom((96, 80, 48), number=number)
    volumes = [(scan.label > 0).sum() * abs(np.linalg.det(scan.affine[:3, :3])) for scan in (coarse, fine)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)
    centres = [world(scan.label > 0, scan.affine).mean(axis=0) for scan in (coarse, fine)]
    np.testing.assert_allclose(*centres, atol=2)


# --- content


@pytest.mark.parametrize("number", CASES)
def test_every_liver_is_one_organ_of_plausible_size(number):
    label = case(number).label > 0
    share = label.sum() / (case(number).image > -300).sum()
    parts, _ = ndimage.label(label)
    assert 0.03 < share < 0.25
    assert np.bincount(parts[label]).max() > 0.95 * label.sum()


def test_the_smallest_grids_hold_a_liver():
    assert min((phantom((16, 16, 16), number=n).label > 0).sum() for n in range(30)) > 50


def test_about_seven_in_ten_have_tumours():
    share = np.mean([(phantom((16, 16, 16), number=n).label == 2).any() for n in range(150)])
    assert 0.58 < share < 0.82  # three standard errors of 150 draws at 0.7


def test_tumours_lie_in_the_liver_and_are_darker():
    seen = 0
    for number in CASES:
        image, label = case(number).image, case(number).label
        parts, count = ndimage.label(label == 2)
        for part in range(1, count + 1):
            shell = ndimage.binary_dilation(parts == part) & (parts != part)
            assert (label[shell] == 1).mean() > 0.3  # the rest is the liver's own surface
        core = ndimage.binary_erosion(label == 2)
        if core.sum() >= 20:
            seen += 1
            healthy = ndimage.binary_erosion(label == 1)
            assert 10 < np.median(image[healthy]) - np.median(image[core]) < 60
    assert seen >= 4


def test_tumours_do_not_reach_out_of_the_liver(monkeypatch):
    with_tumours = [case(number).label for number in CASES]
    monkeypatch.setattr(ct_phantom, "TUMOUR_SHARE", 0)
    for number, label in zip(CASES, with_tumours, strict=True):
        assert np.array_equal(phantom(number=number).label, label > 0)


@pytest.mark.parametrize("number", CASES)
def test_intensities_are_those_of_ct(number):
    scan = case(number)
    inside = ndimage.binary_erosion(scan.label == 1, iterations=2)
    corner = scan.image[:3, :3]
    assert 40 < np.median(scan.image[inside]) < 140
    assert 8 < scan.image[inside].std() < 35  # the scanner's noise
    assert scan.image.min() >= -1024 and 250 < scan.image.max() < 1000
    assert -1024 <= corner.mean() < -950
    assert 0.05 < ((scan.image > -150) & (scan.image < -60)).mean() < 0.5  # fat
    assert -900 < np.median(scan.image[lung(scan)]) < -800


def test_livers_with_and_without_contrast_medium_occur():
    medians = [np.median(case(number).image[case(number).label == 1]) for number in CASES]
    assert min(medians) < 65 and max(medians) > 85


def test_noise_is_correlated_between_neighbours():
    noise = [case(n).image[ndimage.binary_erosion(case(n).label == 1, iterations=2)].std() for n in CASES]
    assert max(noise) > 1.4 * min(noise)
    for number in range(12):
        inside = ndimage.binary_erosion(case(number).label == 1, iterations=2)
        near, far = (difference_variance(case(number).image.astype(float), inside, step) for step in (1, 4))
        assert near < 0.8 * far  # white noise: equal, but for the liver's own texture


def difference_variance(image, inside, step):
    """Of voxels that lie `step` apart along the first axis."""
    return (image[step:] - image[:-step])[inside[step:] & inside[:-step]].var()


def test_no_window_of_intensities_segments_the_liver():
    """The best of all windows [lower, upper) in steps of 4 HU, chosen on the very scans it is scored on."""
    scans = [case(number) for number in range(12)]
    bins = np.concatenate([[-2000], np.arange(-100, 300, 4), [4000]])
    voxels = np.array([np.histogram(s.image, bins)[0] for s in scans]).cumsum(axis=1)
    liver = np.array([np.histogram(s.image[s.label > 0], bins)[0] for s in scans]).cumsum(axis=1)
    voxels, liver = (np.pad(counts, ((0, 0), (1, 0))) for counts in (voxels, liver))
    dice = {
        (lower, upper): np.mean(2 * within(liver, lower, upper) / (within(voxels, lower, upper) + liver[:, -1]))
        for lower in range(len(bins))
        for upper in range(lower + 1, len(bins))
    }
    assert 0.3 < max(dice.values()) < 0.6
    assert max(dice[lower, len(bins) - 1] for lower in range(len(bins) - 1)) < 0.55  # a single threshold


def within(counts, lower, upper):
    return counts[:, upper] - counts[:, lower]


def test_the_phase_changes_intensities_and_no_anatomy() -> None:
    plain, venous = (phantom((32, 32, 16), seed=2, phase=phase) for phase in ("plain", "venous"))
    assert np.array_equal(plain.label, venous.label)
    liver = plain.label == 1
    assert np.median(plain.image[liver]) < 70 < np.median(venous.image[liver])


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(OptionError, match="plain, venous"):
        phantom((32, 32, 16), phase="arterial")
