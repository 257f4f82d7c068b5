"""What is learned: one rate a block, or one multiplier a block on a schedule, with its rule, bounds and guards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from ..errors import BlockError, OptionError
from .options import Options
from .update import RULES, count_clipped, renormalized

HELD_CLASSIFIER_EPOCHS = 5


class LearnedRates:
    """α_j, or m_j where there is a schedule s_t (α_j = s_t·m_j); float64 on the host.

    Attributes:
        values: what is learned, shape (d,).
        counts: `meta_steps`, `nonfinite` and `clipped`, as in `MetaLR`.

    Raises:
        OptionError: a block starts outside of the bounds.
        BlockError: `hold` names a block that does not exist.
    """

    def __init__(self, names: Sequence[str], start: Sequence[float], options: Options) -> None:
        self._options = options
        self._start = torch.tensor(start, dtype=torch.float64)
        if "tenth_start" in options.quirks:
            self._start[:-1] *= 0.1
        _refuse_start_out_of_bounds(names, self._start.tolist(), options.limits)
        self._held = _epochs_held(names, options)
        self.values = self._start.clone()
        self.counts = {"meta_steps": 0, "nonfinite": 0, "clipped": 0}
        self._mean_h = torch.zeros_like(self._start)
        self._mean_weight = 0.0
        self._warned: list[str] = []

    def update(self, h: Tensor, moved: Set[int], epoch: int, schedule: float) -> None:
        """Move the blocks that moved and are not held by the rule; h has shape (d,), `schedule` is s_t (else 1).

        Where h, or a rate that would come of it, is not finite nothing changes, but it is counted.
        """
        if schedule == 0:
            return
        self.counts["meta_steps"] += 1
        if not bool(h.isfinite().all()):
            self.counts["nonfinite"] += 1
            return
        h = self._averaged(h)
        coefficient, (lower, upper) = self._options.hyper_lr, self._options.limits
        if coefficient == 0:  # or rounding in s_t·m_j/s_t would move the multipliers
            return
        free = torch.tensor([j in moved and self._held.get(j, 0) <= epoch for j in range(len(h))])
        new = RULES[self._options.rule](self.values * schedule, h, coefficient) / schedule
        if self._options.rule == "proportional":
            self.counts["clipped"] += count_clipped(h[free], coefficient)
        if not bool(new.clamp(lower, upper)[free].isfinite().all()):  # exp(−β·h) under an open upper bound
            self.counts["nonfinite"] += 1
            return
        new = torch.where(free, new.clamp(lower, upper), self.values)
        if self._options.renormalize:
            new = torch.where(free, renormalized(new, free).clamp(lower, upper), new)
        self.values = new

    def end_epoch(self) -> None:
        """Say aloud, once, what would otherwise go unseen: rates that never moved, and rates that Eq. 5 threw down."""
        if "rounded_rates" in self._options.quirks:
            self.values = self.values.round(decimals=6).clamp(*self._options.limits)  # no step can leave a rate of 0
        steps = self.counts["meta_steps"]
        if steps and self._options.hyper_lr > 0 and self._stands_still():
            self._warn_once(
                "still",
                f"No rate has moved in {steps} meta steps ({self.counts['nonfinite']} of them not finite). See "
                f"tuner.history.hypergradients: raise beta or eta where they are small, widen bounds "
                f"{self._options.limits} where the rates start at one.",
            )
        if self.counts["clipped"]:
            self._warn_once(
                "clipped",
                f"β·h was beyond 1 in {self.counts['clipped']} of {steps * len(self.values)} block updates, where "
                f"Eq. 5 would make a rate negative; those rates went to the lower bound. Lower beta, or take "
                f"scale='cosine' or rule='exponential'.",
            )

    def _stands_still(self) -> bool:
        never_held = torch.tensor([j not in self._held for j in range(len(self.values))])
        return bool(never_held.any()) and torch.equal(self.values[never_held], self._start[never_held])

    def _averaged(self, h: Tensor) -> Tensor:
        past = self._options.average
        self._mean_h = past * self._mean_h + (1 - past) * h
        self._mean_weight = past * self._mean_weight + (1 - past)
        return self._mean_h / self._mean_weight

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.append(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers."""
        return {
            "values": self.values.clone(),
            "start": self._start.clone(),
            "mean_h": self._mean_h.clone(),
            "mean_weight": self._mean_weight,
            "counts": dict(self.counts),
            "warned": list(self._warned),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken, for the same blocks."""
        self.values, self._start = state["values"].cpu().clone(), state["start"].cpu().clone()
        self._mean_h, self._mean_weight = state["mean_h"].cpu().clone(), float(state["mean_weight"])
        self.counts, self._warned = dict(state["counts"]), list(state["warned"])


def _refuse_start_out_of_bounds(names: Sequence[str], start: Sequence[float], limits: tuple[float, float]) -> None:
    lower, upper = limits
    for name, value in zip(names, start, strict=True):
        if not lower <= value <= upper:
            raise OptionError(
                f"Block {name!r} starts at {value:g}, outside of the bounds [{lower:g}, {upper:g}]; "
                f"start it inside, or give bounds=(lowest, highest)."
            )


def _epochs_held(names: Sequence[str], options: Options) -> dict[int, int]:
    held = dict(options.hold)
    if "held_classifier" in options.quirks:
        held.setdefault(names[-1], HELD_CLASSIFIER_EPOCHS)
    unknown = [name for name in held if name not in names]
    if unknown:
        raise BlockError(f"hold names {', '.join(map(repr, unknown))}; the blocks are {', '.join(names)}.")
    return {names.index(name): epochs for name, epochs in held.items()}
