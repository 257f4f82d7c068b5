"""The trained network as a file, at the end of a run."""

from __future__ import annotations

import logging
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ..files import atomic_path

logger = logging.getLogger(__name__)


class FinalModel:
    """Write the network's state dict when the run has completed.

    (MONAI's `CheckpointSaver` writes in place, and after a failure too: the last good model would be lost.) Until the
    new file is whole the old one stays; a run that fails leaves it as it was.

    Args:
        network: not wrapped in `DistributedDataParallel`, whose keys begin with `module.`.
        path: of the file; its folder is made if missing.
    """

    def __init__(self, network: nn.Module, path: str | Path) -> None:
        self._network, self._path = network, Path(path)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; only the first rank writes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self._save)

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            torch.save(self._network.state_dict(), file)
        logger.info("The trained network is in %s.", self._path)
