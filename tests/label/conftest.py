"""Two networks, freshly trained on phantoms, and a server with each; all folders have spaces in their names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from label_server import SECONDS, Server, environment, prepare, running

from metalr_monai import write_lits_phantoms
from metalr_monai.data.lung_ultrasound_phantom import write_pocus_phantoms

ROOT = Path(__file__).parents[2]
LIVER, LESION = "liver_ct_segmentation", "lesion_2d_classification"
CLASSES = ("covid19", "pneumonia", "regular")


def train_bundle(name: str, root: Path, scheme: str, **options: object) -> Path:
    """A copy of a bundle with a model of its own, trained by its command line."""
    shutil.copytree(ROOT / "bundles" / name, root, ignore=shutil.ignore_patterns("runs", "phantoms", "*.pt"))
    files = [f"{root}/configs/train.json", f"{ROOT}/configs/schemes/{scheme}.json"]
    pairs = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    command = ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(root), *pairs]
    done = subprocess.run([sys.executable, *command], env=environment(), capture_output=True, timeout=2 * SECONDS)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def served(folder: Path, studies: Path, bundle: Path) -> AbstractContextManager[Server]:
    return running(prepare(folder / "my app", studies, bundle), folder / "server.log")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_lits_phantoms(folder, 14, progress=False)
    return folder


@pytest.fixture(scope="session")
def liver_bundle(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the phantoms 0 to 7."""
    folder = tmp_path_factory.mktemp("bundles") / "for training"
    folder.mkdir()
    for number in range(10):
        for kind in ("volume", "segmentation"):
            (folder / f"{kind}-{number}.nii.gz").symlink_to(phantoms / f"{kind}-{number}.nii.gz")
    (folder.parent / "split.json").write_text(
        json.dumps({"train": [f"volume-{n}" for n in range(8)], "test": ["volume-8", "volume-9"]}), encoding="utf-8"
    )
    return train_bundle(
        LIVER,
        folder.parent / LIVER,
        "warmup_cosine",
        dataset_dir=folder,
        split=folder.parent / "split.json",
        check="none",
        epochs=110,
        val_interval=110,
        width=8,
        spacing=[8, 8, 8],
        patch_size=[32, 32, 16],
        lr=0.1,
        patches_per_volume=1,
    )


@pytest.fixture(scope="session")
def lesion_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_pocus_phantoms(folder / "frames", 30, 2, progress=False)
    options = {"split": "fold 1 of 10", "epochs": 12, "val_interval": 12, "batch_size": 10, "lr": 0.001}
    return train_bundle(LESION, folder / LESION, "warmup_cosine", dataset_dir=folder / "frames", **options)


@pytest.fixture(scope="module")
def scans(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms 8 to 13, which the network has not seen, `scan 8`, …; and the last, pale and noisy, as `pale`."""
    folder = tmp_path_factory.mktemp("studies") / "my scans"
    folder.mkdir()
    for number in range(8, 14):
        shutil.copy(phantoms / f"volume-{number}.nii.gz", folder / f"scan {number}.nii.gz")
    clean = nib.load(phantoms / "volume-13.nii.gz")
    voxels = np.asarray(clean.dataobj)
    pale = np.where(voxels > -200, 40 + 0.2 * (voxels - 40), voxels)  # HU
    spoilt = np.clip(pale + np.random.default_rng(0).normal(0, 60, voxels.shape), -1024, 3000).astype(np.int16)
    nib.save(nib.Nifti1Image(spoilt, clean.affine), folder / "pale.nii.gz")
    return folder


@pytest.fixture(scope="module")
def liver(liver_bundle: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server"), scans, liver_bundle) as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of other phantoms, `covid19 0`, …"""
    folder = tmp_path_factory.mktemp("studies")
    write_pocus_phantoms(folder / "frames", 6, 1, seed=1, progress=False)
    studies = folder / "my pictures"
    studies.mkdir()
    for name in CLASSES:
        for number, file in enumerate(sorted((folder / "frames" / name).glob("*.jpg"))):
            shutil.copy(file, studies / f"{name} {number}.jpg")
    return studies


@pytest.fixture(scope="module")
def lesion(lesion_bundle: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server"), pictures, lesion_bundle) as server:
        yield server
