"""MetaLR for MONAI's `SupervisedTrainer`, and so for any bundle: one handler among `train_handlers`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor
from torch.utils.data import DataLoader

from ..data.hold_out import case_names, hold_out
from ..data.loaders import loader_over
from ..data.meta_batches import MetaBatches
from ..errors import ConflictError, EngineError, MetaDataError, OptionError, StateError, first_few
from ..rates.conflicts import schedulers_of
from ..rates.options import read_options
from ..rates.tuner import MetaLR
from .batch_loss import batch_loss
from .engine_schedulers import rate_schedulers

logger = logging.getLogger(__name__)


class MetaLRHandler:
    """Learn one learning rate per block while a MONAI trainer trains.

    The optimizer's groups come from `metalr_monai.param_groups`. The meta pass goes through the trainer's own
    `prepare_batch`, inferer, loss function, AMP settings and compiled or distributed network. It acts when the
    optimizer really steps, so gradient accumulation and steps that the GradScaler skips need no care.

    Args:
        meta: where meta batches come from. "training" (the default, and best in the paper's Table 2): a second,
            independently shuffled stream over the training data; an int or a float in (0, 1): that many cases, or that
            share of them (see `hold_out`), are held out of the training data at `attach`, and the trainer's loader goes
            over the rest; a `DataLoader`: its data set in a stream of its own. Leave it out with `one_pass=True`.
        meta_batch_size: items a meta batch; the training loader's by default, a meta loader's always.
        seed: of the hold-out, the meta stream and the meta pass's dropout; training's streams are not touched.
        schedule_for: makes the `schedule` out of the batches that an epoch has when the run starts, which a hold-out
            makes fewer: `lambda batches: RateSchedule("cosine", epochs * batches, 0.1, 1e-3)`.
        **options: those of `metalr_monai.MetaLR`: `rule`, `beta`, `eta`, `lookahead`, `scale`, `average`, `bounds`,
            `meta_every`, `one_pass`, `schedule`, `renormalize`, `hold`, `preset`, `quirks`.

    Attributes:
        tuner: the `MetaLR`, from the start of the run on.
        split: {"train": names, "meta": names} of the hold-out, or None.

    For exact resuming name the handler in `CheckpointSaver`'s `save_dict` and `CheckpointLoader`'s `load_dict`.

    Raises:
        EngineError: the engine is no `SupervisedTrainer`.
        MetaDataError: the meta set is empty, takes all the data, or is shorter than a batch.
        ConflictError: a learning-rate scheduler drives the same optimizer.

    Example:
        >>> import metalr_monai
        >>> handler = metalr_monai.MetaLRHandler(meta=23, beta=3e-3)  # 23 of LiTS' 111 training volumes
        >>> # SupervisedTrainer(..., train_handlers=[handler, ...])
    """

    def __init__(
        self,
        meta: DataLoader[Any] | float | str | None = None,
        *,
        meta_batch_size: int | None = None,
        seed: int = 0,
        preset: str = "paper",
        schedule_for: Callable[[int], Callable[[int], float]] | None = None,
        **options: Any,  # noqa: ANN401 - checked by read_options
    ) -> None:
        self._options = {**options, "seed": seed}
        self._schedule_for = schedule_for
        if schedule_for is not None and "schedule" in options:
            raise OptionError("schedule and schedule_for are both given; expected one of them.")
        known = read_options(preset, self._options if schedule_for is None else {**self._options, "schedule": _to_come})
        if known.one_pass and meta is not None:
            raise OptionError(f"one_pass=True takes the next training batch for the meta batch; drop meta={meta!r}.")
        if isinstance(meta, str) and meta != "training":
            raise OptionError(f"meta is {meta!r}; expected 'training', a count, a share, or a DataLoader.")
        self._one_pass, self._preset, self._seed = known.one_pass, preset, seed
        self._order = "first" if "first_meta_batch" in known.quirks else "shuffled"
        self._meta = "training" if meta is None else meta
        self._meta_batch_size = meta_batch_size
        self._engine: Engine | None = None
        self._batches: MetaBatches | None = None
        self._pending: Mapping[str, Any] | None = None
        self.tuner: MetaLR | None = None
        self.split: dict[str, list[str]] | None = None

    # ------------------------------------------------------------------ Ignite

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; a hold-out is taken from its data loader here, before anything runs."""
        if not isinstance(engine, SupervisedTrainer):
            raise EngineError(f"MetaLRHandler is attached to {type(engine).__name__}; expected a SupervisedTrainer.")
        if self._engine is not None and self._engine is not engine:
            raise EngineError("This MetaLRHandler belongs to another trainer; make one for each.")
        self._engine = engine
        if not self._one_pass:
            self._take_meta_batches(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        # At an epoch's start, so that a checkpoint of the last epoch's end is the same before or behind this handler.
        engine.add_event_handler(Events.EPOCH_STARTED, self._end_epochs_before, 1)
        engine.add_event_handler(Events.COMPLETED, self._end_epochs_before, 0)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _start(self, engine: SupervisedTrainer) -> None:
        if self.tuner is None:
            _refuse_schedulers(engine)
            if self._schedule_for is not None:
                self._options["schedule"] = self._schedule_for(engine.state.epoch_length)
            self.tuner = MetaLR(engine.optimizer, engine.network, preset=self._preset, **self._options)
            self._announce()
        self.tuner.scaler = engine.scaler if engine.amp else None  # each run of a trainer makes a new one
        if self._pending is not None:
            self.load_state_dict(self._pending)
        if getattr(engine._process_function, "__func__", None) is SupervisedTrainer._iteration:
            # An `iteration_update` of the user's own leaves its output there only when the step has been taken.
            self.tuner.train_loss = lambda: engine.state.output["loss"]
        if not self._one_pass:
            self.tuner.meta_loss = lambda: self._meta_loss(engine)

    def _end_epochs_before(self, engine: SupervisedTrainer, running: int) -> None:
        while self.tuner is not None and self.tuner.epoch < engine.state.epoch - running:
            self.tuner.end_epoch()

    def _meta_loss(self, engine: SupervisedTrainer) -> Tensor:
        """The trainer's forward pass and loss on the next meta batch."""
        if self._batches is None:
            raise MetaDataError("MetaLRHandler has no meta batches; attach it to the trainer before the run.")
        return batch_loss(engine, next(self._batches))

    # ------------------------------------------------------------------ meta data

    def _take_meta_batches(self, engine: SupervisedTrainer) -> None:
        if isinstance(self._meta, DataLoader):
            self._batches = self._stream(self._meta)
            return
        training = engine.data_loader
        if not isinstance(training, DataLoader):
            raise MetaDataError(
                f"The trainer's data is a {type(training).__name__}, not a DataLoader, so no meta batches can be taken "
                f"from it; give MetaLRHandler a meta DataLoader."
            )
        if self._meta == "training":
            self._batches = self._stream(training)
        else:
            self._hold_out(engine, training, self._meta)

    def _hold_out(self, engine: SupervisedTrainer, training: DataLoader[Any], amount: Any) -> None:  # noqa: ANN401
        train, meta = hold_out(training.dataset, amount, self._seed)
        rest = loader_over(train, training)
        self._batches = self._stream(loader_over(meta, training))
        # All of it fits: only now is the trainer changed.
        self.split = {"train": case_names(train), "meta": case_names(meta)}
        if engine.state.epoch_length == len(training):
            engine.state.epoch_length = len(rest)
        engine.data_loader = rest
        sampler = rest.sampler
        if isinstance(sampler, torch.utils.data.DistributedSampler):
            engine.add_event_handler(Events.EPOCH_STARTED, lambda e: sampler.set_epoch(e.state.epoch))

    def _stream(self, loader: DataLoader[Any]) -> MetaBatches:
        own = isinstance(self._meta, DataLoader) and self._order == "shuffled"
        return MetaBatches(
            loader,
            order="loader" if own else self._order,
            batch_size=self._meta_batch_size,
            seed=self._seed,
            rank=idist.get_rank(),
            world_size=idist.get_world_size(),
        )

    # ------------------------------------------------------------------ what people read

    def _announce(self) -> None:
        if self.tuner is None or idist.get_rank() != 0:
            return
        logger.info("MetaLR tunes:\n%s", self.tuner.describe())
        if self._one_pass:
            logger.info("Meta batch: the next training batch (one pass).")
        elif self.split is not None:
            held = self.split["meta"]
            logger.info("Meta set: %d items held out of %d: %s", len(held), _total(self.split), first_few(held))
        else:
            logger.info("Meta batch: %s.", "a meta loader" if isinstance(self._meta, DataLoader) else "training data")

    def _report(self) -> None:
        if self.tuner is not None and idist.get_rank() == 0:
            rates = ", ".join(f"{name} {rate:.2e}" for name, rate in self.tuner.lrs.items())
            counts = ", ".join(f"{number} {name}" for name, number in self.tuner.counts.items())
            logger.info("MetaLR learned: %s (%s).", rates, counts)

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Rates, history, random streams and the meta stream's position; tensors and plain containers only."""
        return {
            "tuner": {} if self.tuner is None else self.tuner.state_dict(),
            "batches": {} if self._batches is None else self._batches.state_dict(),
            "meta_cases": [] if self.split is None else self.split["meta"],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; before the run has started the state is kept for its start.

        Raises:
            StateError: another meta set was held out, or the blocks are others.
        """
        held = [] if self.split is None else self.split["meta"]
        if list(state["meta_cases"]) != held:
            raise StateError(
                f"The checkpoint's meta set has {len(state['meta_cases'])} cases ({first_few(state['meta_cases'])}), "
                f"this run's {len(held)} ({first_few(held)}). Resume with the same data, meta= and seed=."
            )
        if self.tuner is None:
            self._pending = state
            return
        self._pending = None
        if state["tuner"]:
            self.tuner.load_state_dict(state["tuner"])
        if self._batches is not None and state["batches"]:
            self._batches.load_state_dict(state["batches"])


def _to_come(step: int) -> float:
    """Stands for the schedule that the run's start will make, where options are checked together."""
    return 1.0


def _total(split: Mapping[str, list[str]]) -> int:
    return sum(len(names) for names in split.values())


def _refuse_schedulers(engine: SupervisedTrainer) -> None:
    culprits = rate_schedulers(engine, engine.optimizer) or [type(s).__name__ for s in schedulers_of(engine.optimizer)]
    if culprits:
        raise ConflictError(
            f"{' and '.join(culprits)} would overwrite the rates that MetaLR learns. Remove it from the handlers, and "
            f"give its schedule to MetaLRHandler (schedule=lambda t: ..., t counts optimizer steps), which multiplies "
            f"it by the learned multipliers."
        )
