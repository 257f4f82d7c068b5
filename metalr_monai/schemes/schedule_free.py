"""Averaged weights wherever a schedule-free optimizer's network is judged or saved."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.optim.swa_utils import update_bn

from ..errors import OptimizerError
from .options import checked_count, checked_number
from .scheme import Scheme


class ScheduleFree(Scheme):
    """Switch an optimizer of the package `schedulefree` between the weights that it trains and their average.

    Defazio et al., "The Road Less Scheduled", 2024. From the end of an epoch to the start of the next one the network
    has the averaged weights: validation at an epoch's end, checkpoints and the final model see these, if their handlers
    stand behind this one. (Validation within an epoch would not.) Batch norms have seen other weights than the averaged
    ones: as the package asks, their running statistics are computed anew, from training batches.

    Args:
        warmup: share of the run's steps over which the rate rises, from 0 to below 1; a resumed run keeps its steps.
        statistics_batches: how many batches, at most those of an epoch; 0 leaves the running statistics alone.

    Raises:
        OptionError: an argument is outside of its range.
        OptimizerError: when the run starts, the optimizer is not schedule-free.
    """

    def __init__(self, warmup: float = 0.05, statistics_batches: int = 50) -> None:
        super().__init__()
        self._warmup = checked_number("warmup", warmup, "a number from 0 to below 1", lambda value: 0 <= value < 1)
        self._batches = checked_count("statistics_batches", statistics_batches, 0)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; let what judges or saves the network stand behind."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._average)
        engine.add_event_handler(Events.COMPLETED, self._average)  # a run that was told to stop within an epoch

    def start(self, engine: SupervisedTrainer) -> None:
        """Set the steps of the warm-up."""
        for group in engine.optimizer.param_groups:
            if not {"train_mode", "warmup_steps"} <= group.keys():
                raise OptimizerError(
                    f"ScheduleFree drives the optimizers of the package schedulefree, as AdamWScheduleFree, and not "
                    f"{type(engine.optimizer).__name__}. Build one of them, or leave this handler out."
                )
            group["warmup_steps"] = round(self._warmup * engine.state.max_epochs * engine.state.epoch_length)

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Go on from the weights that are trained."""
        engine.optimizer.train()

    def _average(self, engine: SupervisedTrainer) -> None:
        if not engine.optimizer.param_groups[0]["train_mode"]:
            return
        began = time.perf_counter()
        engine.optimizer.eval()
        if self._batches:
            update_bn(self._images(engine), engine.network)
        engine.state.times[Events.EPOCH_COMPLETED.name] += time.perf_counter() - began  # what an epoch of it costs

    def _images(self, engine: SupervisedTrainer) -> Iterator[Tensor]:
        for batch in islice(engine.state.dataloader, self._batches):
            yield engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)[0]
