"""The trainer, and nnU-Net's own, on a schedule of seconds; nnU-Net's shortest one still has 250 iterations."""

import os

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from metalr_monai.nnunet_trainers.nnUNetTrainerMetaLR import nnUNetTrainerMetaLR

EPOCHS, ITERATIONS = 2, 4


class nnUNetTrainerShort(nnUNetTrainer):
    """Two epochs of four iterations; stops after epoch number `STOP_AFTER`, as if it had been killed."""

    def __init__(self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 2
        self.save_every = 1

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if str(self.current_epoch - 1) == os.environ.get("STOP_AFTER"):
            raise SystemExit(3)


class nnUNetTrainerMetaLRShort(nnUNetTrainerMetaLR, nnUNetTrainerShort):
    """The same with learned rates."""
