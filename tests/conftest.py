"""What holds for all tests; data and one trained bundle of each kind for those of the bundles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import pytest
import torch
from lesion_2d_bundle import LESION
from lesion_2d_bundle import TRAINING as LESION_TRAINING
from liver_ct_bundle import GRID, TRAINING, call, command, run, weights

from metalr_monai import write_lits_phantoms
from metalr_monai.data.lung_ultrasound_phantom import write_pocus_phantoms


def pytest_configure() -> None:
    """One thread: the tests' networks are too small for more, which wait for each other on a busy machine."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_smoke.py")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_lits_phantoms(folder, 8, progress=False)
    return folder


@pytest.fixture(scope="session")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    call(command("train.json", root=root, dataset_dir=data, **TRAINING))
    return root


@pytest.fixture(scope="session")
def balanced(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint, its last bias moved so that about half of a volume is foreground."""
    folder = tmp_path_factory.mktemp("balanced")
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    (scans / "volume-0.nii.gz").symlink_to(data / "volume-0.nii.gz")
    run("inference.json", root=trained, dataset_dir=str(scans), output_dir=str(out), probabilities=True, **GRID)
    middle = torch.tensor(np.median(nib.load(out / "volume-0_probability.nii.gz").get_fdata()))
    state = weights(trained)
    state["out_tr.final_conv.bias"] -= torch.logit(middle).float()
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lung ultrasound: 5 videos a class, 2 frames of each."""
    folder = tmp_path_factory.mktemp("frames") / "pocus"
    write_pocus_phantoms(folder, 5, 2, size=32, progress=False)
    return folder


@pytest.fixture(scope="session")
def trained_classifier(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classifier")
    call(LESION.command("train.json", root=root, dataset_dir=frames, **LESION_TRAINING))
    return root


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment of torchrun's only process; what is initialized in it is ended."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this torch was built without gloo")
    one_of_one = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    for name, value in one_of_one.items():
        monkeypatch.setenv(name, str(value))
    yield
    idist.finalize()
