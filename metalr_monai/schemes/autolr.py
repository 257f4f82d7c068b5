"""AutoLR: an epoch is repeated with other rates until the deeper blocks' weights have moved more."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from ..errors import BlockError
from .autolr_targets import first_targets, later_targets, new_rates, sorting_quality, threshold_in, weight_variation
from .options import checked_count, checked_number
from .scheme import Scheme

logger = logging.getLogger(__name__)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FIRST_BLOCK_SHARE = 0.5  # rate of the first block, in that of the second
DIVERGED_SHARE = 0.1


class AutoLR(Scheme):
    """AutoLR (Ro & Choi, AAAI 2021) without its pruning of layers; the arithmetic is in `autolr_targets`.

    An epoch is a trial. It is accepted if the weight variations of the blocks between first and last ascend with depth
    well enough (S ≥ τ), or if it is the last one allowed. Else network and optimizer go back to where the trial began,
    the blocks' rates are set for their variations to ascend, and the epoch is run again: with the next number, and so
    with other random numbers, as in the published code. For each rejected trial the run becomes one epoch longer, so
    that `max_epochs` counts accepted ones; reports and checkpoints show every trial with its rates and its cost.

    The decision falls before any other handler of the epoch's end. A validation after a rejected trial therefore scores
    the network that was put back, and repeats what it said of the last accepted epoch.

    The first block trains at half the rate of the second one from the first retuning on, the head at `head_rate`
    always. A block without trainable convolutions has no variation: it has no place in the order and keeps its rate.
    A trial that diverges is rejected, and the next one has a tenth of its rates.

    Unlike in the published code, which makes the optimizer anew for each trial, its momenta are kept from one accepted
    epoch to the next; and rates are not dropped near the end.

    Args:
        threshold: τ of the first epoch, in (0, 1].
        relaxation: factor of τ an epoch, in (0, 1].
        lowest_threshold: τ is relaxed while it is above this; in (0, 1].
        head_rate: rate of the last block, above 0.
        trials: number of trials that an epoch may take, 1 or more.
        low_target, high_target: the first epoch's targets go from low_target·min v to high_target·max v; above 0.

    Attributes:
        record: one entry a trial: its `epoch` (as the trainer counts), `accepted_epochs` before it, `sorting_quality`,
            `threshold`, whether it was `accepted`, and the `variations` by block.
            The sorting quality is NaN where they are not finite.

    Raises:
        OptionError: a value is out of its range.
        BlockError: when the run starts, fewer than two blocks between first and last have trainable convolutions.
    """

    def __init__(
        self,
        threshold: float = 0.94,
        relaxation: float = 0.99,
        lowest_threshold: float = 0.8,
        head_rate: float = 0.01,
        trials: int = 5,
        low_target: float = 2.0,
        high_target: float = 0.4,
    ) -> None:
        super().__init__()
        self._threshold, self._relaxation = _share("threshold", threshold), _share("relaxation", relaxation)
        self._lowest = _share("lowest_threshold", lowest_threshold)
        self._head_rate, self._most_trials = _positive("head_rate", head_rate), checked_count("trials", trials, 1)
        self._ends = _positive("low_target", low_target), _positive("high_target", high_target)
        self._kernels: dict[str, list[str]] = {}  # block → names of its convolution weights
        self._network_before: dict[str, Tensor] = {}
        self._optimizer_before: dict[str, Any] = {}
        self._accepted, self._trial = 0, 1
        self._targets: list[float] | None = None
        self._next_rates: dict[str, float] = {}
        self.record: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, before those whose handlers of an epoch's end are registered already."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)
        handlers = engine._event_handlers[Events.EPOCH_COMPLETED]
        handlers.insert(0, handlers.pop())

    def start(self, engine: SupervisedTrainer) -> None:
        """Find the convolutions; the head's rate is its own from the first trial on."""
        convolving = {id(m.weight) for m in engine.network.modules() if isinstance(m, CONVOLUTIONS)}
        kernels = {id(p): name for name, p in engine.network.named_parameters() if id(p) in convolving}
        found = {block: [kernels[id(p)] for p in ps if id(p) in kernels] for block, ps in self.blocks.items()}
        self._kernels = {name: found[name] for name in self.names[1:-1] if found[name]}
        if len(self._kernels) < 2:
            raise BlockError(
                f"AutoLR orders the blocks between the first and the last, and {len(self._kernels)} of "
                f"{', '.join(self.names)} would be ordered; expected two or more with trainable convolutions. "
                f"Divide the network into more blocks."
            )
        self._next_rates = {self.names[-1]: self._head_rate}

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Set the trial's rates and remember where it begins."""
        self.set_rates(self._next_rates)
        self._network_before = {name: tensor.detach().clone() for name, tensor in engine.network.state_dict().items()}
        self._optimizer_before = copy.deepcopy(engine.optimizer.state_dict())

    def _judge(self, engine: SupervisedTrainer) -> None:
        before, after = self._network_before, engine.network.state_dict()
        variations = [
            weight_variation([before[k] for k in ks], [after[k] for k in ks]) for ks in self._kernels.values()
        ]
        diverged = not all(map(math.isfinite, variations))
        quality = math.nan if diverged else sorting_quality(variations)
        threshold = threshold_in(self._accepted, self._threshold, self._relaxation, self._lowest)
        accepted = quality >= threshold or self._trial == self._most_trials
        self.record.append(
            {
                "epoch": engine.state.epoch,
                "accepted_epochs": self._accepted,
                "sorting_quality": quality,
                "threshold": threshold,
                "accepted": accepted,
                "variations": dict(zip(self._kernels, variations, strict=True)),
            }
        )
        logger.info(
            "AutoLR: epoch %d, trial %d: sorting quality %.3f (threshold %.3f), %s.",
            *(engine.state.epoch, self._trial, quality, threshold, "accepted" if accepted else "rejected"),
        )
        if accepted:
            self._accepted, self._trial, self._targets = self._accepted + 1, 1, None
        else:
            self._trial += 1
            if diverged:
                self._next_rates.update({name: DIVERGED_SHARE * self.rates[name] for name in self.names[:-1]})
            else:
                self._retune(variations)
            self._go_back(engine)

    def _retune(self, variations: list[float]) -> None:
        """The next trial's rates; an epoch's targets are those of its first rejected trial."""
        if self._targets is None:
            first = self._accepted == 0
            self._targets = first_targets(variations, *self._ends) if first else later_targets(variations)
        present = [self.rates[name] for name in self._kernels]
        rates = dict(zip(self._kernels, new_rates(present, variations, self._targets), strict=True))
        self._next_rates.update(rates)
        self._next_rates[self.names[0]] = FIRST_BLOCK_SHARE * next(iter(rates.values()))

    def _go_back(self, engine: SupervisedTrainer) -> None:
        engine.network.load_state_dict(self._network_before)
        engine.optimizer.load_state_dict(self._optimizer_before)  # with the trial's rates, for those who report them
        if engine.state.max_epochs is not None:
            engine.state.max_epochs += 1

    def state_dict(self) -> dict[str, Any]:
        """Trials so far, and what the next one needs; at an epoch's end, network and optimizer are where it begins."""
        return {
            "accepted": self._accepted,
            "trial": self._trial,
            "targets": self._targets,
            "next_rates": dict(self._next_rates),
            "record": copy.deepcopy(self.record),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._accepted, self._trial, self._targets = state["accepted"], state["trial"], state["targets"]
        self._next_rates, self.record = dict(state["next_rates"]), copy.deepcopy(state["record"])


def _share(name: str, value: float) -> float:
    return checked_number(name, value, "a number above 0, at most 1", lambda v: 0 < v <= 1)


def _positive(name: str, value: float) -> float:
    return checked_number(name, value, "a number above 0", lambda v: v > 0)
