"""The fingerprint of small volumes against nnU-Net's rules done slowly; cases that cannot be read."""

from __future__ import annotations

import json
import math

import nibabel as nib
import numpy as np
import pytest
from dicom_writer import turned, write_series
from scipy.ndimage import binary_fill_holes

from metalr_monai import data_list
from metalr_monai.errors import DataError, OptionError
from metalr_monai.planning.fingerprint import DISTINCT, nnunet_fingerprint, read_fingerprint

SHAPE, SPACING = (9, 8, 7), (0.5, 0.75, 3.0)


def write(path, array, spacing=SPACING, axcodes="RAS", slope=None):
    """A NIfTI file with axes that point to `axcodes`, `spacing` in the file's order."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (code, edge) in enumerate(zip(axcodes, spacing, strict=True)):
        row = next(i for i, codes in enumerate(("LR", "PA", "IS")) if code in codes)
        affine[row, axis] = edge if code in "RAS" else -edge
    image = nib.Nifti1Image(array, affine)
    if slope:
        image.header.set_slope_inter(*slope)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def draw(seed, shape=SHAPE, dtype=np.int16):
    """An image with margins and holes of 0, and a label, some of which lies in both."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, dtype)
    inner = tuple(slice(1 + axis % 2, size - 1) for axis, size in enumerate(shape))
    image[inner] = rng.integers(-900, 900, image[inner].shape) * (rng.random(image[inner].shape) < 0.7)
    image[tuple(size // 2 for size in shape)] = 7
    label = rng.choice([0, 1, 2], p=[0.7, 0.2, 0.1], size=shape).astype(np.uint8)
    return image, label


def pairs(root, cases, **options):
    """A data set of {case: (image, label)}."""
    for case, (image, label) in cases.items():
        write(root / case / "image.nii.gz", image, **options)
        write(root / case / "label.nii.gz", label, **{**options, "slope": None})
    return data_list("pairs", root)


def read(items, **options):
    return read_fingerprint(items, **{"labels": (0, 1, 2), "progress": False, **options})


def literal(cases):
    """nnU-Net's rule: fill holes, crop; equally many intensities of each case, here all of them times the others'."""
    drawn, shapes, relative = [], [], []
    for image, label in cases:
        where = np.argwhere(binary_fill_holes(image != 0))
        box = tuple(slice(a, b + 1) for a, b in zip(where.min(0), where.max(0), strict=True))
        drawn.append(image[box][label[box] > 0].astype(np.float64))
        shapes.append(image[box].shape)
        relative.append(image[box].size / image.size)
    drawn = [part for part in drawn if part.size]
    common = math.lcm(*(part.size for part in drawn))
    everything = np.concatenate([np.repeat(part, common // part.size) for part in drawn])
    low, median, high = np.percentile(everything, (0.5, 50, 99.5), method="inverted_cdf")
    found = {"mean": everything.mean(), "std": everything.std(), "min": everything.min(), "max": everything.max()}
    return found | {"median": median, "percentile_00_5": low, "percentile_99_5": high}, shapes, np.median(relative)


@pytest.fixture
def volumes():
    return {"a": draw(0), "b": draw(1, (7, 7, 9)), "c": draw(2, (6, 9, 6))}


def refused(items, error=DataError, **options):
    with pytest.raises(error) as caught:
        read(items, **options)
    return str(caught.value)


# --- what nnU-Net finds ---


def test_shapes_and_intensities_are_those_of_nnunets_rule(tmp_path, volumes):
    found = read(pairs(tmp_path, volumes))
    intensities, shapes, relative = literal(volumes.values())
    assert found.intensities == pytest.approx(intensities, rel=1e-12)
    assert [case.cropped_shape for case in found.cases] == shapes
    assert [case.shape for case in found.cases] == [image.shape for image, _ in volumes.values()]
    assert nnunet_fingerprint(found)["median_relative_size_after_cropping"] == pytest.approx(relative)
    assert any(case.cropped_shape != case.shape for case in found.cases)


def test_a_small_organ_counts_as_much_as_a_large_one(tmp_path):
    image = np.full(SHAPE, 10, np.int16)
    small, large = np.zeros(SHAPE, np.uint8), np.ones(SHAPE, np.uint8)
    small[0, 0, 0] = 1
    found = read(pairs(tmp_path, {"a": (image, large), "b": (4 * image, small), "c": (4 * image, small)})).intensities
    assert found["mean"] == pytest.approx(30)
    assert found["std"] == pytest.approx(np.std([10, 40, 40]))
    assert (found["percentile_00_5"], found["median"], found["percentile_99_5"]) == (10, 40, 40)


def test_nnunets_form_is_in_z_y_x_of_the_file(tmp_path, volumes):
    found = nnunet_fingerprint(read(pairs(tmp_path, {"a": volumes["a"]}, axcodes="PLS")))
    assert found["spacings"] == [list(SPACING[::-1])]
    assert found["shapes_after_crop"] == [[5, 5, 7]]  # as `draw` leaves margins
    channels = found["foreground_intensity_properties_per_channel"]
    names = ["max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"]
    assert list(channels) == ["0"] and list(channels["0"]) == names
    json.dumps(found)


@pytest.mark.parametrize("slope", [(1, -1024), (1, 5), (0.5, 0)])
def test_rescaled_voxels_are_read_in_hu(tmp_path, slope):
    image, label = draw(3)
    found = read(pairs(tmp_path, {"a": (image, label)}, slope=slope)).intensities
    # nibabel stores round((HU − inter) / slope): those it kept are what is in the file
    stored = np.asarray(nib.load(tmp_path / "a" / "image.nii.gz").dataobj)
    assert found == pytest.approx(literal([(stored, label)])[0], rel=1e-5)


def test_whole_numbers_from_end_to_end_of_int16_are_counted(tmp_path):
    image, label = draw(4)
    image[2, 2, 2:5], label[2, 2, 2:5] = (-32768, 32767, 1), 1
    found = read(pairs(tmp_path, {"a": (image, label)})).intensities
    assert found == pytest.approx(literal([(image, label)])[0], rel=1e-12)


def test_very_many_different_voxels_keep_their_moments_and_ranks(tmp_path):
    rng = np.random.default_rng(5)
    image, label = rng.normal(50, 20, (50, 50, 40)).astype(np.float32), np.ones((50, 50, 40), np.uint8)
    found = read(pairs(tmp_path, {"a": (image, label)})).intensities
    expected, _, _ = literal([(image, label)])
    for key in ("mean", "std", "min", "max"):
        assert found[key] == pytest.approx(expected[key], rel=1e-6)
    assert len(np.unique(image)) > DISTINCT
    for key, rank in {"percentile_00_5": 0.5, "median": 50, "percentile_99_5": 99.5}.items():
        assert abs(100 * (image <= found[key]).mean() - rank) <= 0.01


def test_a_plain_file_a_zipped_one_and_a_dicom_series_give_the_same(tmp_path, volumes):
    image, label = volumes["a"]
    for ending in (".nii", ".nii.gz"):
        write(tmp_path / ending / "images" / f"a{ending}", image)
        write(tmp_path / ending / "labels" / f"a{ending}", label)
    affine = turned(SPACING)
    write_series(tmp_path / "dicom" / "images" / "a", image, affine)
    (tmp_path / "dicom" / "labels").mkdir()
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "dicom" / "labels" / "a.nii.gz")
    plain, zipped, series = (read(data_list("pairs", tmp_path / kind)) for kind in (".nii", ".nii.gz", "dicom"))
    assert plain == zipped
    assert series.intensities == plain.intensities
    assert series.cases[0].cropped_shape == plain.cases[0].cropped_shape
    assert series.cases[0].spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(tmp_path, volumes, workers):
    items = pairs(tmp_path, volumes)
    assert read(items, workers=workers) == read(items)


def test_progress_goes_to_standard_error(tmp_path, volumes, capsys):
    read(pairs(tmp_path, volumes), progress=True)
    shown = capsys.readouterr()
    assert "3/3" in shown.err and "fingerprint" in shown.err and not shown.out


# --- what planning needs besides ---


def test_medians_are_in_the_patients_axes_however_a_file_is_stored(tmp_path):
    image = np.ones((4, 5, 6), np.int16)
    label = np.ones((4, 5, 6), np.uint8)
    turns = {"a": "RAS", "b": "PLS", "c": "SLA"}
    for case, axcodes in turns.items():
        order = [next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair) for code in axcodes]
        spacing = [(1.0, 2.0, 5.0)[i] for i in order]
        for name, array in (("image", image), ("label", label)):
            write(tmp_path / case / f"{name}.nii.gz", array.transpose(order), spacing, axcodes)
    found = read(data_list("pairs", tmp_path))
    assert [case.axcodes for case in found.cases] == list(turns.values())
    assert found.cases[1].shape == (5, 4, 6) and found.cases[1].spacing == (2.0, 1.0, 5.0)
    assert found.spacings.tolist() == [[1, 2, 5]] * 3
    assert found.cropped_shapes.tolist() == [[4, 5, 6]] * 3
    assert found.median_shape == (4, 5, 6) and found.median_spacing == (1, 2, 5)
    assert found.anisotropy == 5 and found.coarse_axis == 2


def test_spacings_are_summed_up_axis_by_axis(tmp_path, volumes):
    for case, z in (("a", 1.0), ("b", 4.0), ("c", 2.5)):
        for name, array in zip(("image", "label"), volumes[case], strict=True):
            write(tmp_path / case / f"{name}.nii.gz", array, (0.5, 1.0, z))
    found = read(data_list("pairs", tmp_path))
    assert found.median_spacing == (0.5, 1.0, 2.5)
    assert found.anisotropy == 5


def test_classes_are_counted_over_the_whole_label(tmp_path):
    image = np.zeros((4, 5, 5), np.int16)
    image[:2] = 100
    label = np.zeros((4, 5, 5), np.uint8)
    label[0], label[3, 0] = 1, 2  # class 2 lies where the image is cut away
    found = read(pairs(tmp_path, {"a": (image, label), "b": (image, 1 * (label == 1).astype(np.uint8))}))
    assert [case.voxels for case in found.cases] == [{1: 25, 2: 5}, {1: 25, 2: 0}]
    assert found.class_voxels == {1: 50, 2: 5} and found.class_cases == {1: 2, 2: 1}
    assert found.class_shares == {1: 25.0, 2: 2.5} and found.foreground_share == 27.5


def test_clipping_is_counted_over_the_foreground(tmp_path):
    image = np.full((2, 2, 5), 50, np.int16)
    image[0, 0] = (-2000, -1000, 1000, 1001, 0)
    one, other = np.zeros((2, 2, 5), np.uint8), np.ones((2, 2, 5), np.uint8)
    one[0, 0, :4] = 1
    items = pairs(tmp_path, {"a": (image, one), "b": (image, other), "c": (image, 0 * one)})
    found = read(items, hu_window=(-1000, 1000))
    assert [case.clipped for case in found.cases] == [50.0, 10.0, None]
    assert found.clipped == pytest.approx(100 * 4 / 24)
    assert read(items).clipped is None


def test_a_case_without_foreground_has_no_say_in_the_intensities(tmp_path, volumes):
    items = pairs(tmp_path, {**volumes, "d": (volumes["a"][0], np.zeros(SHAPE, np.uint8))})
    assert read(items).intensities == read(items[:3]).intensities


def test_a_fingerprint_is_plain_values(tmp_path, volumes):
    found = read(pairs(tmp_path, volumes), hu_window=(-100.5, 200))
    content = json.loads(json.dumps(found.to_dict()))
    assert content["hu_window"] == [-100.5, 200] and content["intensities"] == found.intensities
    first = found.cases[0]
    assert content["cases"][0]["axcodes"] == first.axcodes and content["cases"][0]["clipped"] == first.clipped
    assert content["cases"][0]["voxels"] == {str(label): size for label, size in first.voxels.items()}


# --- what cannot be planned with ---


def test_every_faulty_case_is_named_at_once(tmp_path, volumes):
    image, label = volumes["a"]
    cases = {name: (image, label) for name in ("good", "missing", "other_label", "short", "unlike", "zero", "nan")}
    cases["other_label"] = (image, np.where(label == 2, 5, label).astype(np.uint8))
    cases["unlike"] = (image, label[:-1])
    cases["zero"] = (0 * image, label)
    cases["nan"] = (np.where(label == 1, np.nan, image).astype(np.float32), label)
    items = pairs(tmp_path, cases)
    (tmp_path / "missing" / "label.nii.gz").unlink()
    cut = tmp_path / "short" / "image.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    told = refused(items)
    assert "6 of 7 cases cannot be planned with: missing, nan, other_label, short, unlike, zero." in told
    for case, words in {
        "missing": "the file is missing",
        "nan": "NaN or Inf",
        "other_label": "unknown label values 5 (",
        "short": "the voxels cannot be read",
        "unlike": "its shape is 8×8×7",
        "zero": "every voxel is 0",
    }.items():
        line = next(line for line in told.splitlines() if line.startswith(f"  {case}: "))
        assert words in line and str(tmp_path / case) in line


def test_a_zipped_file_whose_checksum_differs_is_refused(tmp_path, volumes):
    items = pairs(tmp_path, {"a": volumes["a"]})
    file = tmp_path / "a" / "image.nii.gz"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # of the checksum at the end
    file.write_bytes(content)
    assert "the voxels cannot be read: CRC check failed" in refused(items)


def test_a_series_with_a_damaged_slice_is_refused(tmp_path, volumes):
    image, label = volumes["a"]
    files = write_series(tmp_path / "images" / "a", image, turned(SPACING))
    write(tmp_path / "labels" / "a.nii.gz", label)
    items = data_list("pairs", tmp_path)
    files[2].unlink()
    assert "cannot be planned with: a." in refused(items)


def test_images_of_several_channels_are_refused_by_name(tmp_path, volumes):
    items = pairs(tmp_path, volumes)
    items[1]["image"] = [items[1]["image"], items[0]["image"]]
    told = refused(items)
    assert "b (2)" in told and "Expected CT" in told


def test_cases_without_a_label_are_named(tmp_path, volumes):
    items = pairs(tmp_path, volumes)
    del items[2]["label"]
    assert "1 of 3 cases have no label: c." in refused(items)


def test_nothing_but_empty_labels_is_refused(tmp_path, volumes):
    image, label = volumes["a"]
    assert "Every label is empty" in refused(pairs(tmp_path, {"a": (image, 0 * label)}))


def test_an_empty_list_is_refused():
    assert "empty" in refused([])


@pytest.mark.parametrize(
    "options",
    [
        {"labels": (0,)},
        {"labels": (0, -1)},
        {"labels": (0, 1.5)},
        {"hu_window": (100, 100)},
        {"hu_window": 100},
        {"workers": 0},
        {"workers": 1.5},
    ],
)
def test_options_out_of_range_are_refused(tmp_path, volumes, options):
    name, value = next(iter(options.items()))
    told = refused(pairs(tmp_path, volumes), OptionError, **options)
    assert name in told and "expected" in told and str(value).strip("()").split(",")[-1].strip() in told
