"""nnU-Net's commands as processes of their own, and its trainers in this one."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

ROOT = Path(__file__).parents[2]
TRAINERS = ROOT / "tests" / "nnunet" / "trainers"
DATASET, CASES, SHORT = "Dataset001_Phantom", 6, "nnUNetTrainerMetaLRShort"
COMMAND_SECONDS = 300
SETTINGS = {
    "nnUNet_compile": "f",
    "nnUNet_n_proc_DA": "1",
    "nnUNet_def_n_proc": "2",
    "nnUNet_extTrainer": os.pathsep.join([str(ROOT / "metalr_monai" / "nnunet_trainers"), str(TRAINERS)]),
    "OMP_NUM_THREADS": "1",
}


def call(command: str, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run one of nnU-Net's commands; its output."""
    paths = [str(ROOT / "tests" / "label" / "cpu_torchvision"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command)), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
    )
    assert done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def train(fold: int, *arguments: str, status: int = 0, **environment: str) -> str:
    """Run the short trainer with learned rates on one fold; its output."""
    given = ("1", "3d_fullres", str(fold), "-tr", SHORT, "-device", "cpu", *arguments)
    # 0: augmentation in the training's own process
    return call("nnUNetv2_train", *given, status=status, nnUNet_n_proc_DA="0", **environment)


def fold_folder(nnunet: Path, fold: int) -> Path:
    return nnunet / "nnUNet_results" / DATASET / f"{SHORT}__nnUNetPlans__3d_fullres" / f"fold_{fold}"


def plans_and_dataset(nnunet: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """As planned, with a network of a few channels."""
    folder = nnunet / "nnUNet_preprocessed" / DATASET
    plans = json.loads((folder / "nnUNetPlans.json").read_text(encoding="utf-8"))
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [4 + 2 * stage for stage in range(architecture["n_stages"])]
    return plans, json.loads((folder / "dataset.json").read_text(encoding="utf-8"))


def make_trainer(
    kind: type[nnUNetTrainer], nnunet: Path, *, scaler: torch.amp.GradScaler | None = None, **plans: object
) -> nnUNetTrainer:
    """A trainer with a narrow network of always the same weights, initialized, in its first epoch.

    Args:
        scaler: a GradScaler for it.
        plans: keys of the configuration to put others for.
    """
    planned, dataset = copy.deepcopy(plans_and_dataset(nnunet))
    planned["configurations"]["3d_fullres"].update(plans)
    planned["continue_training"] = False
    torch.manual_seed(0)
    trainer = kind(planned, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.grad_scaler = scaler
    trainer.initialize()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    return trainer


def batches(trainer: nnUNetTrainer, count: int) -> list[dict[str, Any]]:
    """Noise, with labels at each resolution of the deep supervision."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, 1, *trainer.configuration_manager.patch_size)
    with torch.no_grad():
        sizes = [output.shape[2:] for output in trainer.network(torch.zeros(shape))]
    return [
        {
            "data": torch.randn(shape, generator=generator),
            "target": [torch.randint(3, (2, 1, *size), generator=generator).float() for size in sizes],
        }
        for _ in range(count)
    ]
