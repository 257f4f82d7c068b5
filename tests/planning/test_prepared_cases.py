"""Prepared cases: what the files hold, that crops are those of the bundle's transforms, and that work resumes."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import (
    Compose,
    DeleteItemsd,
    FgBgToIndicesd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from metalr_monai import LabelToRegionsd, ScanReader, data_list, write_lits_phantoms
from metalr_monai.errors import DataError, OptionError
from metalr_monai.planning import prepared_cases
from metalr_monai.planning.prepared_cases import LoadPreparedd, prepare_cases, prepared_items

BOTH = ["image", "label"]
REGIONS = {"liver": [1, 2], "tumour": [2]}
SETTINGS = {
    "spacing": (6.0, 6.0, 7.0),
    "hu_window": (-200.0, 300.0),
    "value_range": (-1.5, 2.0),
    "regions": REGIONS,
    "identity": "plan 1",
}
CASES = ["volume-0", "volume-1", "volume-2"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "lits"
    write_lits_phantoms(folder, 3, size=(40, 44, 24), progress=False)
    return folder


@pytest.fixture(scope="module")
def made_once(phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert prepare(data_list("lits", phantoms), folder).failed == {}
    return folder


@pytest.fixture
def folder(made_once, tmp_path):
    """The three cases, prepared, to be spoilt."""
    return Path(shutil.copytree(made_once, tmp_path / "prepared"))


@pytest.fixture
def items(phantoms):
    return data_list("lits", phantoms)


def prepare(items, folder, **changed):
    return prepare_cases(items, folder, **{**SETTINGS, **changed}, progress=False)


def slowly(item):
    """The bundle's deterministic transforms."""
    return Compose(
        [
            LoadImaged(BOTH, reader=ScanReader, ensure_channel_first=True, image_only=True),
            Orientationd(BOTH, "RAS", labels=None),
            Spacingd(BOTH, SETTINGS["spacing"], mode=["bilinear", "nearest"]),
            ScaleIntensityRanged("image", *SETTINGS["hu_window"], *SETTINGS["value_range"], clip=True),
        ]
    )(item)


def changed_bytes(file, at=-1):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def times(folder):
    return {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_arrays_are_those_of_the_bundles_transforms_and_so_are_the_indices(items, folder):
    assert [item["case_id"] for item in items] == CASES
    for prepared, item in zip(prepared_items(folder, CASES, "plan 1"), items, strict=True):
        found = LoadPreparedd(BOTH)(prepared)
        wanted = FgBgToIndicesd("label")(slowly(item))
        assert found["case_id"] == item["case_id"]
        assert found["image"].dtype == torch.float32 and found["label"].dtype == torch.uint8
        # float32's rounding of HU, in the window's share of the value range
        assert (found["image"] - wanted["image"]).abs().max() < 1e-5
        assert torch.equal(found["label"].as_tensor(), wanted["label"].as_tensor())
        assert torch.equal(found["image"].affine, wanted["image"].affine)
        assert torch.equal(found["foreground"], wanted["label_fg_indices"])
        assert torch.equal(found["background"], wanted["label_bg_indices"])
        assert len(found["foreground"]) > 100


@pytest.mark.parametrize("patch", [(16, 16, 8), (24, 16, 16), (16, 96, 8), (96, 96, 64)])
def test_a_crop_is_that_of_the_bundles_own_transforms_by_the_same_seed(items, folder, patch):
    crop = {"keys": BOTH, "label_key": "label", "spatial_size": patch, "num_samples": 2}
    # where a patch is larger than the volume, the bundle may centre it on padding, which no file holds
    crop["neg"] = 1 if max(patch) < 40 else 0
    ordinary = Compose([SpatialPadd(BOTH, patch), RandCropByPosNegLabeld(**crop), LabelToRegionsd("label", REGIONS)])
    indices = {"fg_indices_key": "foreground", "bg_indices_key": "background", "allow_smaller": True}
    mapped = Compose(
        [
            LoadPreparedd(BOTH),
            RandCropByPosNegLabeld(**crop, **indices),
            DeleteItemsd(["foreground", "background"]),
            SpatialPadd(BOTH, patch),
            LabelToRegionsd("label", REGIONS),
        ]
    )
    for number, (prepared, item) in enumerate(zip(prepared_items(folder, CASES, "plan 1"), items, strict=True)):
        loaded = slowly(item)
        for seed in range(4):
            ordinary.set_random_state(100 * number + seed)
            mapped.set_random_state(100 * number + seed)
            for found, wanted in zip(mapped(prepared), ordinary(loaded), strict=True):
                assert found["image"].shape == (1, *patch) and found["label"].shape == (2, *patch)
                assert (found["image"] - wanted["image"]).abs().max() < 1e-5
                assert torch.equal(found["label"], wanted["label"])


def test_crops_of_several_cases_are_batched(folder):
    transform = Compose(
        [
            LoadPreparedd(BOTH),
            RandCropByPosNegLabeld(
                BOTH, "label", (16, 16, 8), num_samples=2, fg_indices_key="foreground", bg_indices_key="background"
            ),
            DeleteItemsd(["foreground", "background"]),
        ]
    )
    data = Dataset(prepared_items(folder, CASES, "plan 1"), transform)
    batch = next(iter(DataLoader(data, batch_size=3)))
    assert batch["image"].shape == (6, 1, 16, 16, 8)
    assert batch["case_id"] == [case for case in CASES for _ in range(2)]


def test_what_is_written_into_a_tensor_does_not_reach_the_file(folder):
    (item,) = prepared_items(folder, CASES[:1], "plan 1")
    before = Path(item["image"]).read_bytes()
    LoadPreparedd(BOTH)(item)["image"].zero_()
    assert Path(item["image"]).read_bytes() == before


BIG = """
import sys
from pathlib import Path
from monai.transforms import Compose, RandCropByPosNegLabeld, SpatialPadd
from metalr_monai.planning.prepared_cases import LoadPreparedd
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
def take(case):
    crops = transform({"image": case + "/image.npy", "label": case + "/label.npy"})
    return sum(float(crop["image"].sum()) + int(crop["label"].sum()) for crop in crops)
transform = Compose([
    LoadPreparedd(["image", "label"]),
    RandCropByPosNegLabeld(["image", "label"], "label", (64, 64, 32), num_samples=2, allow_smaller=True,
                           fg_indices_key="foreground", bg_indices_key="background"),
    SpatialPadd(["image", "label"], (64, 64, 32)),
]).set_random_state(0)
take(sys.argv[1])  # the libraries' own pages
before = peak()
assert take(sys.argv[2]) > 0
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux's /proc")
def test_a_crop_of_a_big_case_reads_little_of_it(folder, tmp_path):
    big = tmp_path / "big"
    shutil.copytree(folder / CASES[0], big)
    shape = (512, 512, 400)
    for name, dtype in (("image", np.float32), ("label", np.uint8)):
        array = np.lib.format.open_memmap(big / f"{name}.npy", "w+", dtype, shape, fortran_order=True)
        array[256, 256, 200] = 1
    for name in ("foreground", "background"):
        np.save(big / f"{name}.npy", np.array([np.ravel_multi_index((256, 256, 200), shape)], np.int32))
    command = [sys.executable, "-c", BIG, str(folder / CASES[0]), str(big)]
    told = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told < 30e6  # bytes, of 420 MB and 105 MB; mapped pages come in groups


def test_what_is_there_is_kept(items, folder):
    before = times(folder)
    result = prepare(items, folder)
    assert (result.kept, result.made, result.failed) == (tuple(CASES), (), {})
    assert times(folder) == before


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda case: (case / "image.npy").write_bytes(b"short"), "image.npy is missing or of another size"),
        (lambda case: (case / "label.npy").unlink(), "label.npy is missing or of another size"),
        (lambda case: (case / "prepared.json").unlink(), "it has no prepared.json, so it was not finished"),
        (lambda case: (case / "prepared.json").write_text("{"), "its prepared.json cannot be read"),
        (lambda case: (case / "prepared.json").write_text("[]"), "its prepared.json cannot be read"),
        (lambda case: (case / "prepared.json").write_text('{"version": 0}'), "its prepared.json is of another version"),
    ],
)
def test_a_damaged_case_alone_is_prepared_anew_and_the_log_says_why(items, folder, made_once, caplog, spoil, why):
    spoil(folder / "volume-1")
    with caplog.at_level(logging.WARNING):
        result = prepare(items, folder)
    assert (result.kept, result.made, result.failed) == (("volume-0", "volume-2"), ("volume-1",), {})
    told = [message for message in caplog.messages if message.startswith("Case ")]
    assert told == [f"Case volume-1 is prepared anew: {why}."]
    for file in sorted((made_once / "volume-1").iterdir()):
        assert (folder / "volume-1" / file.name).read_bytes() == file.read_bytes()


def test_a_changed_byte_is_found_where_hashes_are_compared(items, folder, made_once):
    changed_bytes(folder / "volume-1/image.npy")
    assert prepare(items, folder).made == ()
    assert prepare(items, folder, verify=True).made == ("volume-1",)
    assert (folder / "volume-1/image.npy").read_bytes() == (made_once / "volume-1/image.npy").read_bytes()
    assert prepare(items, folder, verify=True).made == ()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"identity": "plan 2"}, "it was prepared for another plan or data set"),
        ({"spacing": (8, 8, 8)}, "it was prepared with another spacing"),
        ({"hu_window": (-100, 100), "value_range": (0, 1)}, "it was prepared with another hu_window, value_range"),
    ],
)
def test_cases_of_another_plan_are_prepared_anew(items, folder, caplog, changed, why):
    with caplog.at_level(logging.WARNING):
        assert prepare(items, folder, **changed).made == tuple(CASES)
    assert f"Case volume-0 is prepared anew: {why}." in caplog.messages
    assert prepare(items, folder, **changed).kept == tuple(CASES)


def image_of(item, values=None, shape=None):
    """A changed copy of an item's label, in its place."""
    image = nib.load(item["label"])
    voxels = np.asanyarray(image.dataobj).astype(np.float32)
    if values is not None:
        voxels[voxels == 1] = values
    return nib.Nifti1Image(voxels if shape is None else np.resize(voxels, shape), image.affine)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda item, file: item.update(image=str(file.with_name("none.nii.gz"))), "none.nii.gz"),
        (lambda item, file: item.pop("label"), "The case has no label"),
        (
            lambda item, file: item.update(label=file) or nib.save(image_of(item | {"label": LABEL[0]}, 7), file),
            r"Its label has the values 7; the regions know \[0, 1, 2\]",
        ),
        (
            lambda item, file: item.update(label=file) or nib.save(image_of(item | {"label": LABEL[0]}, 0.5), file),
            r"Its label has the values 0.5; the regions know",
        ),
        (
            lambda item, file: item.update(label=file) or nib.save(image_of(item | {"label": LABEL[0]}, -255), file),
            r"Its label has the values -255; the regions know",
        ),
        (
            lambda item, file: (
                item.update(label=file) or nib.save(image_of({"label": LABEL[0]}, 1, (20, 20, 20)), file)
            ),
            r"Resampled, its image has the shape .* its label",
        ),
        (
            lambda item, file: item.update(image=file) or nib.save(image_of({"label": LABEL[0]}, np.nan), file),
            "Its image has voxels that are NaN or Inf",
        ),
        (
            lambda item, file: item.update(image=file) or file.write_bytes(Path(LABEL[0]).read_bytes()[:900]),
            "EOFError|Compressed file ended",
        ),
    ],
    ids=["missing", "no label", "unknown value", "no integer", "negative", "other shape", "NaN", "truncated"],
)
def test_a_case_that_fails_is_listed_with_its_reason_and_the_others_are_made(items, tmp_path, spoil, why, request):
    LABEL[:] = [items[1]["label"]]
    spoil(items[1], tmp_path / "spoilt.nii.gz")
    result = prepare(items, tmp_path / "prepared")
    assert (result.kept, result.made) == ((), ("volume-0", "volume-2"))
    assert list(result.failed) == ["volume-1"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(result.failed["volume-1"])
    with pytest.raises(DataError, match=r"1 of 3 cases in .* are not prepared: volume-1 \(it has no prepared.json"):
        prepared_items(tmp_path / "prepared", CASES, "plan 1")
    assert len(prepared_items(tmp_path / "prepared", ["volume-2", "volume-0"], "plan 1")) == 2


LABEL: list[str] = []  # of the case that is spoilt


def test_a_case_that_fails_when_it_is_prepared_anew_does_not_pass_for_prepared(items, folder):
    items[0].pop("label")
    assert list(prepare(items, folder, identity="plan 2").failed) == ["volume-0"]
    for identity in ("plan 1", "plan 2"):
        assert "volume-0" not in prepare(items[1:], folder, identity=identity).kept
        with pytest.raises(DataError, match="volume-0"):
            prepared_items(folder, ["volume-0"], identity)


def test_items_of_another_plan_are_refused_by_case(folder):
    with pytest.raises(DataError, match=r"2 of 2 cases .*volume-0 \(it was prepared for another plan"):
        prepared_items(folder, CASES[:2], "plan 2")


@pytest.mark.parametrize("name", ["image.npy", "foreground.npy", "prepared.json"])
def test_a_file_that_is_gone_or_cut_short_is_told_on_loading(folder, name):
    (item,) = prepared_items(folder, CASES[:1], "plan 1")
    file = folder / CASES[0] / name
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{CASES[0]}.*Preprocess the data set again"):
        LoadPreparedd(BOTH)(item)
    file.unlink()
    with pytest.raises(DataError, match=f"{CASES[0]}.*Preprocess the data set again"):
        LoadPreparedd(BOTH)(item)


def test_background_is_thinned_evenly_and_foreground_is_not(items, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_cases, "MOST_BACKGROUND", 500)
    prepare(items[:1], tmp_path)
    (item,) = prepared_items(tmp_path, CASES[:1], "plan 1")
    found = LoadPreparedd(BOTH)(item)
    flat = found["label"].flatten()
    every = (flat == 0).nonzero().flatten()
    assert len(found["foreground"]) == int((flat > 0).sum())
    places = torch.searchsorted(every, found["background"].long())
    assert torch.equal(every[places], found["background"].long())
    assert len(places) == 500 and places[0] == 0 and places[-1] == len(every) - 1
    # not every 100th, say: with that many slices all would lie on one
    assert set(places.diff().tolist()) == {len(every) // 500, len(every) // 500 + 1}


def test_a_label_without_foreground_or_background_is_prepared(items, tmp_path):
    empty = nib.load(items[0]["label"])
    for name, value in (("none", 0), ("all", 2)):
        nib.save(nib.Nifti1Image(np.full(empty.shape, value, np.uint8), empty.affine), tmp_path / f"{name}.nii.gz")
        items[0]["label"] = str(tmp_path / f"{name}.nii.gz")
        assert prepare(items[:1], tmp_path / name).failed == {}
        (item,) = prepared_items(tmp_path / name, CASES[:1], "plan 1")
        found = LoadPreparedd(BOTH)(item)
        sizes = {"foreground": len(found["foreground"]), "background": len(found["background"])}
        empty_one, full_one = ("foreground", "background") if name == "none" else ("background", "foreground")
        assert sizes == {empty_one: 0, full_one: found["label"].numel()}


def test_more_workers_make_the_same(items, tmp_path, made_once):
    assert prepare(items, tmp_path, workers=3).made == tuple(CASES)
    for file in sorted(made_once.rglob("*.npy")):
        assert (tmp_path / file.relative_to(made_once)).read_bytes() == file.read_bytes()


def test_new_threads_get_as_many_of_torchs_threads_as_before(items, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepare(items[:1], tmp_path, workers=2)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_a_case_that_can_have_no_folder_is_refused(items, tmp_path, name):
    with pytest.raises(DataError, match="names that no folder can have"):
        prepare([items[0] | {"case_id": name}], tmp_path)


def test_a_case_that_is_listed_twice_is_refused(items, tmp_path):
    with pytest.raises(DataError, match="listed twice: volume-0"):
        prepare([items[0], items[0]], tmp_path)


def test_workers_must_be_a_number_of_threads(items, tmp_path):
    with pytest.raises(OptionError, match="workers"):
        prepare(items, tmp_path, workers=0)
