"""A data set of phantoms in nnU-Net's layout, planned and preprocessed by nnU-Net's own command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from nnunet_command import CASES, DATASET, SETTINGS, TRAINERS, call, fold_folder, train

from metalr_monai import write_lits_phantoms

sys.path.insert(0, str(TRAINERS))
SIZE = (32, 32, 24)
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(scope="session")
def nnunet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with nnU-Net's three; its environment variables are set for this process, too."""
    folder = tmp_path_factory.mktemp("nnunet")
    for name in FOLDERS:
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    os.environ.update(SETTINGS)
    _write_raw(folder / "nnUNet_raw" / DATASET, folder / "lits")
    call("nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "3d_fullres", "-npfp", "2", "-np", "2")
    return folder


@pytest.fixture(scope="session")
def interrupted(nnunet: Path) -> list[str]:
    """Trained for one epoch of two, and stopped; the rates until then."""
    train(0, status=3, STOP_AFTER="0")
    return (fold_folder(nnunet, 0) / "rates.csv").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="session")
def trained(nnunet: Path, interrupted: list[str]) -> Path:
    """The same, continued to the end: the folder of the fold."""
    train(0, "--c")
    return fold_folder(nnunet, 0)


def _write_raw(raw: Path, lits: Path) -> None:
    write_lits_phantoms(lits, CASES, size=SIZE, progress=False)
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for number in range(CASES):
        (lits / f"volume-{number}.nii.gz").rename(raw / "imagesTr" / f"case_{number}_0000.nii.gz")
        (lits / f"segmentation-{number}.nii.gz").rename(raw / "labelsTr" / f"case_{number}.nii.gz")
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": CASES,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
