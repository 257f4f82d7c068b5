"""Summaries and decisions on post-processing against nnU-Net's own commands, on the same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from metalr_monai.evaluation.nnunet_summary import merge_summaries, score_folder
from metalr_monai.planning.postprocessing import decide_postprocessing

SIZE = (30, 24, 18)
AFFINE = np.array([[-0.7, 0, 0, 11], [0, 0.8, 0, -5], [0, 0, 2.5, 3], [0, 0, 0, 1]])
LABELS = {"background": 0, "liver": 1, "tumour": 2, "spleen": 10}
REGIONS = {"background": 0, "liver": [1, 2], "tumour": 2, "spleen": [10]}


def nnunet(command: str, folder: Path, *arguments: str | Path) -> None:
    """Run one of its commands; it wants its three folders to be set."""
    names = {name: str(folder) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    subprocess.run(
        [str(Path(sys.executable).with_name(command)), *map(str, arguments), "-np", "1"],
        env={**os.environ, **names, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )


def write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), AFFINE), path)


def describe(folder: Path, labels: dict[str, int | list[int]]) -> tuple[Path, Path]:
    """dataset.json and the plans, as far as the commands read them."""
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    if any(isinstance(values, list) for values in labels.values()):
        dataset["regions_class_order"] = [1, 2, 10]
    plans = {"label_manager": "LabelManager", "image_reader_writer": "SimpleITKIO"}
    for name, content in (("dataset.json", dataset), ("plans.json", plans)):
        (folder / name).write_text(json.dumps(content))
    return folder / "dataset.json", folder / "plans.json"


def foreground(labels: dict[str, int | list[int]]) -> dict[str, int | list[int]]:
    return {name: values for name, values in labels.items() if name != "background"}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five cases with random errors; one lacks the spleen on both sides, one the tumour in the reference alone."""
    random = np.random.default_rng(0)
    for number in range(5):
        truth = np.zeros(SIZE)
        truth[3:14, 4:15, 3:13], truth[6:9, 6:10, 5:9], truth[20:25, 5:12, 4:10] = 1, 2, 10
        truth[truth == 10] *= number != 1
        truth[truth == 2] -= number == 2
        found = truth.copy()
        found[2:6, 3:9, 4:12] = 1
        found[7:9, 9 + number : 12 + number, 6:8] = 2
        wrong = random.random(SIZE) < 0.05
        found[wrong] = random.choice([0, 1, 2] if number == 1 else [0, 1, 2, 10], wrong.sum())
        write(tmp_path / "references" / f"case_{number}.nii.gz", truth)
        write(tmp_path / "predictions" / f"case_{number}.nii.gz", found)
    return tmp_path / "predictions", tmp_path / "references"


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_the_summary_is_that_of_nnunet_to_the_letter(folders, tmp_path, labels):
    predictions, references = folders
    dataset, plans = describe(tmp_path, labels)
    theirs = tmp_path / "theirs.json"
    arguments = (references, predictions, "-djfile", dataset, "-pfile", plans, "-o", theirs)
    nnunet("nnUNetv2_evaluate_folder", tmp_path, *arguments)
    mine = score_folder(predictions, references, foreground(labels), output=tmp_path / "mine", progress=False)
    assert mine.ok and "NaN" in theirs.read_text()
    assert (tmp_path / "mine" / "summary.json").read_text() == theirs.read_text()
    merged = merge_summaries([theirs], foreground(labels), output=tmp_path / "merged")
    assert merged == mine and (tmp_path / "merged" / "summary.json").read_text() == theirs.read_text()


def test_nnunet_removes_the_same_components(tmp_path):
    """A stray apart from everything, and one of the spleen on the liver."""
    for number in range(2):
        truth = np.zeros(SIZE)
        truth[2:16, 4:15, 3:13], truth[16:25, 5:12, 4:10] = 1, 10
        truth[2:4, 4:6, 3] = 0
        found = truth.copy()
        found[26 : 28 + number, 18:20, 12:14] = 1
        found[2:4, 4:6, 3] = 10
        write(tmp_path / "references" / f"case_{number}.nii.gz", truth)
        write(tmp_path / "predictions" / f"case_{number}.nii.gz", found)
    labels = {"background": 0, "liver": 1, "spleen": 10}
    dataset, plans = describe(tmp_path, labels)
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    arguments = ("-i", predictions, "-ref", references, "-plans_json", plans, "-dataset_json", dataset)
    nnunet("nnUNetv2_determine_postprocessing", tmp_path, *arguments)
    theirs = json.loads((predictions / "postprocessing.json").read_text())
    mine = decide_postprocessing(predictions, references, foreground(labels), progress=False)
    assert [sorted(np.atleast_1d(one["labels_or_regions"])) for one in theirs["postprocessing_kwargs"]] == [
        list(step.labels) for step in mine.taken
    ]
    assert [step.name for step in mine.taken] == ["all foreground", "spleen"]
    for when, dice in (("input_folder", mine.dice_before), ("postprocessed", mine.dice_after)):
        assert {"liver": theirs[when]["mean"]["1"]["Dice"], "spleen": theirs[when]["mean"]["10"]["Dice"]} == (
            pytest.approx(dict(dice), rel=1e-12)
        )
