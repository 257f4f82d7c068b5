"""The liver CT bundle as its tests run it: small, in this process or by its command line."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from metalr_monai import MetaLRError

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles/liver_ct_segmentation/configs"
METADATA = CONFIGS / "metadata.json"
SCHEMA = ROOT.parent / "shared/facts/meta_schema_20240725.json"
BLOCKS = [f"down_tr{n}" for n in (64, 128, 256, 512)] + [f"up_tr{n}" for n in (256, 128, 64)] + ["out_tr"]
GRID = {"width": 4, "spacing": [6, 6, 6], "patch_size": [32, 32, 16], "amp": False, "device": "cpu"}
TRAINING = {**GRID, "epochs": 2, "val_interval": 1, "meta": 2, "bounds": [1e-6, 0.1]}
WARNINGS = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI: configs run code
    # within MONAI's surface metrics
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy. has been deprecated:FutureWarning"),
]


def workflow(*names: str | Path, kind: str = "train", **options: object) -> ConfigWorkflow:
    return ConfigWorkflow([str(CONFIGS / name) for name in names], str(METADATA), False, workflow_type=kind, **options)


def run(*names: str | Path, root: Path, **options: object) -> None:
    """Run configs in this process, and leave its global state as it was."""
    kind = "inference" if names == ("inference.json",) else "train"
    bundle = workflow(*names, kind=kind, bundle_root=str(root), **options)
    try:
        bundle.initialize()
        bundle.run()
        bundle.finalize()
    finally:
        set_determinism(None)


def command(*names: str, root: Path, ranks: int = 1, **options: object) -> list[str]:
    """The bundle's command line."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    files = str([str(CONFIGS / name) for name in names])
    files_and_root = ["--config_file", files, "--meta_file", str(METADATA), "--bundle_root", str(root)]
    pairs = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [sys.executable, *launcher, "-m", "monai.bundle", "run", *files_and_root, *pairs]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def call(arguments: list[str]) -> None:
    done = subprocess.run(arguments, env=one_thread(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def weights(root: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(root / "models/model.pt", weights_only=True)
    return state


def own_error(error: BaseException | None) -> MetaLRError:
    """The library's error behind MONAI's wrappers."""
    while not isinstance(error, MetaLRError):
        assert error is not None
        error = error.__cause__
    return error
