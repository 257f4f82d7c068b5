"""The pre-training bundle: from scans without labels to a network that fine-tuning starts from."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import CONFIGS_ARE_CODE, ROOT, Bundle, call, one_thread, own_error, refusal
from lesion_2d_bundle import LESION
from monai.bundle import verify_net_in_out
from two_ranks import needs_gloo

from metalr_monai import GenesisUNet3D, describe_checkpoint, load_weights
from metalr_monai.pretraining.checks import DeformationError

GENESIS = Bundle("genesis_ct_pretraining")
PICTURES = ROOT / "configs/pretraining/pictures.json"
SMALL = {"width": 4, "spacing": [6, 6, 6], "patch_size": [32, 32, 16], "amp": False, "device": "cpu"}
TRAINING = {**SMALL, "cubes_per_scan": 6, "epochs": 2, "split": "fold 1 of 4", "lr": 0.5}
pytestmark = CONFIGS_ARE_CODE


@pytest.fixture(scope="module")
def unlabelled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans without labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    for file in sorted(data.glob("volume-*"))[:4]:
        os.link(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def pretrained(unlabelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrained")
    GENESIS.run("train.json", root=root, dataset_dir=str(unlabelled), **TRAINING)
    return root


def report(root: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((root / "runs/train/run_report.json").read_text(encoding="utf-8"))
    return content


def state(root: Path) -> dict[str, torch.Tensor]:
    content = torch.load(root / "models/model.pt", weights_only=True)
    found: dict[str, torch.Tensor] = content["state_dict"]
    return found


def test_the_file_has_the_published_layout(pretrained: Path) -> None:
    content = torch.load(pretrained / "models/model.pt", weights_only=True)
    assert sorted(content) == ["epoch", "optimizer_state_dict", "state_dict"]
    names = [f"module.{name}" for name in GenesisUNet3D(width=4, batch_statistics="always").state_dict()]
    assert list(content["state_dict"]) == names
    assert set(content["optimizer_state_dict"]) == {"state", "param_groups"}
    assert "genesis" in str(describe_checkpoint(str(pretrained / "models/model.pt"))).lower()


def test_fine_tuning_takes_all_of_it_but_the_head(pretrained: Path) -> None:
    network = GenesisUNet3D(out_channels=2, width=4, batch_statistics="always")
    loaded = load_weights(network, str(pretrained / "models/model.pt"), minimum_coverage=0.9)
    assert loaded.coverage_without_head == 1
    saved = state(pretrained)
    assert torch.equal(network.down_tr64.ops[0].conv1.weight, saved["module.down_tr64.ops.0.conv1.weight"])


def test_the_best_validation_is_what_is_saved(pretrained: Path) -> None:
    content = torch.load(pretrained / "models/model.pt", weights_only=True)
    scores = {row["epoch"]: row["metrics"]["mse"] for row in report(pretrained)["validation"]}  # type: ignore[attr-defined]
    assert list(scores) == [0, 1, 2]
    assert content["epoch"] == min((1, 2), key=lambda epoch: scores[epoch])


def test_it_learns_to_restore(unlabelled: Path, tmp_path: Path) -> None:
    GENESIS.run("train.json", root=tmp_path, dataset_dir=str(unlabelled), **{**TRAINING, "epochs": 8})
    found = report(tmp_path)
    before, last = (found["validation"][place]["metrics"]["mse"] for place in (0, -1))  # type: ignore[index]
    assert last < 0.5 * before
    assert found["warnings"] == []
    page = (tmp_path / "runs/train/report.html").read_text(encoding="utf-8")
    assert "restored" in page
    assert (tmp_path / "runs/train/restored/restored.png").stat().st_size > 10_000


def test_what_is_generated_is_scans_and_not_their_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**TRAINING, "epochs": 1, "phantoms": 4}
    GENESIS.run("train.json", root=Path("."), **options)
    split = json.loads(Path("runs/train/split.json").read_text(encoding="utf-8"))
    assert sorted(split["train"] + split["test"]) == [f"volume-{number}" for number in range(4)]


def test_a_run_that_has_ended_is_left_as_it_is(unlabelled: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 9, "patience": 1, "lr": 1e-30, "dataset_dir": str(unlabelled)}
    GENESIS.run("train.json", root=tmp_path, **options)
    before, epochs = (tmp_path / "models/model.pt").read_bytes(), report(tmp_path)["epochs"]
    GENESIS.run("train.json", root=tmp_path, **options)
    assert (tmp_path / "models/model.pt").read_bytes() == before
    assert report(tmp_path)["epochs"] == epochs
    assert report(tmp_path)["status"] == "completed"


def test_a_run_without_progress_ends(unlabelled: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 9, "patience": 2, "lr": 1e-30}
    GENESIS.run("train.json", root=tmp_path, dataset_dir=str(unlabelled), **options)
    found = report(tmp_path)
    assert found["status"] == "completed"
    assert [row["epoch"] for row in found["epochs"]] in ([1, 2, 3], [1, 2, 3, 4])  # type: ignore[attr-defined]


def test_a_killed_run_ends_as_one_that_was_not(pretrained: Path, unlabelled: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 4, "dataset_dir": str(unlabelled)}
    call(GENESIS.command("train.json", root=tmp_path / "whole", **options))
    command = GENESIS.command("train.json", root=tmp_path / "killed", **options)
    for epoch in (1, 3):
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, env=one_thread(), stdout=log, stderr=log)
        while not (tmp_path / f"killed/runs/train/resume_checkpoint_{epoch}.pt").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.01)
        time.sleep(random.Random(epoch).random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    call(command)
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    scores = [[row["metrics"] for row in report(tmp_path / name)["validation"]] for name in ("whole", "killed")]  # type: ignore[attr-defined]
    assert scores[0] == scores[1]


@needs_gloo
def test_two_processes_train_one_network(unlabelled: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "epochs": 1, "dataset_dir": str(unlabelled)}
    del options["device"]
    command = GENESIS.command("train.json", "multi_gpu_train.json", root=tmp_path, ranks=2, backend="gloo", **options)
    call(command)
    found = report(tmp_path)
    assert (found["status"], found["machine"]["processes"]) == ("completed", 2)  # type: ignore[index]
    assert all(name.startswith("module.") and not name.startswith("module.module.") for name in state(tmp_path))


def test_the_networks_shapes_are_as_the_metadata_say() -> None:
    files = {"meta_file": str(GENESIS.metadata), "config_file": str(GENESIS.configs / "train.json")}
    verify_net_in_out("network_def", device="cpu", p=1, n=2, any=32, **files, width=4)


def test_monai_finds_all_that_a_training_has(unlabelled: Path, tmp_path: Path) -> None:
    options = {**TRAINING, "dataset_dir": str(unlabelled), "bundle_root": str(tmp_path)}
    assert GENESIS.faults("train.json", **options) == []


def test_scans_that_cannot_be_learned_from_stop_the_run(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for name, voxels in {"constant": np.zeros((40, 40, 20)), "flat": np.zeros((40, 40))}.items():
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.eye(4)), tmp_path / "scans" / f"{name}.nii.gz")
    told = str(
        refusal(GENESIS, tmp_path / "run", dataset_dir=str(tmp_path / "scans"), **{**TRAINING, "split": "fold 1 of 2"})
    )
    assert "constant: every voxel is 0" in told
    assert "flat: a 2D image of 40×40" in told


def test_a_folder_without_scans_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    told = str(refusal(GENESIS, tmp_path / "run", dataset_dir=str(tmp_path / "nothing"), **TRAINING))
    assert "nothing" in told
    assert "NIfTI" in told or "nii" in told


def scan(folder: Path, name: str, voxels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    affine = np.diag([6.0, 6, 6, 1])
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), folder / f"{name}.nii.gz")


def test_a_scan_of_air_is_refused_with_what_was_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("air", "other"):
        scan(tmp_path / "scans", name, rng.integers(-1000, -950, (40, 40, 24)))
    options = {**TRAINING, "split": "fold 1 of 2", "dataset_dir": str(tmp_path / "scans")}
    told = str(refusal(GENESIS, tmp_path / "run", **options))
    assert "none of" in told
    assert "0.0% to 0.0%" in told


def test_small_scans_and_strange_intensities_are_told_in_the_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scan(tmp_path / "scans", "small", rng.integers(0, 200, (20, 40, 24)))
    scan(tmp_path / "scans", "other", rng.integers(-1000, 1000, (40, 40, 24)))
    options = {
        **TRAINING,
        "split": "fold 1 of 2",
        "epochs": 1,
        "dataset_dir": str(tmp_path / "scans"),
        "occupied": [0.1, 1],
    }
    with pytest.warns(UserWarning, match="small"):
        GENESIS.run("train.json", root=tmp_path / "run", **options)
    told = " ".join(report(tmp_path / "run")["warnings"])  # type: ignore[arg-type]
    assert "small: not like HU" in told
    assert "1 of 2 cases are smaller than patch_size 32×32×16" in told


def test_a_wrong_setting_is_refused_by_its_name(unlabelled: Path, tmp_path: Path) -> None:
    told = str(refusal(GENESIS, tmp_path, dataset_dir=str(unlabelled), **{**TRAINING, "cubes_per_scan": 0}))
    assert "cubes_per_scan is 0; expected a whole number, 1 or more" in told


def test_values_beyond_the_window_are_an_error_of_the_deformation() -> None:
    from metalr_monai.pretraining.deform import DeformBatch

    with pytest.raises(DeformationError, match=r"\[0, 1\]"):
        DeformBatch(0)(torch.full((2, 1, 32, 32, 16), 2.0), 0)


def test_pictures_make_a_classifiers_initial_network(frames: Path, tmp_path: Path) -> None:
    options = {"epochs": 2, "batch_size": 6, "split": "fold 1 of 3", "amp": False, "device": "cpu", "width": 4}
    GENESIS.run(
        *("train.json", PICTURES),
        root=tmp_path,
        dataset_dir=str(frames),
        **options,
        **{"fine_tuned#widen_factor": 0.125},
    )
    assert report(tmp_path)["status"] == "completed"
    parser = LESION.workflow("train.json", **{"network_def#widen_factor": 0.125}).parser
    classifier = parser.get_parsed_content("network_def")
    loaded = load_weights(classifier, str(tmp_path / "models/model.pt"), minimum_coverage=0.9)
    assert loaded.coverage_without_head == 1
    assert torch.equal(classifier.conv1.weight, state(tmp_path)["module.conv1.weight"])


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RuntimeError) as caught:
        GENESIS.run("train.json", PICTURES, root=tmp_path / "run", dataset_dir=str(tmp_path / "nothing"))
    assert f"{tmp_path / 'nothing'}" in str(own_error(caught.value))
