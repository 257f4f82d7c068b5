"""The liver bundle in MONAI Label's own server: what a reader does, in a reader's order."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import LIVER
from label_server import Server, environment, metalr_monai

from metalr_monai.handlers.served_training import part_served

STUDIES = [f"scan {number}" for number in range(8, 14)]


def bundle_of(server: Server) -> Path:
    return Path(server.words[server.words.index("--app") + 1]) / "model" / LIVER


def report_of(server: Server) -> dict:
    return json.loads((bundle_of(server) / "runs/label_server/run_report.json").read_text(encoding="utf-8"))


def fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def mask_of(server: Server, study: str, folder: Path) -> nib.Nifti1Image:
    answer = server.infer(LIVER, study, "image")
    assert answer.status_code == 200, answer.text
    (folder / f"{study}.nii.gz").write_bytes(answer.content)
    return nib.load(folder / f"{study}.nii.gz")


def truth(phantoms: Path, study: str) -> np.ndarray:
    return np.asarray(nib.load(phantoms / f"segmentation-{study.split()[1]}.nii.gz").dataobj) > 0


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    return 2 * float((mask & reference).sum()) / float(mask.sum() + reference.sum())


def dices(server: Server, phantoms: Path, folder: Path) -> dict[str, float]:
    masks = {study: np.asarray(mask_of(server, study, folder).dataobj) > 0 for study in STUDIES}
    return {study: dice(mask, truth(phantoms, study)) for study, mask in masks.items()}


def test_the_panel_offers_scheme_rates_meta_batch_and_epochs(liver):
    info = liver.info()
    assert info["models"][LIVER]["labels"] == {"liver": 1}
    panel = info["trainers"][LIVER]["config"]
    assert panel["scheme"][0] == "MetaLR"
    assert panel["meta_batch"][0] == "second training batch"
    assert (panel["alpha0"], panel["beta"], panel["max_epochs"]) == (0.1, 0.003, 20)
    assert panel["model_filename"] == ["model.pt"]
    assert panel["replace_if_worse"] is False


def test_a_training_without_a_labelled_study_is_refused(liver):
    before = fingerprint(bundle_of(liver) / "models/model.pt")
    answer = liver.train(LIVER, max_epochs=1)
    assert answer.status_code == 400
    assert "No study is labelled" in answer.json()["detail"]
    assert fingerprint(bundle_of(liver) / "models/model.pt") == before


def test_masks_lie_in_the_studies_own_geometry_and_fit_the_liver(liver, phantoms, scans, tmp_path, record_property):
    mask, scan = mask_of(liver, "scan 8", tmp_path), nib.load(scans / "scan 8.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-4)
    found = dices(liver, phantoms, tmp_path)
    record_property("dice", found)
    assert np.mean(list(found.values())) >= 0.85, found


def test_both_scores_choose_the_study_that_the_network_segments_worst(liver, phantoms, tmp_path):
    found = dices(liver, phantoms, tmp_path)
    spoilt = np.asarray(mask_of(liver, "pale", tmp_path).dataobj) > 0
    assert dice(spoilt, truth(phantoms, "scan 13")) < min(found.values()) - 0.1
    for method in (f"{LIVER}_one_pass", f"{LIVER}_epistemic"):
        counts = liver.score(method)
        assert (counts["total"], counts["executed"], counts["failed"]) == (7, 7, 0)
        assert liver.score(method)["skipped"] == 7
        assert liver.next_study(method) == "pale"


def test_fifty_inferences_of_four_clients_are_answered(liver):
    def one(number: int) -> int:
        return liver.infer(LIVER, STUDIES[number % len(STUDIES)], "image").status_code

    with ThreadPoolExecutor(4) as clients:
        assert list(clients.map(one, range(50))) == [200] * 50


def test_batch_inference_labels_all_studies_but_the_broken_one(liver, scans):
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    wait_for(lambda: liver.info()["datastore"]["total"] == 8)
    liver.answer("POST", f"/batch/infer/{LIVER}", params={"images": "all", "run_sync": True}, json={"device": "cpu"})
    (scans / "broken.nii.gz").unlink()
    made = {file.name for file in (scans / "labels/original").iterdir()}
    assert made == {*(f"{study}.nii.gz" for study in STUDIES), "pale.nii.gz"}
    wait_for(lambda: liver.info()["datastore"]["total"] == 7)


def test_with_one_label_training_falls_back_to_one_rate_and_says_so(liver, phantoms):
    liver.save_label("scan 8", phantoms / "segmentation-8.nii.gz")
    answer = liver.train(LIVER, max_epochs=1)
    assert answer.status_code == 200, answer.text
    assert report_of(liver)["metalr"] is None
    told = [line for line in report_of(liver)["warnings"] if line.startswith("No rates are learned")]
    assert "there are 1 labelled studies" in told[0]
    assert told[0] in liver.log
    assert "cannot be compared" in liver.log
    (bundle_of(liver) / "models/model_1.pt").replace(bundle_of(liver) / "models/model.pt")
    (bundle_of(liver) / "models/model_1.json").replace(bundle_of(liver) / "models/model.json")


def test_training_on_corrected_labels_learns_rates_and_keeps_the_previous_model(liver, phantoms, tmp_path):
    before = fingerprint(bundle_of(liver) / "models/model.pt")
    for study in STUDIES[:5]:
        liver.save_label(study, phantoms / f"segmentation-{study.split()[1]}.nii.gz")
    answer = liver.train(LIVER, max_epochs=4, val_split=0.2, alpha0=0.01, replace_if_worse=True)
    assert answer.status_code == 200, answer.text
    report = report_of(liver)
    assert report["settings"]["scheme"] == "MetaLR"
    assert report["settings"]["meta"] == "training"
    assert report["resumed_after_epochs"] == []
    rates = [block["rate"] / block["start_rate"] for block in report["metalr"]["blocks"]]
    assert len(rates) == 8
    assert max(abs(ratio - 1) for ratio in rates) > 1e-4
    assert [row["epoch"] for row in report["validation"]] == [0, 4]
    stats = liver.info()["train_stats"][LIVER]
    assert stats["best_metric"] == report["validation"][-1]["metrics"]["liver_dice"] > 0.7
    models = bundle_of(liver) / "models"
    assert fingerprint(models / "model_1.pt") == before != fingerprint(models / "model.pt")
    assert (models / "model_1.json").is_file()
    assert np.mean(list(dices(liver, phantoms, tmp_path).values())) >= 0.85
    assert "model_1.pt" in liver.info()["trainers"][LIVER]["config"]["model_filename"]
    assert liver.infer(LIVER, "scan 9", "image", model_filename="model_1.pt").status_code == 200


def test_a_network_that_learned_from_wrong_labels_does_not_take_the_models_place(liver, phantoms, scans, tmp_path):
    before = fingerprint(bundle_of(liver) / "models/model.pt")
    labelled = [{"image": str(scans / f"{study}.nii.gz")} for study in STUDIES[:5]]
    for item in part_served(labelled, 0.2)[0]:
        study = Path(item["image"]).name.removesuffix(".nii.gz")
        label = nib.load(phantoms / f"segmentation-{study.split()[1]}.nii.gz")
        turned = np.asarray(label.dataobj)[::-1, ::-1, ::-1]
        nib.save(nib.Nifti1Image(turned, label.affine), tmp_path / "turned.nii.gz")
        liver.save_label(study, tmp_path / "turned.nii.gz")
    answer = liver.train(LIVER, max_epochs=8, scheme="all layers", alpha0=0.05)
    for study in STUDIES[:5]:
        liver.save_label(study, phantoms / f"segmentation-{study.split()[1]}.nii.gz")
    assert answer.status_code == 200, answer.text
    report = report_of(liver)
    assert report["key_metric"]["worse_than_before"]
    assert fingerprint(bundle_of(liver) / "models/model.pt") == before
    assert "The served model stays" in liver.log
    assert (bundle_of(liver) / "runs/label_server/rejected_model.pt").is_file()


def test_a_label_with_unknown_values_is_named(liver, phantoms, tmp_path):
    good = nib.load(phantoms / "segmentation-12.nii.gz")
    values = np.asarray(good.dataobj).copy()
    values[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(values, good.affine), tmp_path / "bad.nii.gz")
    liver.save_label("scan 12", tmp_path / "bad.nii.gz")
    answer = liver.train(LIVER, max_epochs=1)
    liver.save_label("scan 12", phantoms / "segmentation-12.nii.gz")
    assert answer.status_code == 400
    assert "scan 12.nii.gz: unknown label values 7" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scheme": "Adam"}, "scheme is 'Adam'; expected one of MetaLR"),
        ({"beta": "much"}, "beta is 'much'; expected a number"),
        ({"alpha0": -1}, "lr is -1.0; expected a number above 0"),
        ({"alpha0": "$__import__('os').abort()"}, "expected a number"),
        ({"max_epochs": "$1"}, "max_epochs is '$1'; expected a whole number"),
        ({"device": "$'cpu'"}, "expected cpu, cuda or cuda:N"),
        ({"val_split": -1}, "val_split is -1"),
        ({"pretrained": False}, "pretrained is false"),
        ({"model_filename": "other.pt"}, "There is no model 'other.pt'"),
    ],
)
def test_options_that_make_no_sense_are_refused(liver, options, reason):
    answer = liver.train(LIVER, **{"max_epochs": 1, **options})
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]


def test_pictures_and_unknown_studies_are_refused(liver, pictures, scans):
    (scans / "picture.jpg").write_bytes((pictures / "covid19 0.jpg").read_bytes())
    wait_for(lambda: liver.info()["datastore"]["total"] == 8)
    flat = liver.infer(LIVER, "picture", "image")
    (scans / "picture.jpg").unlink()
    assert flat.status_code == 400
    assert "picture.jpg cannot be read" in flat.json()["detail"]
    assert "which takes a volume" in flat.json()["detail"]
    unknown = liver.infer(LIVER, "scan 88", "image")
    assert unknown.status_code == 404
    assert "Did you mean scan 8" in unknown.json()["detail"]


def test_a_second_training_waits_for_nobody_and_a_stopped_one_leaves_the_model(liver):
    before = fingerprint(bundle_of(liver) / "models/model.pt")
    assert liver.train(LIVER, wait=False, max_epochs=500).status_code == 200
    wait_for(lambda: (bundle_of(liver) / ".training.lock").exists() and running_epochs(liver) >= 1)
    assert liver.train(LIVER, wait=False, max_epochs=1).status_code == 429
    lock = "import sys; from filelock import FileLock; FileLock(sys.argv[1], timeout=0).acquire()"
    # as of a server that was killed and started again while its training went on
    other = [sys.executable, "-c", lock, str(bundle_of(liver) / ".training.lock")]
    assert b"Timeout" in subprocess.run(other, env=environment(), capture_output=True, check=False).stderr
    assert liver.answer("DELETE", "/train/")["status"] == "STOPPED"
    assert fingerprint(bundle_of(liver) / "models/model.pt") == before
    assert liver.infer(LIVER, "scan 9", "image").status_code == 200


def running_epochs(server: Server) -> int:
    report = report_of(server)
    return len(report["epochs"]) if report["max_epochs"] == 500 else 0


def test_after_a_sigkill_during_training_nothing_is_lost(liver, scans):
    before = fingerprint(bundle_of(liver) / "models/model.pt")
    labels = {file: fingerprint(file) for file in sorted((scans / "labels").rglob("*.nii.gz"))}
    assert liver.train(LIVER, wait=False, max_epochs=500).status_code == 200
    wait_for(lambda: running_epochs(liver) >= 1 and report_of(liver)["status"] == "running")
    liver.kill()
    again = Server(shlex.join(liver.words), liver._log)
    liver.process = again.process
    assert fingerprint(bundle_of(liver) / "models/model.pt") == before
    assert {file: fingerprint(file) for file in sorted((scans / "labels").rglob("*.nii.gz"))} == labels
    assert liver.info()["datastore"]["completed"] == 5
    assert liver.infer(LIVER, "scan 9", "image").status_code == 200
    wait_for(lambda: liver.train(LIVER, max_epochs=1).status_code == 200)  # the orphan ends when it has no one to tell


def test_a_model_that_is_none_of_the_bundles_is_refused(liver, tmp_path):
    import pickle

    import torch

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    model = bundle_of(liver) / "models/model.pt"
    good = model.read_bytes()
    torch.save({"conv.weight": torch.zeros(3)}, model)
    foreign, trained = liver.infer(LIVER, "scan 9", "image"), liver.train(LIVER, max_epochs=1)
    model.write_bytes(pickle.dumps({"model": Malicious()}))
    malicious, prepared = (
        liver.infer(LIVER, "scan 9", "image"),
        metalr_monai("label-app", tmp_path / "app", "--studies", tmp_path, "--bundles", bundle_of(liver)),
    )
    model.write_bytes(good[: len(good) // 2])
    cut = liver.infer(LIVER, "scan 9", "image")
    model.write_bytes(b"")
    empty = liver.infer(LIVER, "scan 9", "image")
    model.write_bytes(good)
    for answer in (foreign, malicious, cut, empty):
        assert answer.status_code == 400
        assert "is refused: it does not hold the weights of this network" in answer.json()["detail"]
    assert trained.status_code == 500
    assert "loading state_dict" in trained.json()["detail"]
    assert prepared.returncode == 2
    assert not (tmp_path / "harmed").exists()
    assert not (tmp_path / "app").exists()
    assert liver.infer(LIVER, "scan 9", "image").status_code == 200


def test_the_same_folder_runs_outside_of_the_server(liver, scans, phantoms, tmp_path):
    root, images = bundle_of(liver), tmp_path / "images"
    images.mkdir()
    (images / "scan 9.nii.gz").symlink_to(scans / "scan 9.nii.gz")
    options = {"config_file": root / "configs/inference.json", "bundle_root": root, "dataset_dir": images}
    pairs = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    command = [sys.executable, "-m", "monai.bundle", "run", *pairs, "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    outside = np.asarray(nib.load(tmp_path / "out/scan 9_label.nii.gz").dataobj)
    np.testing.assert_array_equal(outside, np.asarray(mask_of(liver, "scan 9", tmp_path).dataobj))


def wait_for(condition, seconds: float = 90) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.5)
