"""nnU-Net's own trainer, as long as the benchmark says, which writes how long its training steps take."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerTimed(nnUNetTrainer):
    """`TIMED_EPOCHS` epochs of `TIMED_STEPS` steps; its schedule ends where the training does."""

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: torch.device
    ) -> None:  # nnU-Net reads these names
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["TIMED_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["TIMED_STEPS"])
        self.num_val_iterations_per_epoch = 1
        self.save_every = 10**6

    def on_train_epoch_start(self) -> None:
        """As nnU-Net."""
        super().on_train_epoch_start()
        self._began = time.perf_counter()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """As nnU-Net, and the time of a step, with its data."""
        seconds = (time.perf_counter() - self._began) / self.num_iterations_per_epoch
        self.print_to_log_file(f"seconds a step: {seconds:.4f}")
        super().on_train_epoch_end(train_outputs)
