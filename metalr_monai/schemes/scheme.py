"""What every fine-tuning scheme has in common: blocks that it freezes, rates that it sets, and when it may do so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.optim import Optimizer

from ..errors import BlockError, EngineError, near_misses
from ..rates.optimizer import groups_by_block


class Scheme:
    """A fine-tuning scheme as one of a MONAI trainer's handlers.

    The optimizer's groups come from `metalr_monai.param_groups`: they are the blocks, in order of depth, and the last
    one is the head. A subclass overrides `start` (once, when the run starts), `start_epoch` or `before_step`, and uses
    `tune` and `set_rates`. Name the handler where checkpoints are saved and loaded, as those with a state need it.

    Attributes:
        start_rates: block → its rate as the optimizer was built.
    """

    def __init__(self) -> None:
        self.start_rates: dict[str, float] = {}
        self._optimizer: Optimizer | None = None
        self._trainable: dict[str, list[nn.Parameter]] = {}
        self._frozen: frozenset[str] = frozenset()

    # ------------------------------------------------------------------ what a scheme overrides

    def start(self, engine: SupervisedTrainer) -> None:
        """When the run starts; a checkpoint is loaded after it."""

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """At the start of each epoch, the first one's number being `engine.state.epoch` = 1."""

    def before_step(self, engine: SupervisedTrainer) -> None:
        """Before each step of the optimizer, with the gradients of the training batch in place and unscaled."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs beyond the optimizer's own state; tensors and plain containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; called when the run starts."""

    # ------------------------------------------------------------------ what a scheme uses

    @property
    def names(self) -> tuple[str, ...]:
        """The blocks by depth, the head last."""
        return tuple(self.start_rates)

    @property
    def rates(self) -> dict[str, float]:
        """Block → its present rate, which a frozen block has too."""
        return {group["name"]: group["lr"] for group in self._groups()}

    @property
    def blocks(self) -> dict[str, list[nn.Parameter]]:
        """Block → its parameters, without those that were frozen before the scheme came."""
        return self._trainable

    def tune(self, names: Collection[str]) -> None:
        """Train these blocks and freeze the others; parameters that were frozen before stay so.

        Raises:
            BlockError: a name is no block's, or there is none.
        """
        self._check(names)
        if not names:
            raise BlockError(f"No block is left to train. Blocks are {', '.join(self.names)}.")
        self._frozen = frozenset(self.names) - set(names)
        if idist.get_world_size() > 1:  # DDP waits for the gradients that it knew when it was made: see _before_step
            return
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name not in self._frozen)
                if name in self._frozen:
                    parameter.grad = None

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Set the rates of these blocks.

        Raises:
            BlockError: a name is no block's.
        """
        self._check(rates)
        for group in self._groups():
            group["lr"] = float(rates.get(group["name"], group["lr"]))

    # ------------------------------------------------------------------ Ignite

    def attach(self, engine: Engine) -> None:
        """Register with the trainer.

        Raises:
            EngineError: the engine is no `SupervisedTrainer`.
            OptimizerError: when the run starts, the optimizer's groups have no block names.
        """
        if not isinstance(engine, SupervisedTrainer):
            raise EngineError(f"{type(self).__name__} is attached to {type(engine).__name__}, not a SupervisedTrainer.")
        engine.add_event_handler(Events.STARTED, self._start)  # MONAI's trainer has no optimizer before
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)

    def _start(self, engine: SupervisedTrainer) -> None:
        if self._optimizer is engine.optimizer:  # a trainer that goes on: its rates are no start rates
            return
        self._optimizer = engine.optimizer
        for name, numbers in groups_by_block(engine.optimizer).items():
            own = [engine.optimizer.param_groups[number] for number in numbers]
            self.start_rates[name] = own[0]["lr"]
            self._trainable[name] = [p for group in own for p in group["params"] if p.requires_grad]
        engine.optimizer.register_step_pre_hook(lambda *_: self._before_step(engine))
        self.start(engine)

    def _before_step(self, engine: SupervisedTrainer) -> None:
        for name in self._frozen:
            for parameter in self._trainable[name]:
                parameter.grad = None
        self.before_step(engine)

    def _groups(self) -> list[dict[str, Any]]:
        if self._optimizer is None:
            raise EngineError(f"{type(self).__name__} has no trainer yet; attach it to one.")
        groups: list[dict[str, Any]] = self._optimizer.param_groups
        return groups

    def _check(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self.start_rates:
                raise BlockError(
                    f"{type(self).__name__} names the block {name!r}, which does not exist."
                    f"{near_misses(name, self.names)} Blocks are {', '.join(self.names)}."
                )
