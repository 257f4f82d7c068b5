"""The 2D bundle scores its test part, as its inference predicts it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundle_runs import own_error, rows
from lesion_2d_bundle import CLASSES, LESION, SMALL, WARNINGS, WIDTH

from metalr_monai.errors import DataError

pytestmark = WARNINGS


def test_evaluation_scores_what_inference_predicts(trained_classifier: Path, frames: Path, tmp_path: Path) -> None:
    scores, table = tmp_path / "scores", tmp_path / "table"
    both, options = ("train.json", "evaluate.json"), {"dataset_dir": str(frames)}
    LESION.run(*both, root=trained_classifier, output_dir=str(scores), **SMALL, **options)
    found = rows(scores / "metrics.csv")
    test = json.loads((trained_classifier / "runs/train/split.json").read_text(encoding="utf-8"))["test"]
    assert {row["case_id"] for row in found} == set(test)
    assert list((scores / "pictures").glob("*.png"))
    assert found == rows(trained_classifier / "runs/train/metrics.csv")  # of the last epoch

    # Size, normalisation and classes come from the training.
    LESION.run("inference.json", root=trained_classifier, output_dir=str(table), device="cpu", **WIDTH, **options)
    predicted = {row["case_id"]: row for row in rows(table / "predictions.csv")}
    assert len(predicted) == 30
    for row in found:
        ours = predicted[row["case_id"]]
        assert ours["predicted"] == row["predicted"]
        for name in CLASSES:
            assert float(ours[f"p_{name}"]) == pytest.approx(float(row[f"p_{name}"]), rel=1e-5)


def test_evaluation_without_a_training_runs_split_names_the_file(frames: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        LESION.run("train.json", "evaluate.json", root=tmp_path, dataset_dir=str(frames), **SMALL)
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert "runs/train/split.json" in str(error)
