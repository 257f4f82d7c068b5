"""The head trains first, and with each epoch one block more, from the last to the first."""

from __future__ import annotations

import logging

from monai.engines import SupervisedTrainer

from .layerwise_decay import decayed
from .options import checked_number
from .scheme import Scheme

logger = logging.getLogger(__name__)


class GradualUnfreezing(Scheme):
    """Gradual unfreezing with discriminative rates: in epoch e the last e blocks train, at lr_{l−1} = lr_l / decay.

    Howard & Ruder, "Universal Language Model Fine-tuning for Text Classification" (ULMFiT), 2018, without its slanted
    triangular schedule. A run needs as many epochs as there are blocks for all of them to train; a shorter one warns,
    names the blocks that stay frozen, and may do with fewer and larger blocks.

    Args:
        decay: a block's rate divided by that of the block before it, 1 or more.

    Raises:
        OptionError: `decay` is below 1.
    """

    def __init__(self, decay: float = 2.6) -> None:
        super().__init__()
        self._decay = checked_number("decay", decay, "a number, 1 or more", lambda value: value >= 1)

    def start(self, engine: SupervisedTrainer) -> None:
        """Set the rates once, and say which blocks will never train."""
        self.set_rates(decayed(self.start_rates, 1 / self._decay))
        never = self.names[: -engine.state.max_epochs]
        if never:
            logger.warning(
                "GradualUnfreezing trains one block more in each epoch: in %d epochs %s will never train. "
                "Ask for at least %d epochs, or for fewer blocks.",
                engine.state.max_epochs,
                ", ".join(never),
                len(self.names),
            )

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Unfreeze one block more."""
        self.tune(self.names[-engine.state.epoch :])
