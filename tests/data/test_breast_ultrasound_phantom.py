"""Generated breast ultrasound: the layout on disk, the lesions' masks, and that only shapes tell the classes apart."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from linear_probe import best_accuracy, brightness, file_size, histograms, one_hot_size
from PIL import Image
from scipy import ndimage

from metalr_monai.data.breast_ultrasound_phantom import CLASSES, breast_phantom, write_busi_phantoms
from metalr_monai.errors import OptionError

TRAIN, TEST = 110, 80  # pictures of each class
LABELS = [np.repeat(np.arange(3), count) for count in (TRAIN, TEST)]


@cache
def case(name, number):
    return breast_phantom(name, number, size=64)


@cache
def both_sets():
    return [
        [case(name, number).image for name in CLASSES for number in numbers]
        for numbers in (range(TRAIN), range(TRAIN, TRAIN + TEST))
    ]


def probed(features):
    """The best accuracy of a linear probe on what `features` makes of a list of pictures."""
    (train, test), (train_labels, test_labels) = map(features, both_sets()), LABELS
    return best_accuracy(train, train_labels, test, test_labels)


# --- determinism


def test_same_arguments_give_the_same_picture_and_masks():
    a, b = (breast_phantom("benign", 3, size=48, seed=5) for _ in range(2))
    assert np.array_equal(a.image, b.image) and np.array_equal(a.masks, b.masks)


@pytest.mark.parametrize("other", [{"seed": 6}, {"number": 4}, {"name": "malignant"}])
def test_another_seed_number_or_class_gives_another_picture(other):
    arguments = {"name": "benign", "number": 3, "size": 48, "seed": 5}
    a, b = breast_phantom(**arguments).image, breast_phantom(**{**arguments, **other}).image
    assert a.shape != b.shape or (a != b).mean() > 0.2


def test_files_do_not_depend_on_how_many_are_written(tmp_path):
    few = write_busi_phantoms(tmp_path / "few", 1, size=32, seed=5, progress=False)
    write_busi_phantoms(tmp_path / "many", 2, size=32, seed=5, progress=False)
    for path in few:
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "few")).read_bytes()


# --- files


def test_layout_and_names_are_those_of_busi(tmp_path):
    folder = tmp_path / "new" / "busi"
    paths = write_busi_phantoms(folder, 12, size=40, seed=1, progress=False)
    assert paths == [folder / name / f"{name} ({number}).png" for name in CLASSES for number in range(1, 13)]
    expected = set(paths)
    for path in paths:
        number = int(re.search(r"\((\d+)\)", path.name)[1])
        phantom = breast_phantom(path.parent.name, number, size=40, seed=1)
        masks = [path.with_name(f"{path.stem}_mask{f'_{k}' if k else ''}.png") for k in range(len(phantom.masks))]
        expected |= set(masks)
        for file, array in zip([path, *masks], [phantom.image, *phantom.masks], strict=True):
            with Image.open(file) as stored:
                assert stored.format == "PNG" and np.array_equal(np.asarray(stored), array)
    assert {file for file in folder.rglob("*") if file.is_file()} == expected
    assert any(file.name.endswith("_mask_1.png") for file in expected)


def test_bar_goes_to_standard_error_and_only_when_asked(tmp_path, capfd):
    write_busi_phantoms(tmp_path / "a", 1, size=32)
    out, err = capfd.readouterr()
    assert out == "" and "3/3" in err
    write_busi_phantoms(tmp_path / "b", 1, size=32, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OptionError, match=rf"{re.escape(str(tmp_path))} is not empty.*Name a new folder"):
        write_busi_phantoms(tmp_path, 1, size=32, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("option", "value"), [("images_per_class", 0), ("size", 31), ("size", 64.0), ("seed", -1)])
def test_bad_options_are_named_before_anything_is_written(tmp_path, option, value):
    options = {"images_per_class": 1, "size": 32, "progress": False, option: value}
    with pytest.raises(OptionError, match=f"^{option} is {re.escape(repr(value))}; expected"):
        write_busi_phantoms(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("name", "cyst"), ("number", -1)])
def test_bad_options_of_one_picture_are_named(option, value):
    with pytest.raises(OptionError, match=f"^{option} is {re.escape(repr(value))}; expected"):
        breast_phantom(**{"name": "normal", option: value})


# --- content


@pytest.mark.parametrize("name", CLASSES)
def test_masks_have_the_pictures_size_and_two_values(name):
    for number in range(20):
        phantom = case(name, number)
        assert 0.7 * 64 - 1 <= phantom.image.shape[0] <= 64 and phantom.image.shape[1] == 64
        for mask in phantom.masks:
            assert mask.shape == phantom.image.shape
            assert np.unique(mask).tolist() == ([0] if name == "normal" else [0, 255])


@pytest.mark.parametrize("number", range(4))
def test_the_lesions_do_not_depend_on_the_number_of_pixels(number):
    coarse, fine = (Image.fromarray(breast_phantom("malignant", number, size=size).masks[0]) for size in (64, 128))
    a, b = (np.asarray(mask.resize((64, 64))) > 127 for mask in (coarse, fine))
    assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85  # a few hundred pixels, many of them at the margin


def test_lesions_are_darker_than_what_surrounds_them():
    for name in ("benign", "malignant"):
        darker = []
        for number in range(40):
            for mask in case(name, number).masks:
                inside, ring = ndimage.binary_erosion(mask > 0), ndimage.binary_dilation(mask > 0, iterations=4)
                if inside.sum() > 10:
                    image = case(name, number).image.astype(float)
                    darker.append(image[inside].mean() < image[ring & (mask == 0)].mean())
        assert len(darker) > 25 and np.mean(darker) > 0.9


def test_two_lesions_of_a_picture_do_not_touch():
    pairs = [case("benign", n).masks for n in range(TRAIN) if len(case("benign", n).masks) == 2]
    assert 5 <= len(pairs) <= 30  # expected: 16 or 17 of 110, standard deviation 3.7
    assert not any((ndimage.binary_dilation(a > 0) & (b > 0)).any() for a, b in pairs)


def test_malignant_outlines_are_longer_for_their_area():
    """Perimeter² / area, about 4π for a disc."""
    raggedness = {name: np.median([ragged(case(name, n).masks[0] > 0) for n in range(50)]) for name in CLASSES[:2]}
    assert raggedness["malignant"] > 1.3 * raggedness["benign"]


def ragged(mask):
    return (mask & ~ndimage.binary_erosion(mask)).sum() ** 2 / mask.sum()


# --- what gives the class away, and what does not


def test_a_linear_probe_on_pixels_fails():
    def pixels(pictures):
        return np.stack([np.asarray(Image.fromarray(p).resize((64, 64), Image.Resampling.BILINEAR)) for p in pictures])

    assert probed(pixels) < 0.6


@pytest.mark.parametrize("features", [histograms, brightness])
def test_grey_values_do_not_give_the_class_away(features):
    assert probed(features) < 0.5


def test_file_sizes_do_not_give_the_class_away():
    reference = [file_size(picture, "PNG") for picture in both_sets()[0]]
    assert probed(lambda pictures: one_hot_size([file_size(p, "PNG") for p in pictures], reference)) < 0.5
