"""Find what would overwrite all groups' learning rates among an engine's handlers."""

from __future__ import annotations

from collections.abc import Iterator

from ignite.engine import Engine
from ignite.handlers.param_scheduler import ParamScheduler
from monai.handlers import LrScheduleHandler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def rate_schedulers(engine: Engine, optimizer: Optimizer) -> list[str]:
    """Names of what is attached to an engine and writes rates into this optimizer, each once."""
    found = {id(o): o for o in _attached_objects(engine) if _writes_rates(o, optimizer)}
    return [_name(o) for o in found.values()]


def _writes_rates(handler: object, optimizer: Optimizer) -> bool:
    if isinstance(handler, ParamScheduler):
        return handler.optimizer is optimizer and handler.param_name == "lr"
    scheduler = handler.lr_scheduler if isinstance(handler, LrScheduleHandler) else handler
    return isinstance(scheduler, LRScheduler) and scheduler.optimizer is optimizer


def _attached_objects(engine: Engine) -> Iterator[object]:
    for handlers in engine._event_handlers.values():
        for function, *_ in handlers:
            parent = getattr(function, "_parent", None)  # Ignite wraps handlers of filtered events
            original = parent() if parent is not None else function
            yield getattr(original, "__self__", original)


def _name(scheduler: object) -> str:
    inner = getattr(scheduler, "lr_scheduler", None)
    return type(scheduler).__name__ + ("" if inner is None else f" with {type(inner).__name__}")
