"""Find what would overwrite all groups' learning rates among an engine's handlers."""

from __future__ import annotations

from collections.abc import Iterator

from ignite.engine import Engine
from ignite.handlers.param_scheduler import BaseParamScheduler
from monai.handlers import LrScheduleHandler
from torch.optim.lr_scheduler import LRScheduler

SCHEDULERS = (LrScheduleHandler, BaseParamScheduler, LRScheduler)


def rate_schedulers(engine: Engine) -> list[str]:
    """Class names of the rate schedulers attached to an engine, each with the scheduler that it drives."""
    found = {id(o): o for o in _attached_objects(engine) if isinstance(o, SCHEDULERS)}
    return [_name(o) for o in found.values()]


def _attached_objects(engine: Engine) -> Iterator[object]:
    for handlers in engine._event_handlers.values():
        for function, *_ in handlers:
            parent = getattr(function, "_parent", None)  # Ignite wraps handlers of filtered events
            original = parent() if parent is not None else function
            yield getattr(original, "__self__", original)


def _name(scheduler: object) -> str:
    inner = getattr(scheduler, "lr_scheduler", None)
    return type(scheduler).__name__ + ("" if inner is None else f" with {type(inner).__name__}")
