"""The liver CT bundle scores in the original space."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from liver_ct_bundle import GRID, WARNINGS, own_error, rows, run

from metalr_monai.errors import DataError

pytestmark = WARNINGS


def test_evaluation_scores_the_test_cases_in_original_space(
    trained: Path, balanced: Path, data: Path, tmp_path: Path
) -> None:
    scores, labels, scans = tmp_path / "scores", tmp_path / "labels", tmp_path / "scans"
    options = {"ckpt_path": str(balanced), **GRID}
    both = ("train.json", "evaluate.json")
    run(*both, root=trained, dataset_dir=str(data), output_dir=str(scores), surface=True, **options)
    found = rows(scores / "metrics.csv")
    test = json.loads((trained / "runs/train/split.json").read_text(encoding="utf-8"))["test"]
    assert [row["case"] for row in found] == test
    assert float(found[0]["hd95_mm"]) > 0
    assert (scores / "slices" / f"{test[0]}.png").is_file()

    scans.mkdir()
    (scans / f"{test[0]}.nii.gz").symlink_to(data / f"{test[0]}.nii.gz")
    run("inference.json", root=trained, dataset_dir=str(scans), output_dir=str(labels), **options)
    pred = np.asarray(nib.load(labels / f"{test[0]}_label.nii.gz").dataobj) > 0
    reference = np.asarray(nib.load(data / f"{test[0].replace('volume', 'segmentation')}.nii.gz").dataobj) > 0
    assert 0.2 < pred.mean() < 0.8  # else the comparison says little
    dice = 2 * (pred & reference).sum() / (pred.sum() + reference.sum())
    assert float(found[0]["dice"]) == pytest.approx(dice, rel=1e-6)


def test_evaluation_without_a_training_runs_split_names_the_file(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        run("train.json", "evaluate.json", root=tmp_path, dataset_dir=str(data), **GRID)
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert "runs/train/split.json" in str(error)
