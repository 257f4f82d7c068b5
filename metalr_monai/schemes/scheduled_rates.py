"""All blocks' rates rise from zero, and fall to zero by the end of the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from monai.engines import SupervisedTrainer

from ..errors import OptionError, near_misses
from .options import checked_count, checked_number
from .scheme import Scheme

POLY_EXPONENT = 0.9  # Chen et al., "DeepLab", 2018; nnU-Net

SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
    "poly": lambda progress: (1 - progress) ** POLY_EXPONENT,
}


class RateSchedule:
    """Linear warm-up, then a fall to zero: the rate of each step, for `MetaLR`'s `schedule` or for all blocks alike.

    Of T steps the first W = round(warmup·T) have the factors 1/W, 2/W, …, 1; the step t ≥ W, counted from 0, has
    (1 + cos πx)/2 ("cosine": Loshchilov & Hutter, "SGDR", 2017, without restarts) or (1 − x)^0.9 ("poly"), where
    x = (t − W)/(T − W). "poly" after a warm-up of 5 % is what nnU-Net 2.8 fine-tunes with; there a step is an epoch.
    Beyond T the rate is 0.

    Args:
        shape: "cosine" or "poly".
        steps: T, 1 or more.
        warmup: share of all steps, from 0 to below 1.
        peak: the factors' unit: the rate at the end of the warm-up.

    Raises:
        OptionError: an argument is outside of its range.

    Example:
        >>> schedule = RateSchedule("poly", steps=4, warmup=0.5, peak=1e-3)
        >>> [schedule(t) for t in range(3)]
        [0.0005, 0.001, 0.001]
    """

    def __init__(self, shape: str, steps: int, warmup: float = 0.0, peak: float = 1.0) -> None:
        if shape not in SHAPES:
            raise OptionError(f"shape is {shape!r}; expected one of {', '.join(SHAPES)}.{near_misses(shape, SHAPES)}")
        self._fall, self._steps = SHAPES[shape], checked_count("steps", steps, 1)
        self._warmup = checked_number("warmup", warmup, "a number from 0 to below 1", lambda value: 0 <= value < 1)
        self._peak = checked_number("peak", peak, "a number above 0", lambda value: value > 0)

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        rising = round(self._warmup * self._steps)
        if step < rising:
            return self._peak * (step + 1) / rising
        return self._peak * self._fall(min(1.0, (step - rising) / max(1, self._steps - rising)))


class ScheduledRates(Scheme):
    """Every block at its start rate × a `RateSchedule`.

    The factor depends on the trainer's iteration alone, so that resuming needs no state.

    Args:
        shape, warmup: of the schedule.
        epochs: after how many epochs the rate is 0, 1 or more; T is this × the trainer's batches an epoch.

    Raises:
        OptionError: an argument is outside of its range.
    """

    def __init__(self, shape: str, epochs: int, warmup: float = 0.0) -> None:
        super().__init__()
        RateSchedule(shape, 1, warmup)  # a wrong argument is refused here, and not when the run starts
        self._shape, self._epochs, self._warmup = shape, checked_count("epochs", epochs, 1), warmup

    def before_step(self, engine: SupervisedTrainer) -> None:
        """Set the rates of this step; the optimizer reads them afterwards."""
        schedule = RateSchedule(self._shape, self._epochs * engine.state.epoch_length, self._warmup)
        factor = schedule(engine.state.iteration - 1)
        self.set_rates({name: rate * factor for name, rate in self.start_rates.items()})
