"""The network of the best validation as a file, and an end to a run that does not get better."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import default_metric_cmp_fn
from torch import nn
from torch.optim import Optimizer

from ..errors import EngineError, OptionError
from ..files import atomic_path
from .final_model import is_finite, write_settings

logger = logging.getLogger(__name__)


class BestModel:
    """Write a checkpoint in the layout of Models Genesis whenever the key metric is better than before.

    The file holds `epoch`, `state_dict` (its keys begin with `module.`) and `optimizer_state_dict`: tensors and plain
    containers, which `load_weights` reads. Better is what the evaluator's `metric_cmp_fn` says. The validation before
    the first epoch does not count.

    For resuming name the handler in `RunCheckpoints`' objects.

    Args:
        network: not wrapped in `DistributedDataParallel`; of a network with parts, the one that will be fine-tuned.
        optimizer: whose state is saved with it.
        path: of the file; its folder is made if missing.
        evaluator: a MONAI evaluator with a key metric.
        patience: end the run after so many validations in a row that were not better; None runs on to the last epoch.
        settings: what the run was configured with, written beside the file with the ending `.json`.

    Raises:
        OptionError: `patience` is below 1.
        EngineError: while running, the evaluator has no key metric.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        path: str | Path,
        evaluator: Engine,
        *,
        patience: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise OptionError(f"patience is {patience!r}; expected a number of validations, 1 or more, or null.")
        self._network, self._optimizer, self._path = network, optimizer, Path(path)
        self._evaluator, self._patience, self._settings = evaluator, patience, settings
        self._best: float | None = None
        self._best_epoch, self._since = 0, 0
        self._trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; only the first rank writes, and all of them stop."""
        self._trainer = engine
        self._evaluator.add_event_handler(Events.COMPLETED, self._validated)
        engine.add_event_handler(Events.EPOCH_STARTED, self._end)  # of a run that had ended, and is run again

    def _validated(self, evaluator: Engine) -> None:
        trainer = self._trainer
        if trainer is None or trainer.state.epoch == 0:
            return
        name = getattr(evaluator.state, "key_metric_name", None)
        if name not in evaluator.state.metrics:
            raise EngineError("BestModel needs an evaluator with a key metric; give it a key_val_metric.")
        value = float(evaluator.state.metrics[name])
        better = getattr(evaluator, "metric_cmp_fn", default_metric_cmp_fn)
        # MONAI leaves NaN out of its means, so that a network that diverged can have an error of 0.
        sound = math.isfinite(value) and is_finite(self._network)
        if sound and (self._best is None or better(value, self._best)):
            self._best, self._best_epoch, self._since = value, trainer.state.epoch, 0
            if idist.get_rank() == 0:
                self._save()
            return
        self._since += 1
        self._end(trainer)

    def _end(self, trainer: Engine) -> None:
        if self._patience is not None and self._since >= self._patience:
            logger.info("The validation has not been better since epoch %d; the run ends.", self._best_epoch)
            trainer.terminate()

    def _save(self) -> None:
        content = {
            "epoch": self._best_epoch,
            "state_dict": {f"module.{name}": tensor for name, tensor in self._network.state_dict().items()},
            "optimizer_state_dict": self._optimizer.state_dict(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
        if self._settings is not None:
            write_settings(self._path, self._settings)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, its epoch, and how many validations were not better since."""
        return {"best": self._best, "best_epoch": self._best_epoch, "since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._best, self._best_epoch, self._since = state["best"], state["best_epoch"], state["since"]
