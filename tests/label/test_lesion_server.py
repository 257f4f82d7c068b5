"""The 2D bundle in MONAI Label's own server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from conftest import CLASSES, LESION
from label_server import Server


def predicted(server: Server, study: str) -> dict[str, float]:
    answer = server.infer(LESION, study, "json")
    assert answer.status_code == 200, answer.text
    return {row["label"]: row["score"] for row in answer.json()["prediction"]}


def save_class(server: Server, study: str, name: str, folder: Path) -> None:
    (folder / "label.json").write_text(json.dumps({"label": name}), encoding="utf-8")
    server.save_label(study, folder / "label.json")


def test_pictures_get_the_probability_of_each_class(lesion, pictures):
    found = predicted(lesion, "covid19 0")
    assert sorted(found) == sorted(CLASSES)
    assert abs(sum(found.values()) - 1) < 1e-4
    best = {file.stem: max(scores := predicted(lesion, file.stem), key=scores.get) for file in pictures.glob("*.jpg")}
    assert np.mean([study.startswith(name) for study, name in best.items()]) >= 0.7, best


def test_both_scores_choose_a_picture_that_the_network_is_little_sure_of(lesion, pictures):
    of_truth = {file.stem: predicted(lesion, file.stem)[file.stem.split()[0]] for file in pictures.glob("*.jpg")}
    for method in (f"{LESION}_one_pass", f"{LESION}_epistemic"):
        assert lesion.score(method)["executed"] == 18
        assert of_truth[lesion.next_study(method)] < np.mean(list(of_truth.values())), (method, of_truth)


def test_a_training_on_saved_classes_learns_rates_and_reports_its_score(lesion, tmp_path):
    for name in CLASSES:
        for number in range(5):
            save_class(lesion, f"{name} {number}", name.upper(), tmp_path)
    answer = lesion.train(LESION, max_epochs=3, val_split=0.2, replace_if_worse=True, alpha0=0.0001)
    assert answer.status_code == 200, answer.text
    root = Path(lesion.words[lesion.words.index("--app") + 1]) / "model" / LESION
    report = json.loads((root / "runs/label_server/run_report.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in report["validation"]] == [0, 3]
    assert any(block["rate"] != block["start_rate"] for block in report["metalr"]["blocks"])
    assert (root / "models/model_1.pt").is_file()
    assert sorted(predicted(lesion, "regular 5")) == sorted(CLASSES)


def test_batch_inference_goes_over_all_pictures(lesion):
    path, options = f"/batch/infer/{LESION}", {"images": "all", "run_sync": True}
    assert len(lesion.answer("POST", path, params=options, json={"device": "cpu"})) == 18


def test_a_class_that_there_is_not_is_named(lesion, tmp_path):
    save_class(lesion, "covid19 0", "benign", tmp_path)
    answer = lesion.train(LESION, max_epochs=1)
    assert answer.status_code == 400
    assert "covid19 0.json is 'benign'" in answer.json()["detail"]
