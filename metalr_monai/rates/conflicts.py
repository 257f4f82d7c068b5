"""Who else writes learning rates into an optimizer."""

from __future__ import annotations

import gc

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def schedulers_of(optimizer: Optimizer) -> list[LRScheduler]:
    """The living torch schedulers that drive this optimizer. Walks all objects: for start-up and errors."""
    if not hasattr(optimizer.step, "_wrapped_by_lr_sched"):  # no scheduler has ever been put on it
        return []
    # type(o), for isinstance would wake deprecated and lazy objects by reading their __class__
    found = [o for o in gc.get_objects() if issubclass(type(o), LRScheduler)]
    return [scheduler for scheduler in found if scheduler.optimizer is optimizer]


def name_of_scheduler(optimizer: Optimizer) -> str:
    """The culprit's class name, or what can be said where it is no torch scheduler."""
    found = schedulers_of(optimizer)
    return " and ".join(type(s).__name__ for s in found) if found else "something outside of MetaLR"
