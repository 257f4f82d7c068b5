"""`nnUNetTrainerTimed` that does what a training step here does: no augmentation by geometry, one output."""

from __future__ import annotations

from typing import Any

from nnUNetTrainerTimed import nnUNetTrainerTimed
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA


class nnUNetTrainerTimedBare(nnUNetTrainerTimed, nnUNetTrainerNoDA):
    """Without augmentation and deep supervision."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - nnU-Net's own
        """As nnU-Net."""
        self.enable_deep_supervision = False
        super().initialize(*args, **kwargs)
