"""The stages of a plan through the command line, on a few generated scans: what they leave, resume and refuse."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from liver_ct_bundle import WARNINGS

from metalr_monai import GenesisUNet3D, data_list, write_lits_phantoms
from metalr_monai.__main__ import main
from metalr_monai.planning.nnunet_files import write_nnunet_raw
from metalr_monai.planning.plan import Choice, read_plan, write_plan
from metalr_monai.planning.stages import open_plan

pytestmark = WARNINGS
ROOT = Path(__file__).parents[2]
BUNDLE = str(ROOT / "bundles" / "liver_ct_segmentation")
LIVER = {"background": 0, "liver": 1, "tumour": 2}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scans in nnU-Net's layout."""
    folder = tmp_path_factory.mktemp("scans")
    write_lits_phantoms(folder / "lits", 4, size=(40, 40, 24), progress=False)
    return write_nnunet_raw(data_list("lits", folder / "lits"), folder / "Dataset001_Liver", LIVER, progress=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow network's, for coarse voxels."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("checkpoint") / "start.pt"
    torch.save(GenesisUNet3D(1, 1, 4, batch_statistics="always").state_dict(), file)
    settings = {"spacing": [9, 9, 9], "patch_size": [32, 32, 16], "hu_window": [-1000, 1000], "value_range": [0, 1]}
    file.with_suffix(".json").write_text(json.dumps(settings), encoding="utf-8")
    return file


def words_of(scans: Path, plan: Path, checkpoint: Path, iterations: int = 4) -> list[str]:
    return [
        *("nnunet", str(scans), "--output", str(plan), "--bundle", BUNDLE, "--checkpoint", str(checkpoint)),
        *("--iterations", str(iterations), "--folds", "2", "--memory", "2"),
    ]


@pytest.fixture(scope="module")
def done(scans: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a plan of which everything is done."""
    folder = tmp_path_factory.mktemp("work")
    assert main(["run-all", *words_of(scans, folder / "plan.json", checkpoint)]) == 0
    return folder


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(done, tmp_path / "work"))


def test_run_all_leaves_every_stage_s_files(done: Path) -> None:
    assert json.loads((done / "dataset_fingerprint.json").read_text())["spacings"]
    assert len(json.loads((done / "splits_final.json").read_text())) == 2
    for fold in (1, 2):
        run = done / "folds" / f"fold_{fold}"
        report = json.loads((run / "run_report.json").read_text())
        assert report["status"] == "completed" and report["metalr"]
        assert {"report.html", "rates.csv", "metrics.csv", "split.json"} <= {file.name for file in run.iterdir()}
        assert len(json.loads((run / "validation/summary.json").read_text())["metric_per_case"]) == 2
    assert (done / "postprocessing.json").is_file()


def test_each_case_is_scored_once_by_a_network_that_never_saw_it(done: Path) -> None:
    folds = open_plan(done).folds
    for number, fold in enumerate(folds, 1):
        split = json.loads((done / f"folds/fold_{number}/split.json").read_text())
        assert set(split["test"]) == set(fold["val"]) and not set(split["train"]) & set(fold["val"])
    summary = json.loads((done / "cross_validation/summary.json").read_text())
    files = [Path(case["prediction_file"]).name for case in summary["metric_per_case"]]
    assert sorted(files) == sorted(f"{case}.nii.gz" for fold in folds for case in fold["val"])
    assert set(summary["mean"]) == {"1", "2"}  # nnU-Net's keys of its labels


def test_the_training_sees_what_the_plan_says(done: Path) -> None:
    plan, report = read_plan(done / "plan.json"), json.loads((done / "folds/fold_1/run_report.json").read_text())
    names = (
        "spacing",
        "patch_size",
        "hu_window",
        "value_range",
        "epochs",
        "batch_size",
        "lr",
        "momentum",
        "match_norms",
    )
    for name in names:
        assert report["settings"][name] == plan[name], name
    assert report["settings"]["plan"] == plan.identity
    assert report["weights"]["coverage"] > 0.9


def test_predictions_are_on_the_images_grids_with_the_data_set_s_labels(
    done: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(done / "plan.json"), str(scans / "imagesTr"), str(tmp_path / "masks"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 4
    for image in (scans / "imagesTr").iterdir():
        mask = nib.load(tmp_path / "masks" / image.name.replace("_0000", ""))
        assert mask.shape == nib.load(image).shape
        np.testing.assert_allclose(mask.affine, nib.load(image).affine, atol=1e-4)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2}


def test_what_is_done_is_not_done_again(copied: Path, scans: Path, checkpoint: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*.pt")}
    stages = open_plan(copied)
    assert stages.train() == {1: False, 2: False}
    prepared = stages.preprocess(verify=True)
    assert len(prepared.kept) == 4 and not prepared.made
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*.pt")} == before


def test_a_damaged_prepared_case_is_made_anew_when_it_is_verified(copied: Path) -> None:
    stages = open_plan(copied)
    image = next(iter(sorted((copied / "preprocessed").iterdir()))) / "image.npy"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert stages.preprocess(verify=True).made == (image.parent.name,)
    assert image.read_bytes() == content


def test_ten_scans_in_five_folds_killed_twice_go_on_without_the_finished_folds(
    checkpoint: Path, tmp_path: Path
) -> None:
    write_lits_phantoms(tmp_path / "lits", 10, size=(40, 40, 24), progress=False)
    given = ["lits", str(tmp_path / "lits"), "--output", str(tmp_path / "plan.json"), "--bundle", BUNDLE]
    given += ["--checkpoint", str(checkpoint), "--memory", "2"]
    assert main(["plan", *given]) == 0
    plan = read_plan(tmp_path / "plan.json")
    epochs = {
        name: Choice(value, "for a test") for name, value in {"passes": 1, "epochs": 8, "val_interval": 8}.items()
    }
    write_plan(replace(plan, choices={**plan.choices, **epochs}), tmp_path / "plan.json")
    words = ["run-all", *given]
    folds = [tmp_path / "folds" / f"fold_{number}" for number in range(1, 6)]
    finished: dict[Path, int] = {}
    for stopped in (1, 3):
        _killed_at(words, folds[stopped] / "resume_checkpoint_2.pt")
        for fold in folds[:stopped]:
            file = fold / "model/model.pt"
            assert file.stat().st_mtime_ns == finished.setdefault(file, file.stat().st_mtime_ns)
    assert main(words) == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished and len(finished) == 3
    reports = [json.loads((fold / "run_report.json").read_text()) for fold in folds]
    assert all(len(report["epochs"]) == report["max_epochs"] == 8 for report in reports)
    assert [bool(report["resumed_after_epochs"]) for report in reports] == [False, True, False, True, False]
    summary = json.loads((tmp_path / "cross_validation/summary.json").read_text())
    assert len(summary["metric_per_case"]) == 10


def _killed_at(words: list[str], file: Path) -> None:
    """Run the verb, and kill it as soon as `file` is there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "metalr_monai", *words], cwd=ROOT, env=environment)
    until = time.monotonic() + 300
    while not file.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert file.exists()


def test_data_that_has_changed_is_refused_before_anything_is_trained(
    done: Path, scans: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(scans, tmp_path / scans.name))
    plan = read_plan(done / "plan.json")
    shutil.copy(done / "splits_final.json", tmp_path)
    write_plan(replace(plan, dataset={**plan.dataset, "folder": str(other)}), tmp_path / "plan.json")
    label = other / "labelsTr" / "volume-2.nii.gz"
    label.write_bytes((other / "labelsTr" / "volume-1.nii.gz").read_bytes())
    assert main(["train", str(tmp_path / "plan.json")]) == 2
    told = capsys.readouterr().err
    assert "1 changed: volume-2 (label)" in told and "plan again" in told


def test_a_fold_of_another_plan_is_refused_with_what_differs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(copied / "plan.json")
    write_plan(replace(plan, choices={**plan.choices, "lr": Choice(0.005, "by hand")}), copied / "plan.json")
    for verb in (["train"], ["evaluate"], ["postprocess"]):
        assert main([*verb, str(copied / "plan.json")]) == 2
        assert "lr was 0.01 and is 0.005" in capsys.readouterr().err


def test_a_plan_that_is_there_is_kept_or_refused(
    copied: Path, scans: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "plan.json").read_bytes()
    written = json.loads(before)["dataset"]["asked"]
    assert written["iterations"] == 4
    words = words_of(scans, copied / "plan.json", checkpoint)
    assert main(["plan", *words]) == 0
    assert (copied / "plan.json").read_bytes() == before
    assert main(["plan", *words_of(scans, copied / "plan.json", checkpoint, iterations=5)]) == 2
    assert "iterations 4, and now 5" in capsys.readouterr().err


def test_a_case_that_fails_does_not_stop_the_others(
    done: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(scans / "imagesTr", tmp_path / "images"))
    damaged = images / "volume-1_0000.nii.gz"
    damaged.write_bytes(gzip.compress(gzip.decompress(damaged.read_bytes())[:20_000]))  # its header is whole
    assert main(["predict", str(done), str(images), str(tmp_path / "masks"), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["failed"]) == {"volume-1"} and len(answer["files"]) == 3
    assert main(["predict", str(done), str(scans / "imagesTr"), str(tmp_path / "all")]) == 0
    for file in map(Path, answer["files"]):  # also those that come after it
        assert np.array_equal(nib.load(file).dataobj, nib.load(tmp_path / "all" / file.name).dataobj)


def test_a_fold_must_be_there_and_trained(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(copied), "--fold", "3"]) == 2
    assert "expected all, or one of 1 … 2" in capsys.readouterr().err
    shutil.rmtree(copied / "folds/fold_2")
    for verb in ("evaluate", "postprocess"):
        assert main([verb, str(copied)]) == 2
        assert "Fold 2" in capsys.readouterr().err


def test_cases_that_are_not_prepared_are_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copied / "folds")
    shutil.rmtree(copied / "preprocessed/volume-0")
    assert main(["train", str(copied), "--fold", "1"]) == 2
    assert "volume-0" in capsys.readouterr().err


def test_a_network_from_scratch_is_planned_trained_and_predicts(scans: Path, tmp_path: Path) -> None:
    words = ["nnunet", str(scans), "--output", str(tmp_path / "plan.json"), "--bundle", BUNDLE]
    assert main(["plan", *words, "--iterations", "2", "--folds", "2", "--memory", "2"]) == 0
    plan = read_plan(tmp_path / "plan.json")
    assert plan["network"] == "dynunet"
    small = {**plan["network_options"], "filters": [4 for _ in plan["network_options"]["filters"]]}
    changed = {"network_options": Choice(small, "for a test"), "mirror_axes": Choice([0], "for a test")}
    write_plan(replace(plan, choices={**plan.choices, **changed}), tmp_path / "plan.json")
    assert main(["preprocess", str(tmp_path)]) == 0
    assert main(["train", str(tmp_path), "--fold", "1"]) == 0
    assert main(["evaluate", str(tmp_path), "--fold", "1"]) == 0
    settings = json.loads((tmp_path / "folds/fold_1/model/model.json").read_text())
    assert settings["network"] == "dynunet" and settings["network_options"] == small


def test_passes_over_held_out_scans_are_refused(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_plan(copied / "plan.json")
    assert plan["passes"] > 1
    content = json.loads((copied / "plan.json").read_text())
    content["choices"]["meta"]["value"] = 0.25
    (copied / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["train", str(copied)]) == 2
    assert "a scan that is held out would be among those that are trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheme", "$print('code')"),
        ("network_options", {"norm_name": {"_target_": "os.getcwd"}}),
        ("loss", {"_target_": "DiceLoss", "sigmoid": "$__import__('os').getcwd()"}),
    ],
)
def test_a_plan_cannot_carry_code(copied: Path, capsys: pytest.CaptureFixture[str], name: str, value: object) -> None:
    content = json.loads((copied / "plan.json").read_text())
    content["choices"][name] = {"value": value, "reason": "by hand"}
    (copied / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["train", str(copied)]) == 2
    assert "MONAI would evaluate" in capsys.readouterr().err


def test_a_fold_is_not_scored_on_cases_that_it_was_trained_on(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds = json.loads((copied / "splits_final.json").read_text())
    folds[0]["val"], folds[1]["val"] = folds[1]["val"], folds[0]["val"]
    folds[0]["train"], folds[1]["train"] = folds[1]["train"], folds[0]["train"]
    (copied / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")
    for verb in ("train", "evaluate", "postprocess"):
        assert main([verb, str(copied)]) == 2
        assert "its training cases were not those of" in capsys.readouterr().err


def test_a_checkpoint_that_has_changed_since_is_refused(
    copied: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copied / "folds")
    other = copied / "other.pt"
    torch.save({name: tensor + 1 for name, tensor in torch.load(checkpoint, weights_only=True).items()}, other)
    plan = read_plan(copied / "plan.json")
    write_plan(replace(plan, choices={**plan.choices, "checkpoint": Choice(str(other), "moved")}), copied / "plan.json")
    assert main(["train", str(copied), "--fold", "1"]) == 2
    assert "its SHA-256 is another" in capsys.readouterr().err


def test_masks_of_other_networks_or_settings_are_not_taken_for_done(
    done: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(done), str(scans / "imagesTr"), str(tmp_path / "masks")]
    assert main(["predict", *words, "--fold", "1"]) == 0
    assert main(["predict", *words, "--fold", "1"]) == 0
    assert main(["predict", *words]) == 2
    assert "label maps that were made otherwise" in capsys.readouterr().err
    assert main(["predict", str(done), str(scans / "imagesTr"), str(scans / "imagesTr")]) == 2
    assert "name another folder" in capsys.readouterr().err


def test_a_decision_for_another_plan_is_not_applied(
    copied: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((copied / "postprocessing.json").read_text())
    (copied / "postprocessing.json").write_text(json.dumps({**content, "plan": "another"}), encoding="utf-8")
    assert main(["predict", str(copied), str(scans / "imagesTr"), str(tmp_path / "masks")]) == 2
    assert "was decided for another plan" in capsys.readouterr().err


def test_unreadable_and_nan_images_are_named_and_the_others_predicted(
    done: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = Path(shutil.copytree(scans / "imagesTr", tmp_path / "images"))
    (images / "volume-0_0000.nii.gz").write_bytes(b"no image")
    image = nib.load(images / "volume-1_0000.nii.gz")
    voxels = np.asarray(image.dataobj, np.float32)
    voxels[20, 20, 10] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), images / "volume-1_0000.nii.gz")
    assert main(["predict", str(done), str(images), str(tmp_path / "masks"), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["failed"]) == {"volume-0", "volume-1"} and len(answer["files"]) == 2
    assert "NaN" in answer["failed"]["volume-1"]


def test_what_is_no_ct_or_has_a_region_in_no_training_case_is_not_planned(
    scans: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(scans, tmp_path / scans.name))
    info = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**info, "channel_names": {"0": "T2"}}), encoding="utf-8")
    assert main(["plan", *words_of(other, tmp_path / "plan.json", checkpoint)]) == 2
    assert "expected CT alone" in capsys.readouterr().err
    labels = {"background": 0, "liver": 1, "tumour": 2, "vessel": 3}
    (other / "dataset.json").write_text(json.dumps({**info, "labels": labels}), encoding="utf-8")
    assert main(["plan", *words_of(other, tmp_path / "plan.json", checkpoint)]) == 2
    assert "The region 'vessel'" in capsys.readouterr().err
    assert not (tmp_path / "plan.json").exists()


def test_folds_that_are_there_are_taken_and_must_have_every_case(
    done: Path, scans: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = json.loads((done / "splits_final.json").read_text())
    (tmp_path / "splits_final.json").write_text(json.dumps(folds[::-1]), encoding="utf-8")
    words = words_of(scans, tmp_path / "plan.json", checkpoint)
    assert main(["plan", *words[: words.index("--folds")]]) == 0
    assert json.loads((tmp_path / "splits_final.json").read_text()) == folds[::-1]
    (tmp_path / "plan.json").unlink()
    assert main(["plan", *words[: words.index("--folds")], "--folds", "3"]) == 2
    assert "has 2. Remove" in capsys.readouterr().err
    lost = folds[0]["val"].pop()
    folds[1]["train"].remove(lost)
    (tmp_path / "splits_final.json").write_text(json.dumps(folds), encoding="utf-8")
    assert main(["plan", *words]) == 2
    assert f"{lost} in no fold" in capsys.readouterr().err


def test_an_output_without_ending_is_the_workspace_s_folder(scans: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert main(["plan", *words_of(scans, tmp_path / "new", checkpoint), "--and-preprocess"]) == 0
    assert len(list((tmp_path / "new/preprocessed").iterdir())) == 4
    assert (tmp_path / "new/plan.json").is_file()
    facts = json.loads((tmp_path / "new/fingerprint.json").read_text())
    assert len(facts["cases"]) == 4 and facts["cases"][0]["axcodes"]


def test_nnu_net_s_files_are_written_and_inspected(
    scans: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "Dataset007_Copy"
    assert main(["export-nnunet", "nnunet", str(scans), str(out), "--labels", "liver=1+2; tumour=2"]) == 0
    info = json.loads((out / "dataset.json").read_text())
    assert info["labels"] == {"background": 0, "liver": [1, 2], "tumour": 2} and info["regions_class_order"] == [1, 2]
    assert len(list((out / "imagesTr").iterdir())) == 4
    capsys.readouterr()
    assert main(["inspect", str(done / "dataset_fingerprint.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    spacing = json.loads((done / "dataset_fingerprint.json").read_text())["spacings"][0]
    assert found["spacings"][0] == spacing[::-1]
