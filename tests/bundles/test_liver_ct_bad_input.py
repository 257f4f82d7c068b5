"""The liver CT bundle refuses bad input before it trains, and a full disk costs no epoch that was done."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from liver_ct_bundle import TRAINING, WARNINGS, command, one_thread, own_error, rows, run, weights

from metalr_monai import GenesisUNet3D, MetaLRError
from metalr_monai.__main__ import main
from metalr_monai.errors import DataError, MetaDataError, OptionError, WeightsError

pytestmark = WARNINGS


def refusal(root: Path, **options: object) -> MetaLRError:
    """The error of a run that was refused before it trained."""
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=root, **{**TRAINING, **options})
    assert not list(root.rglob("*.pt"))
    assert not list(root.rglob("rates.csv"))
    return own_error(caught.value)


@pytest.fixture
def scans(data: Path, tmp_path: Path) -> Path:
    """Four phantoms to spoil."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(4):
        for name in ("volume", "segmentation"):
            shutil.copy(data / f"{name}-{number}.nii.gz", folder)
    return folder


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"patch_size": [32, 30, 16]},
            "patch_size is [32, 30, 16]; expected three multiples of 8, as [32, 24, 16] or [32, 32, 16]",
        ),
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"val_interval": 0}, "val_interval is 0;"),
        ({"batch_size": 0}, "batch_size is 0;"),
        ({"patches_per_volume": 1.5}, "patches_per_volume is 1.5;"),
        ({"lr": 0}, "lr is 0; expected a number above 0"),
        ({"lr": 0.5}, "lr is 0.5, outside of bounds [1e-06, 0.1]"),
        ({"bounds": [0.1, 1e-6]}, "bounds are (0.1, 1e-06); expected 0 < lowest < highest"),
        ({"spacing": [1, 1, 0]}, "spacing is [1, 1, 0]; expected three numbers above 0, in mm"),
        ({"hu_window": [250, -150]}, "hu_window is [250, -150]; expected two numbers, the lower first"),
        ({"meta": 0}, "meta is 0;"),
        ({"rule": "proportinal"}, "Did you mean proportional?"),
        (
            {"dataset_kind": "lit"},
            "dataset_kind is 'lit'; expected one of lits, msd, nnunet, pairs, pocus, busi, chest_xray. Did you mean",
        ),
        ({"check": "voxel"}, "check is 'voxel'; expected one of voxels, headers, none. Did you mean voxels?"),
        ({"regions": {"liver": [0, 1]}}, "regions: 'liver' has the values [0, 1]"),
        ({"regions": {"tumour": [2], "liver": [1, 2]}}, "'tumour' lies inside 'liver', which would cover it"),
        ({"regions": {"a": [1, 2], "b": [2, 3]}}, "'a' and 'b' share [2]"),
    ],
)
def test_a_setting_is_refused_by_its_name_before_data_are_looked_for(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    error = refusal(tmp_path, dataset_dir=str(tmp_path / "nowhere"), **options)
    assert isinstance(error, OptionError)
    assert says in str(error)


def test_schemes_without_learned_rates_are_checked_as_well(tmp_path: Path) -> None:
    scheme = Path(__file__).parents[2] / "configs/schemes/all_layers.json"
    with pytest.raises(RuntimeError) as caught:
        run("train.json", scheme, root=tmp_path, **{**TRAINING, "val_interval": 0})
    assert "val_interval is 0" in str(own_error(caught.value))


# ---------------------------------------------------------------------- checkpoints


def test_checkpoint_of_another_network_stops_before_training(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.weights"
    torch.save(GenesisUNet3D(width=8, batch_statistics="standard").state_dict(), other)
    error = refusal(tmp_path, dataset_dir=str(data), checkpoint=str(other))
    assert isinstance(error, WeightsError)
    assert "other.weights" in str(error)
    assert not (tmp_path / "runs").exists()


def test_a_missing_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    error = refusal(tmp_path, dataset_dir=str(data), checkpoint=str(tmp_path / "nowhere.pt"))
    assert isinstance(error, WeightsError)
    assert "nowhere.pt" in str(error)


# ---------------------------------------------------------------------- cases


def test_missing_data_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    error = refusal(tmp_path, dataset_dir=str(missing))
    assert isinstance(error, DataError)
    assert str(missing) in str(error)


def test_images_without_labels_are_named(scans: Path, tmp_path: Path) -> None:
    for file in scans.glob("segmentation*"):
        file.unlink()
    error = refusal(tmp_path, dataset_dir=str(scans), dataset_kind="pairs", check="none")
    assert "4 of 4 cases have no label: volume-" in str(error)


@pytest.mark.parametrize(("meta", "says"), [(23, "meta is 23, and the training part has 3 case(s)"), (3, "meta is 3")])
def test_too_few_cases_to_hold_out_are_counted(meta: int, says: str, scans: Path, tmp_path: Path) -> None:
    error = refusal(tmp_path, dataset_dir=str(scans), meta=meta)
    assert isinstance(error, MetaDataError)
    assert says in str(error)
    assert "Set `meta` to a count below 3, to a share such as 0.25, or to 'training'" in str(error)


def test_less_than_a_batch_to_hold_out_is_refused(scans: Path, tmp_path: Path) -> None:
    error = refusal(tmp_path, dataset_dir=str(scans), meta=1)
    assert "meta is 1, which holds 1 of 3 training cases out: fewer than one batch" in str(error)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"train": ["volume-0", "volume-1", "volume-1"], "test": ["volume-2"]}, "part 'train', names cases twice"),
        ({"train": ["volume-0", "volume-1"], "test": ["volume-1"]}, "volume-1: train, test"),
        ({"train": ["volume-0", "volume-9"], "test": ["volume-1"]}, "lacks: volume-9"),
    ],
)
def test_a_faulty_split_is_named(parts: dict[str, list[str]], says: str, scans: Path, tmp_path: Path) -> None:
    split = tmp_path / "mine.json"
    split.write_text(json.dumps(parts), encoding="utf-8")
    error = refusal(tmp_path, dataset_dir=str(scans), split=str(split))
    assert isinstance(error, DataError)
    assert "mine.json" in str(error) and says in str(error)


# ---------------------------------------------------------------------- volumes


def change(path: Path, new: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(new(np.asanyarray(image.dataobj)), image.affine), path)


def with_value(dtype: type, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def new(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(dtype)
        voxels[:2, 0, 0] = value
        return voxels

    return new


def shift(path: Path) -> None:
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 4
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), path)


def as_rgb(voxels: np.ndarray) -> np.ndarray:
    return np.zeros(voxels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing label": ("segmentation", Path.unlink, "1 of 4 volumes have no segmentation: volume-3"),
    "other shape": (
        "segmentation",
        lambda p: change(p, lambda v: v[1:]),
        "its shape is 63×64×32, its image's 64×64×32",
    ),
    "other place": ("segmentation", shift, "its affine puts a corner 4 mm from its image's"),
    "unknown label": (
        "segmentation",
        lambda p: change(p, with_value(np.uint8, 7)),
        "unknown label values 7 (2 voxels)",
    ),
    "truncated": ("volume", lambda p: p.write_bytes(p.read_bytes()[:-4000]), "the voxels cannot be read"),
    "NaN": ("volume", lambda p: change(p, with_value(np.float32, np.nan)), "2 of 131072 voxels are NaN or Inf"),
    "Inf": ("volume", lambda p: change(p, with_value(np.float32, np.inf)), "2 of 131072 voxels are NaN or Inf"),
    "2D": ("volume", lambda p: change(p, lambda v: v[:, :, 0]), "a 2D image of 64×64"),
    "4D": ("volume", lambda p: change(p, lambda v: np.stack([v, v], axis=-1)), "a 4D image of 64×64×32×2"),
    "RGB": ("volume", lambda p: change(p, as_rgb), "colour (RGB)"),
    "constant": ("volume", lambda p: change(p, np.zeros_like), "every voxel is 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_is_named_by_the_bundle_and_by_check_data(
    fault: str, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, spoil, says = FAULTS[fault]
    spoil(scans / f"{name}-3.nii.gz")
    error = refusal(tmp_path, dataset_dir=str(scans))
    assert isinstance(error, DataError)
    assert says in str(error)
    assert "volume-3" in str(error)
    assert main(["check-data", "lits", str(scans), "--voxels"]) == 2
    assert says in "".join(capsys.readouterr())


def test_a_case_that_is_there_twice_is_named(scans: Path, tmp_path: Path) -> None:
    (scans / "again").mkdir()
    shutil.copy(scans / "volume-3.nii.gz", scans / "again")
    assert "there more than once: volume-3" in str(refusal(tmp_path, dataset_dir=str(scans)))


def test_labels_that_are_all_empty_are_refused(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in scans.glob("segmentation*"):
        change(file, np.zeros_like)
    assert "every label is empty, so there is nothing to learn" in str(refusal(tmp_path, dataset_dir=str(scans)))
    assert main(["check-data", "lits", str(scans), "--voxels"]) == 2
    assert "every label is empty" in capsys.readouterr().out


def test_a_region_that_no_training_case_has_is_refused(scans: Path, tmp_path: Path) -> None:
    for file in scans.glob("segmentation*"):
        change(file, lambda label: np.minimum(label, 1))
    error = refusal(tmp_path, dataset_dir=str(scans), regions={"liver": [1, 2], "tumour": [2]})
    assert "The region 'tumour', label values [2], is in none of the 3 training cases" in str(error)


@pytest.mark.filterwarnings("ignore:Num foregrounds 0:UserWarning")  # MONAI's cropping of the empty label
def test_what_is_unusual_is_said_once_and_stands_in_the_report(
    scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine.json").write_text(
        json.dumps({"train": ["volume-1", "volume-2", "volume-3"], "test": ["volume-0"]}), encoding="utf-8"
    )
    change(scans / "volume-1.nii.gz", lambda voxels: voxels + 1024)
    change(scans / "segmentation-2.nii.gz", np.zeros_like)
    for name in ("volume", "segmentation"):
        change(scans / f"{name}-3.nii.gz", lambda voxels: voxels[:, :, 8:-8])
    options = {**TRAINING, "epochs": 1, "meta": "training", "split": str(tmp_path / "mine.json")}
    with caplog.at_level(logging.WARNING, logger="metalr_monai"):
        run("train.json", root=tmp_path, dataset_dir=str(scans), **options)
    (record,) = [record for record in caplog.records if record.name.startswith("metalr_monai.data")]
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    for text in (record.getMessage(), "\n".join(report["warnings"])):
        assert "volume-1: not like HU, where air is −1000: minimum " in text
        assert " % of the voxels above -200 (volume-1.nii.gz)" in text.replace(str(scans) + "/", "")
        assert "volume-2: the label is empty: background alone" in text
        assert "1 of 4 cases are smaller than patch_size 32×32×16 after resampling to 6×6×6 mm" in text
        assert "padded with air: volume-3 (" in text
    assert rows(tmp_path / "runs/train/rates.csv")


# ---------------------------------------------------------------------- disk


def with_small_files(arguments: list[str], largest: int) -> list[str]:
    """The command, in a process that can write no file of more than `largest` bytes, as if the disk were full."""
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))"
    go_on = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [sys.executable, "-c", f"import os, resource, sys; {limit}; {go_on}", *arguments[1:]]


def test_a_full_disk_leaves_the_last_checkpoint_to_go_on_from(trained: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="limits of a process are a matter of Unix")
    folder = tmp_path / "runs/train"
    run("train.json", root=tmp_path, dataset_dir=str(data), **{**TRAINING, "epochs": 1})
    checkpoint = folder / "resume_checkpoint_1.pt"
    before = {path: path.read_bytes() for path in (checkpoint, tmp_path / "models/model.pt")}
    largest = checkpoint.stat().st_size - 1000
    arguments = with_small_files(command("train.json", root=tmp_path, dataset_dir=data, **TRAINING), largest)
    done = subprocess.run(arguments, env=one_thread(), capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode != 0
    assert "File too large: " in done.stderr and "resume_checkpoint_2.pt" in done.stderr
    assert json.loads((folder / "run_report.json").read_text(encoding="utf-8"))["status"] == "failed"
    assert {path: path.read_bytes() for path in before} == before
    assert torch.load(checkpoint, weights_only=True)["report"]["epoch"] == 1
    wanted = {path.name for path in (trained / "runs/train").iterdir()}
    assert {path.name for path in folder.iterdir()} == wanted - {"resume_checkpoint_2.pt"}

    run("train.json", root=tmp_path, dataset_dir=str(data), **TRAINING)
    whole, resumed = weights(trained), weights(tmp_path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
