"""Small real trainings under a scheme, and what each of their steps did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from small_trainer import make_trainer
from torch import Tensor
from torch.optim import Optimizer

from metalr_monai import EpochSeed, RunCheckpoints, latest_checkpoint
from metalr_monai.schemes.scheme import Scheme

BLOCKS = ("conv", "norm", "head")
STEPS = 5  # an epoch: ten images in batches of two


@dataclass
class Steps:
    """As one of a trainer's handlers: each step's rates, weights and gradients, by block."""

    rates: list[dict[str, float]] = field(default_factory=list)
    before: list[dict[str, list[Tensor]]] = field(default_factory=list)
    after: list[dict[str, list[Tensor]]] = field(default_factory=list)
    gradients: list[dict[str, list[Tensor | None]]] = field(default_factory=list)

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: self.before.append(self._weights(engine)))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)

    def _record(self, engine: SupervisedTrainer) -> None:
        groups = engine.optimizer.param_groups
        self.rates.append({group["name"]: group["lr"] for group in groups})
        self.after.append(self._weights(engine))
        self.gradients.append(
            {group["name"]: [None if p.grad is None else p.grad.clone() for p in group["params"]] for group in groups}
        )

    def _weights(self, engine: SupervisedTrainer) -> dict[str, list[Tensor]]:
        return {group["name"]: [p.detach().clone() for p in group["params"]] for group in engine.optimizer.param_groups}

    def moved(self) -> list[set[str]]:
        """The blocks that each step moved."""
        steps = zip(self.before, self.after, strict=True)
        return [{name for name in BLOCKS if not all(map(torch.equal, old[name], new[name]))} for old, new in steps]


def three_blocks(groups: list[dict]) -> list[dict]:
    """The network's convolution, its norm and its head, each a group."""
    body, head = groups
    convolution, norm = body["params"][:2], body["params"][2:]
    return [{**body, "name": "conv", "params": convolution}, {**body, "name": "norm", "params": norm}, head]


def train(
    scheme: Scheme,
    *others,
    epochs: int = 2,
    folder: Path | None = None,
    optimizer: Callable[[list[dict]], Optimizer] = torch.optim.Adam,
    **settings,
) -> tuple[SupervisedTrainer, Steps]:
    """Train to the end of `epochs`; with a folder, from its last checkpoint on, and a checkpoint after each epoch.

    `others` are handlers behind the scheme; the optimizer is made of three groups: conv, norm and head.
    """
    steps = Steps()
    handlers = [scheme, EpochSeed(3), steps, *others]
    trainer = make_trainer(
        handlers, epochs=epochs, optimizer=lambda groups: optimizer(three_blocks(groups)), **settings
    )
    if folder is not None:
        objects = {"network": trainer.network, "optimizer": trainer.optimizer, "scheme": scheme}
        RunCheckpoints(folder, objects, latest_checkpoint(folder)).attach(trainer)
    trainer.run()
    return trainer, steps


def assert_resuming_changes_nothing(
    make: Callable[[], Scheme], folder: Path, *, epochs: int = 4, after: int = 1, **settings
) -> None:
    """A run that ends after some epochs and goes on from its checkpoint does what one in one go does, bit for bit."""
    straight, straight_steps = train(make(), epochs=epochs, folder=folder / "straight", **settings)
    train(make(), epochs=after, folder=folder / "broken", **settings)
    resumed, steps = train(make(), epochs=epochs, folder=folder / "broken", **settings)
    assert len(steps.rates) == (epochs - after) * STEPS
    assert steps.rates == straight_steps.rates[after * STEPS :]
    assert steps.moved() == straight_steps.moved()[after * STEPS :]
    ours, theirs = resumed.network.state_dict(), straight.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
