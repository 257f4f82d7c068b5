"""A schedule that finds its own height: the rate climbs from far too small until the hypergradient changes its sign."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from ..errors import OptionError, StateError

SPAN = 1e3  # searched to either side of the guess
LEAST_STEPS = 40
LARGEST_FACTOR = 1.5  # larger ones overshoot, which a network does not survive unharmed


class LevelSearch:
    """For `MetaLR`'s `schedule`: a warm-up that ends where steps stop to help, then a cosine to zero.

    The first W of T steps search: W = round(search·T), at least 40, at most T/2. The level starts at a thousandth of
    `guess`. After each step of which the next gradient approves, Σ_j ⟨g_v,j , Δ_j⟩ ≥ 0 (the hypergradient of the
    common level is not positive), it is multiplied by a factor, else divided by it: by 10^(12/W), so that half of a
    search can climb to 1,000 × `guess`, beyond which it does not go, and at most by 1.5. The level is then the
    geometric mean of those since the first disapproval in the second half of the search (one that comes earlier may be
    noise on the way up), and the step t ≥ W has level·(1 + cos πx)/2 with x = (t − W)/(T − W). Beyond T it is 0.

    So the guess may be a thousand times too large, or as many times too small as W steps can climb. The level is found
    from below, since a few steps at far too large a rate destroy what was learned before.

    The sign is that of hypergradient descent (Baydin et al., ICLR 2018); the climb is a learning-rate range test
    (Smith, WACV 2017) that judges by gradients, within the training.

    Args:
        steps: T, 2 or more.
        guess: a rate, above 0.
        search: share of all steps, above 0, below 1.

    Raises:
        OptionError: an argument is outside of its range.

    Example:
        >>> schedule = LevelSearch(steps=8, guess=1e-3)  # 40 steps would be more than half, so 4
        >>> for step, approval in enumerate([0.5, 0.1, -0.2, 0.1]):
        ...     print(f"{schedule(step):.3g}")
        ...     schedule.observe(step, approval)
        1e-06
        1.5e-06
        2.25e-06
        1.5e-06
        >>> print(f"{schedule(4):.3g}")
        1.84e-06
    """

    def __init__(self, steps: int, guess: float, search: float = 0.1) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise OptionError(f"steps is {steps!r}; expected a whole number, 2 or more.")
        for name, value, highest in (("guess", guess, math.inf), ("search", search, 1)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < highest:
                raise OptionError(f"{name} is {value!r}; expected a number above 0{' and below 1' * (highest == 1)}.")
        self._steps, self._guess = steps, float(guess)
        self._search = min(max(LEAST_STEPS, round(search * steps)), steps // 2)
        self._range = {"steps": steps, "search_steps": self._search, "guess": self._guess}
        self._factor = min(LARGEST_FACTOR, SPAN ** (4 / self._search))
        self._level = self._guess / SPAN
        self._log_sum, self._count = 0.0, 0  # of the levels that the mean is taken of

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self._search:
            return self._level
        progress = min(1.0, (step - self._search) / (self._steps - self._search))
        found = math.exp(self._log_sum / self._count) if self._count else self._level
        return found * (1 + math.cos(math.pi * progress)) / 2

    def observe(self, step: int, approval: float) -> None:
        """Learn from a step how far the next gradient approves of it, Σ_j ⟨g_v,j , Δ_j⟩; NaN is no approval."""
        if step >= self._search:
            return
        rises = approval >= 0
        if self._count or (not rises and step >= self._search // 2):
            self._log_sum, self._count = self._log_sum + math.log(self._level), self._count + 1
        level = self._level * (self._factor if rises else 1 / self._factor)
        self._level = min(max(level, self._guess / SPAN), self._guess * SPAN)
        if step == self._search - 1 and not self._count:
            warnings.warn(
                f"No step of the search's second half was disapproved of, up to a rate of {self._level:.3g}: the level "
                f"was not found. Give a larger search, or a guess nearer to the right one.",
                RuntimeWarning,
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, float]:
        """Plain numbers."""
        return {**self._range, "level": self._level, "log_sum": self._log_sum, "count": self._count}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on where `state_dict()` was taken.

        Raises:
            StateError: that was a search of other steps, or from another guess; nothing is changed.
        """
        saved = {name: state.get(name, "not saved") for name in self._range}
        if saved != self._range:
            raise StateError(
                f"The saved state is of a LevelSearch with {_told(saved)}, and this one has {_told(self._range)}. Give "
                f"the same number of steps, guess and search."
            )
        self._level, self._log_sum, self._count = state["level"], state["log_sum"], int(state["count"])


def _told(numbers: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in numbers.items())
