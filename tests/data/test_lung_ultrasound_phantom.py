"""Generated lung ultrasound: the layout on disk, what frames share, and that only shapes tell the classes apart."""

from __future__ import annotations

import re

import numpy as np
import pytest
from linear_probe import best_accuracy, brightness, histograms, one_hot_size
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d, sobel

from metalr_monai.data.lung_ultrasound_phantom import CLASSES, lung_video, write_pocus_phantoms
from metalr_monai.errors import OptionError

TRAIN, TEST, FRAMES = 50, 40, 2  # videos of each class


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "pocus"
    return write_pocus_phantoms(folder, TRAIN + TEST, FRAMES, size=64, progress=False)


@pytest.fixture(scope="module")
def pictures(files):
    return np.stack([np.asarray(Image.open(path)) for path in files])


def labels(files):
    return np.array([CLASSES.index(path.parent.name) for path in files])


def is_train(files):
    return np.array([int(re.search(r"\((\d+)\)", path.name)[1]) <= TRAIN for path in files])


def probed(features, files):
    """The best accuracy of a linear probe that learns from some videos and is tested on the others."""
    train, label = is_train(files), labels(files)
    return best_accuracy(features[train], label[train], features[~train], label[~train])


# --- determinism


def test_same_arguments_give_the_same_video():
    assert np.array_equal(lung_video("covid19", 3, 2, size=48, seed=5), lung_video("covid19", 3, 2, size=48, seed=5))


@pytest.mark.parametrize("other", [{"seed": 6}, {"number": 4}, {"name": "regular"}])
def test_another_seed_number_or_class_gives_another_video(other):
    arguments = {"name": "covid19", "number": 3, "frames": 1, "size": 48, "seed": 5}
    a, b = lung_video(**arguments), lung_video(**{**arguments, **other})
    assert (a != b).mean() > 0.2


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = lung_video("pneumonia", frames=1, size=48)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    assert np.array_equal(first, lung_video("pneumonia", frames=1, size=48))


def test_files_do_not_depend_on_how_many_are_written(tmp_path):
    few = write_pocus_phantoms(tmp_path / "few", 1, 2, size=32, seed=5, progress=False)
    write_pocus_phantoms(tmp_path / "many", 2, 3, size=32, seed=5, progress=False)
    for path in few:
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "few")).read_bytes()


# --- files


def test_layout_and_names_are_those_of_the_published_frames(tmp_path):
    folder = tmp_path / "new" / "pocus"
    paths = write_pocus_phantoms(folder, 2, 3, size=40, seed=1, progress=False)
    names = [str(path.relative_to(folder)) for path in paths]
    assert names == [
        f"{name}/{prefix}-Phantom+({number}).gif_frame{frame}.jpg"
        for name, prefix in (("covid19", "Cov"), ("pneumonia", "Pneu"), ("regular", "Reg"))
        for number in (1, 2)
        for frame in (0, 6, 12)
    ]
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == sorted(paths)
    for path in paths:
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", (40, 40))


def test_a_file_holds_its_frame(tmp_path):
    paths = write_pocus_phantoms(tmp_path, 2, 2, size=64, seed=1, progress=False)
    video = lung_video("covid19", 2, 2, size=64, seed=1)
    for path, frame in zip(paths[2:4], video, strict=True):
        stored = np.asarray(Image.open(path)).astype(float)
        assert np.corrcoef(stored.ravel(), frame.ravel())[0, 1] > 0.98  # JPEG is lossy


def test_classes_have_as_many_files(files):
    assert np.bincount(labels(files)).tolist() == [(TRAIN + TEST) * FRAMES] * 3


def test_bar_goes_to_standard_error_and_only_when_asked(tmp_path, capfd):
    write_pocus_phantoms(tmp_path / "a", 1, 1, size=32)
    out, err = capfd.readouterr()
    assert out == "" and "3/3" in err
    write_pocus_phantoms(tmp_path / "b", 1, 1, size=32, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OptionError, match=rf"{re.escape(str(tmp_path))} is not empty.*Name a new folder"):
        write_pocus_phantoms(tmp_path, 1, 1, size=32, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(OptionError, match=r"mine\.txt is a file.*Name a new folder"):
        write_pocus_phantoms(tmp_path / "mine.txt", 1, 1, size=32, progress=False)


BAD = [
    ("videos_per_class", 0),
    ("videos_per_class", True),
    ("frames_per_video", 0),
    ("frames_per_video", 2.0),
    ("size", 31),
    ("size", (64, 64)),
    ("seed", -1),
    ("seed", "0"),
]


@pytest.mark.parametrize(("option", "value"), BAD)
def test_bad_options_are_named_before_anything_is_written(tmp_path, option, value):
    options = {"videos_per_class": 1, "frames_per_video": 1, "size": 32, "progress": False, option: value}
    with pytest.raises(OptionError, match=f"^{option} is {re.escape(repr(value))}; expected"):
        write_pocus_phantoms(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("name", "viral"), ("number", -1), ("frames", 0), ("size", 8)])
def test_bad_options_of_one_video_are_named(option, value):
    with pytest.raises(OptionError, match=f"^{option} is {re.escape(repr(value))}; expected"):
        lung_video(**{"name": "regular", option: value})


# --- content


@pytest.mark.parametrize("name", CLASSES)
def test_the_fan_fills_part_of_the_picture_and_grey_values_most_of_their_range(name):
    for number in range(8):
        frame = lung_video(name, number, 1, size=64)[0]
        assert 0.25 < (frame > 15).mean() < 0.95
        assert frame.min() < 14 and frame.max() >= 180


def test_lines_run_across_the_beam_in_healthy_lungs_and_along_it_with_b_lines():
    """Ratio of the gradients' squares down and across, in the lower middle of the picture."""
    ratios = {name: [across_to_along(lung_video(name, n, 1, size=96)[0]) for n in range(20)] for name in CLASSES}
    assert np.median(ratios["regular"]) > 3 * np.median(ratios["covid19"])
    above = np.array(ratios["regular"])[:, None] > np.array(ratios["covid19"])
    assert above.mean() > 0.9


def across_to_along(frame):
    smooth = gaussian_filter(frame.astype(float), 2)[48:80, 28:68]
    return (sobel(smooth, 0) ** 2).sum() / (sobel(smooth, 1) ** 2).sum()


def test_lines_repeat_at_equal_distances_in_healthy_lungs():
    repeats = {name: np.median([repeat(lung_video(name, n, 1)[0]) for n in range(16)]) for name in CLASSES}
    assert repeats["regular"] > max(repeats["covid19"], repeats["pneumonia"])


def repeat(frame):
    """The highest autocorrelation, at 14 to 44 pixels, of what stands out from the middle columns."""
    profile = frame[40:118, 54:74].astype(float).mean(1)
    lines = gaussian_filter1d(profile - gaussian_filter1d(profile, 8), 1)
    correlation = np.correlate(lines, lines, "full")[len(lines) - 1 :]
    return correlation[14:45].max() / correlation[0]


@pytest.mark.parametrize("name", CLASSES)
def test_frames_of_one_video_are_alike_but_not_equal(name):
    videos = [lung_video(name, number, 3, size=64).astype(float) for number in range(8)]
    for k, video in enumerate(videos):
        assert all((video[a] != video[b]).mean() > 0.2 for a, b in ((0, 1), (1, 2), (0, 2)))
        others = [likeness(video[0], other[0]) for n, other in enumerate(videos) if n != k]
        assert min(likeness(video[0], video[1]), likeness(video[1], video[2])) > max(others)


def likeness(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize("name", CLASSES)
def test_the_anatomy_does_not_depend_on_the_number_of_pixels(name):
    coarse, fine = (
        gaussian_filter(lung_video(name, 2, 1, size=size)[0].astype(float), size / 64) for size in (64, 128)
    )
    halved = fine.reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert likeness(coarse, halved) > 0.8


# --- what gives the class away, and what does not


def test_a_linear_probe_on_pixels_fails(files, pictures):
    assert probed(pictures, files) < 0.6


def test_brightness_by_depth_does_not_give_the_class_away(files, pictures):
    assert probed(pictures.mean(2), files) < 0.6


def test_the_probe_finds_a_class_that_brightness_gives_away(files, pictures):
    given_away = pictures * (0.7 + 0.15 * labels(files))[:, None, None]
    assert probed(brightness(given_away), files) > probed(brightness(pictures), files) + 0.1


@pytest.mark.parametrize("features", [histograms, brightness])
def test_grey_values_do_not_give_the_class_away(files, pictures, features):
    assert probed(features(pictures), files) < 0.5


def test_file_sizes_do_not_give_the_class_away(files):
    sizes = np.array([path.stat().st_size for path in files])
    assert probed(one_hot_size(sizes, sizes[is_train(files)]), files) < 0.5


def test_a_split_by_frame_leaks_and_a_split_by_video_does_not(files, pictures):
    """The class of the nearest picture: right if another frame of the video may be it, near chance if not."""
    flat = pictures.reshape(len(pictures), -1).astype(float)
    square = (flat**2).sum(1)
    distance = square[:, None] + square - 2 * flat @ flat.T
    np.fill_diagonal(distance, np.inf)
    label, video = labels(files), np.arange(len(files)) // FRAMES
    assert (label[distance.argmin(1)] == label).mean() > 0.95
    distance[video[:, None] == video] = np.inf
    assert (label[distance.argmin(1)] == label).mean() < 0.6
