"""Random numbers of training by epoch, so that a run resumed at an epoch's end goes on as if it had not stopped."""

from __future__ import annotations

import random

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable


class EpochSeed:
    """Seed Python, NumPy, torch and the training data's random transforms anew at the start of each epoch.

    Order, augmentation and dropout of an epoch then depend on (seed, epoch, rank) alone, not on what came before.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reseed)

    def _reseed(self, engine: Engine) -> None:
        words = np.random.SeedSequence((self._seed, engine.state.epoch, idist.get_rank())).generate_state(2)
        random.seed(int(words[0]))
        np.random.seed(int(words[0]))
        torch.manual_seed(int(words[0]))
        data = getattr(engine.state.dataloader, "dataset", None)
        while data is not None:
            transform = getattr(data, "transform", None)
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(words[1]))
            data = getattr(data, "dataset", None)
