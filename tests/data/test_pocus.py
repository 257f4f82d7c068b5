"""Lung ultrasound: frames by video, raw videos into frames, a pickle of folds into files."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from pictures import blobs, save
from PIL import Image

from metalr_monai.data.group_splits import make_group_split
from metalr_monai.data.image_lists import image_list
from metalr_monai.data.pocus_folds import write_pocus_folds
from metalr_monai.data.pocus_videos import write_pocus_frames
from metalr_monai.errors import DataError, OptionError

FILES = [
    "covid19/Cov-Atlas+(44).gif_frame0.jpg",
    "covid19/Cov-Atlas+(44).gif_frame12.jpg",
    "covid19/Cov-Atlas+(45).gif_frame0.jpg",
    "pneumonia/Pneu-grep-1.mp4_frame0.jpg",
    "pneumonia/pneu-everyday.gif_frame3.jpg",
    "regular/Reg-NormalLungs.mp4_frame9.jpg",
    "regular/Reg-still.jpg",
]


def folder_of(root, files=FILES):
    for n, file in enumerate(files):
        save(root / file, n)
    return root


def groups(items):
    return {item["case_id"].rpartition("/")[2]: item["group"] for item in items}


# --- frame folders ---


def test_a_group_is_the_video_of_a_frame(tmp_path):
    items = image_list("pocus", folder_of(tmp_path))
    assert Counter((item["class_name"], item["label"]) for item in items) == {
        ("covid19", 0): 3,
        ("pneumonia", 1): 2,
        ("regular", 2): 2,
    }
    assert groups(items)["Cov-Atlas+(44).gif_frame0"] == groups(items)["Cov-Atlas+(44).gif_frame12"] == "Cov-Atlas+(44)"
    assert len(set(groups(items).values())) == 6
    assert "part" not in items[0]


def test_classes_are_told_by_names_in_one_folder_and_by_the_published_folder_covid(tmp_path):
    one = image_list("pocus", folder_of(tmp_path / "one", [file.partition("/")[2] for file in FILES]))
    covid = image_list("pocus", folder_of(tmp_path / "two", [file.replace("covid19/", "covid/") for file in FILES]))
    for items in (one, covid):
        assert Counter(item["label"] for item in items) == {0: 3, 1: 2, 2: 2}


def test_linear_probe_and_viral_pneumonia_are_passed_over_and_said(tmp_path):
    more = ["linear/Cov-a.jpg", "covid19/Cov-linear_b.mp4_frame0.jpg", "viral/Vir-c.jpg", "pneumonia/Vir-d.jpg"]
    items = image_list("pocus", folder_of(tmp_path, FILES + more))
    assert len(items) == 7
    assert items.notes == ["2 image(s) of the linear probe passed over", "2 image(s) of viral pneumonia passed over"]


@pytest.mark.parametrize("odd", ["covid19/Reg-a.jpg", "other/frame1.jpg"])
def test_a_class_that_is_not_told_or_told_twice_is_refused(tmp_path, odd):
    with pytest.raises(DataError, match=f"such as {odd}"):
        image_list("pocus", folder_of(tmp_path, [*FILES, odd]))


def test_a_video_in_two_classes_or_folds_is_refused(tmp_path):
    twice = [*FILES, "covid19/x.gif_frame0.jpg", "regular/x.gif_frame1.jpg"]
    with pytest.raises(DataError, match=r"1 video\(s\) are in two classes, such as x: covid19 and regular"):
        image_list("pocus", folder_of(tmp_path / "a", twice))
    folds = [f"split{k}/{file}" for k in (0, 1) for file in FILES[:1]]
    with pytest.raises(DataError, match="in two folds"):
        image_list("pocus", folder_of(tmp_path / "b", folds))


def test_published_split_folders_are_folds(tmp_path):
    files = [
        f"split{k}/{name}/{prefix}-{k}.gif_frame{n}.jpg"
        for k in range(3)
        for name, prefix in (("covid", "Cov"), ("pneumonia", "Pneu"), ("regular", "Reg"))
        for n in range(2)
    ]
    items = image_list("pocus", folder_of(tmp_path, files))
    assert {item["part"] for item in items} == {"fold 1", "fold 2", "fold 3"}
    split = make_group_split(items, "published fold 1", meta=0.5)
    assert sorted(split["test"]) == sorted(item["case_id"] for item in items if "split0" in item["image"])
    assert len(split["train"]) == len(split["meta"]) == 6


def test_raw_videos_alone_are_refused_with_the_way_out(tmp_path):
    (tmp_path / "pocus_videos/convex").mkdir(parents=True)
    gif(tmp_path / "pocus_videos/convex/Cov-a.gif")
    with pytest.raises(DataError, match="write_pocus_frames"):
        image_list("pocus", tmp_path)


# --- raw videos ---


def gif(path, frames=10, milliseconds=100):
    pictures = [Image.fromarray(blobs(n)) for n in range(frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=milliseconds)
    return path


def raw(root):
    for name in ("Cov-a", "pneu-b", "Reg-c"):
        gif(root / f"pocus_videos/convex/{name}.gif")
    gif(root / "pocus_videos/linear/Cov-d.gif")
    save(root / "pocus_images/convex/Reg-e.jpg", 99)
    return root


def test_frames_are_sampled_by_time_and_read_back_by_video(tmp_path):
    written = write_pocus_frames(raw(tmp_path / "raw"), tmp_path / "frames", rate=5)
    names = sorted(path.name for path in (written / "covid19").iterdir())
    assert names == [f"Cov-a.gif_frame{k}.png" for k in (0, 2, 4, 6, 8)]
    items = image_list("pocus", written)
    assert Counter(item["group"] for item in items) == {"Cov-a": 5, "pneu-b": 5, "Reg-c": 5, "Reg-e": 1}
    settings = json.loads((written / "frames.json").read_text())
    assert settings["images"] == {"covid19": 5, "pneumonia": 5, "regular": 6}
    back = np.asarray(Image.open(written / "covid19/Cov-a.gif_frame4.png").convert("L"), dtype=float)
    assert np.abs(back - blobs(4)).mean() < 3  # a GIF has 256 colours


def test_no_more_frames_than_asked_for_and_all_where_the_rate_is_higher(tmp_path):
    few = write_pocus_frames(raw(tmp_path / "raw"), tmp_path / "few", rate=5, most=2)
    assert len(list((few / "covid19").iterdir())) == 2
    all_of_them = write_pocus_frames(tmp_path / "raw", tmp_path / "all", rate=1000)
    assert len(list((all_of_them / "covid19").iterdir())) == 10


def test_frames_are_written_once_and_not_over_others(tmp_path):
    written = write_pocus_frames(raw(tmp_path / "raw"), tmp_path / "frames")
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    assert write_pocus_frames(tmp_path / "raw", tmp_path / "frames") == written
    assert before == {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    with pytest.raises(DataError, match=r"written with rate=3\.0"):
        write_pocus_frames(tmp_path / "raw", tmp_path / "frames", rate=5)
    with pytest.raises(DataError, match="was not written here"):
        write_pocus_frames(tmp_path / "raw", tmp_path / "raw")


def test_unreadable_videos_are_all_named_before_anything_is_written(tmp_path):
    root = raw(tmp_path / "raw")
    for name in ("Cov-x.gif", "Reg-y.gif"):
        (root / "pocus_videos/convex" / name).write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"2 of 6 files cannot be read: Cov-x\.gif.*Reg-y\.gif"):
        write_pocus_frames(root, tmp_path / "frames")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_a_video_that_is_damaged_later_is_cut_short_with_a_warning(tmp_path):
    root = raw(tmp_path / "raw")
    path = root / "pocus_videos/convex/Cov-a.gif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.warns(UserWarning, match=r"1 video\(s\) are damaged and were cut short: Cov-a\.gif"):
        written = write_pocus_frames(root, tmp_path / "frames", rate=10)
    assert 1 <= len(list((written / "covid19").iterdir())) < 10


@pytest.mark.parametrize("bad", [{"rate": 0}, {"rate": float("nan")}, {"most": 0}])
def test_impossible_rates_are_refused(tmp_path, bad):
    with pytest.raises(OptionError, match="expected frames per second"):
        write_pocus_frames(raw(tmp_path / "raw"), tmp_path / "frames", **bad)


def test_names_without_a_class_and_folders_without_videos_are_refused(tmp_path):
    gif(raw(tmp_path / "raw") / "pocus_videos/convex/what.gif")
    with pytest.raises(DataError, match=r"tell no class.*what\.gif"):
        write_pocus_frames(tmp_path / "raw", tmp_path / "frames")
    with pytest.raises(DataError, match="no videos in pocus_videos/convex"):
        write_pocus_frames(tmp_path, tmp_path / "frames")


def test_videos_that_are_no_gifs_are_decoded(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed: the extra metalr_monai[video]")
    path = tmp_path / "raw/pocus_videos/convex/Cov-a.mp4"
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(20):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(blobs(n)).convert("RGB"))))
        container.mux(stream.encode())
    written = write_pocus_frames(tmp_path / "raw", tmp_path / "frames", rate=2)
    names = sorted(path.name for path in (written / "covid19").iterdir())
    assert names == [f"Cov-a.mp4_frame{k}.png" for k in (0, 10, 15, 5)]
    path.write_bytes(b"no video")
    with pytest.raises(DataError, match=r"Cov-a\.mp4 cannot be decoded"):
        write_pocus_frames(tmp_path / "raw", tmp_path / "again")


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    raw(tmp_path / "raw")
    (tmp_path / "raw/pocus_videos/convex/Cov-a.mp4").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match=r"metalr_monai\[video\]"):
        write_pocus_frames(tmp_path / "raw", tmp_path / "frames")


# --- the pickle of folds ---


def folds(channels=1, count=6):
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (count, channels, 16, 12)).astype(np.float64) for _ in range(5)]
    return images, [np.arange(count) % 3 for _ in range(5)]


def pickled(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_a_pickle_is_refused_until_it_is_trusted(tmp_path):
    path = pickled(tmp_path / "pocus.pkl", folds())
    with pytest.raises(OptionError, match="trust_pickle=True"):
        write_pocus_folds(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_folds_become_files_that_the_reader_splits_as_published(tmp_path, protocol):
    images, labels = folds()
    written = write_pocus_folds(
        pickled(tmp_path / "pocus.pkl", (images, labels), protocol), tmp_path / "out", trust_pickle=True
    )
    assert [len(fold) for fold in written] == [6] * 5
    assert (np.asarray(Image.open(written[1][4])) == images[1][4, 0]).all()
    items = image_list("pocus", tmp_path / "out")
    assert len(items) == 30
    split = make_group_split(items, "published fold 2", meta=0.25)
    assert {case.partition("/")[0] for case in split["test"]} == {"fold2"}
    assert len(split["meta"]) == 6


def test_colour_one_hot_lists_and_numpy_numbers_are_read(tmp_path):
    images, labels = folds(channels=3)
    content = ([list(fold) for fold in images], [np.eye(3)[fold] for fold in labels])
    written = write_pocus_folds(pickled(tmp_path / "a.pkl", content), tmp_path / "a", trust_pickle=True)
    assert (np.asarray(Image.open(written[0][5])) == images[0][5].transpose(1, 2, 0)).all()
    assert "regular" in written[0][5]
    numbers = (images, [[np.int64(label) for label in fold] for fold in labels])
    write_pocus_folds(pickled(tmp_path / "b.pkl", numbers), tmp_path / "b", trust_pickle=True)


class Evil:
    def __reduce__(self):
        return (eval, ("open('evil', 'w').close()",))


@pytest.mark.parametrize("content", [Evil(), (folds()[0], Evil()), np.load])
def test_even_a_trusted_pickle_cannot_run_anything(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="expected numpy arrays, lists and tuples alone"):
        write_pocus_folds(pickled(tmp_path / "evil.pkl", content), tmp_path / "out", trust_pickle=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pkl"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"X": 1}, "holds a dict"),
        ((folds()[0], folds()[1][:4]), "5 folds of images and 4 of labels"),
        (([fold[:, 0] for fold in folds()[0]], folds()[1]), "fold 1: float64 of shape"),
        (([fold / 255 for fold in folds()[0]], folds()[1]), r"expected 0 … 255"),
        ((folds()[0], [fold + 1 for fold in folds()[1]]), "fold 1: labels"),
        ((folds()[0], [fold[:5] for fold in folds()[1]]), "expected 6 of 0, 1 and 2"),
        (([[np.zeros((1, 4, 4)), np.zeros((1, 5, 5))]] * 5, folds()[1]), "no array can be made"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        write_pocus_folds(pickled(tmp_path / "a.pkl", content), tmp_path / "out", trust_pickle=True)
    assert not (tmp_path / "out").exists()


def test_missing_and_broken_pickles_and_old_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*a\.pkl"):
        write_pocus_folds(tmp_path / "a.pkl", tmp_path / "out", trust_pickle=True)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(folds())[:200])
    with pytest.raises(DataError, match=r"a\.pkl is not a pickle of arrays"):
        write_pocus_folds(tmp_path / "a.pkl", tmp_path / "out", trust_pickle=True)
    with pytest.raises(DataError, match="exists already"):
        write_pocus_folds(tmp_path / "a.pkl", tmp_path, trust_pickle=True)
