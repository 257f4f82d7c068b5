"""The head trains alone until it fits the pre-trained features; then all blocks do."""

from __future__ import annotations

import logging

from monai.engines import SupervisedTrainer

from .options import checked_count
from .scheme import Scheme

logger = logging.getLogger(__name__)


class ProbeThenTune(Scheme):
    """LP-FT, linear probing and then fine-tuning: the first epochs train the head alone, the others all blocks.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022. The paper
    tunes at a rate of its own; here each block has the rate that the optimizer was built with. Batch norms of frozen
    blocks see the batches as those of the other schemes do.

    Args:
        probe_epochs: how many epochs train the head alone, 1 or more. A run that has no more than these warns that its
            other blocks will never train.

    Raises:
        OptionError: `probe_epochs` is no whole number above 0.
    """

    def __init__(self, probe_epochs: int) -> None:
        super().__init__()
        self._probe_epochs = checked_count("probe_epochs", probe_epochs, 1)

    def start(self, engine: SupervisedTrainer) -> None:
        """Say so where only the head will train."""
        if engine.state.max_epochs <= self._probe_epochs:
            logger.warning(
                "ProbeThenTune trains the head alone for %d epochs, and the run has %d: the other blocks will never "
                "train. Ask for more epochs, or for fewer probe_epochs.",
                self._probe_epochs,
                engine.state.max_epochs,
            )

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Train the head, or all."""
        self.tune(self.names[-1:] if engine.state.epoch <= self._probe_epochs else self.names)
