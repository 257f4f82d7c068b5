"""The options of MetaLR, as data: one field a knob, presets as dictionaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import OptionError, near_misses
from .level_search import LevelSearch
from .update import RULES

PAPER_BOUNDS = (1e-6, 1e-2)  # Sec. 2.2, on rates
MULTIPLIER_BOUNDS = (1e-3, 1e1)  # the paper's bounds relative to its α⁰ = 1e-3

# What the published code does otherwise than the paper. For comparison only; each can be named alone in `quirks`.
QUIRKS: Mapping[str, str] = {
    "ascending_lookahead": "the look-ahead adds α·g: it climbs the loss, and rates fall when gradients agree",
    "first_meta_batch": "the meta batch is always the first, unshuffled one (MetaLRHandler only)",
    "tenth_start": "every block but the last starts at a tenth of its rate",
    "held_classifier": "the last block keeps its starting rate for five epochs",
    "rounded_rates": "rates are rounded to six decimals after each epoch and carried on",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    # Its plain-SGD look-ahead before an Adam step is an option of its own. Its choice of the best *test* epoch is not
    # reproduced: this project never selects on test data.
    "reference": {"lookahead": "sgd", "quirks": tuple(QUIRKS)},
}


@dataclass(frozen=True)
class Options:
    """How the rates are learned. Defaults are the paper's (MICCAI 2023) for classification.

    Attributes:
        rule: "proportional" (Eq. 5), "constant" (Eq. 3) or "exponential" (α·exp(−β·h), no drift under noise).
        beta: hyper-LR coefficient β of the proportional and exponential rules, ≥ 0.
        eta: hyper-LR η of the constant rule, ≥ 0.
        lookahead: "applied": θ̂ is the step that the optimizer really takes; "sgd": Eq. 2 to the letter, θ̂ = θ − α·g,
            whatever the optimizer is.
        scale: "none", or "cosine": h is divided by ‖g_v‖·‖u‖ of its block, so it lies in [−1, 1] for any task.
        average: weight a in [0, 1) of the past in a bias-corrected running mean of h; 0 takes each h as it is.
        bounds: lowest and highest value of what is learned: rates, or multipliers where there is a schedule. None takes
            (1e-6, 1e-2) for rates and (1e-3, 10) for multipliers; an upper bound of None leaves it open (v1).
        meta_every: learn at every k-th optimizer step, which costs 1 + 1/k passes a step.
        one_pass: take the next training gradient for g_v: no meta batch, rates lag by one step.
        schedule: step number t = 0, 1, … → s_t ≥ 0. The blocks' *multipliers* are then learned: lr_j = s_t·m_j, from
            the `multiplier` of their groups on; the rates that the groups were made with give way. A `LevelSearch`
            finds the height of s_t, too.
        renormalize: keep the geometric mean of the multipliers at 1 (against the short-horizon bias).
        hold: block → number of first epochs during which it keeps its starting rate.
        quirks: names out of `QUIRKS`; for comparison with the published code only.
        seed: seeds the random stream of the meta pass (dropout), which is apart from that of training.
    """

    rule: str = "proportional"
    beta: float = 0.1
    eta: float = 1e-3
    lookahead: str = "applied"
    scale: str = "none"
    average: float = 0.0
    bounds: tuple[float, float | None] | None = None
    meta_every: int = 1
    one_pass: bool = False
    schedule: Callable[[int], float] | None = None
    renormalize: bool = False
    hold: Mapping[str, int] = field(default_factory=dict)
    quirks: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("rule", self.rule, RULES)
        _one_of("lookahead", self.lookahead, ("applied", "sgd"))
        _one_of("scale", self.scale, ("none", "cosine"))
        self._check_types()
        for quirk in self.quirks:
            _one_of("quirks", quirk, QUIRKS)
        _in_range("beta", self.beta, 0, math.inf)
        _in_range("eta", self.eta, 0, math.inf)
        _in_range("average", self.average, 0, 1)
        self._check_bounds()
        self._check_combinations()

    def _check_types(self) -> None:
        if not _is_whole(self.meta_every) or self.meta_every < 1:
            raise OptionError(f"meta_every is {self.meta_every!r}; expected a whole number of steps, 1 or more.")
        if not _is_whole(self.seed) or self.seed < 0:
            raise OptionError(f"seed is {self.seed!r}; expected a whole number, 0 or more.")
        for name in ("one_pass", "renormalize"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected true or false.")
        if self.schedule is not None and not callable(self.schedule):
            raise OptionError(f"schedule is {self.schedule!r}; expected a function of the step, as lambda t: 1e-3.")
        if not isinstance(self.hold, Mapping) or not all(_is_whole(n) and n >= 0 for n in self.hold.values()):
            raise OptionError(f"hold is {self.hold!r}; expected block → number of epochs, as {{'head': 5}}.")
        if not isinstance(self.quirks, (tuple, list)):
            raise OptionError(f"quirks is {self.quirks!r}; expected a list out of {', '.join(QUIRKS)}.")

    def _check_bounds(self) -> None:
        given = PAPER_BOUNDS if self.bounds is None else self.bounds
        if not isinstance(given, (tuple, list)) or len(given) != 2 or not _is_number(given[0]):
            raise OptionError(f"bounds are {given!r}; expected (lowest, highest), with None for no highest.")
        if given[1] is not None and not _is_number(given[1]):
            raise OptionError(f"bounds are {given!r}; expected (lowest, highest), with None for no highest.")
        lower, upper = self.limits
        if not 0 < lower < upper:  # at 0 a rate would stay there for ever, and no step could be rescaled from it
            raise OptionError(f"bounds are {given!r}; expected 0 < lowest < highest, as (1e-6, 1e-2).")

    def _check_combinations(self) -> None:
        if self.renormalize and self.schedule is None:
            raise OptionError("renormalize=True keeps multipliers around a schedule; give schedule= too, or drop it.")
        if self.one_pass and self.lookahead == "sgd":
            raise OptionError(
                "one_pass=True judges the step that the optimizer took, lookahead='sgd' another one; choose one."
            )
        if isinstance(self.schedule, LevelSearch) and (self.meta_every > 1 or self.lookahead == "sgd"):
            raise OptionError(
                f"A LevelSearch judges every step that the optimizer took; meta_every is {self.meta_every} and "
                f"lookahead {self.lookahead!r}. Take meta_every=1 and lookahead='applied', or another schedule."
            )
        if "ascending_lookahead" in self.quirks and self.lookahead != "sgd":
            raise OptionError("the quirk 'ascending_lookahead' is one of lookahead='sgd'; give that too.")

    @property
    def hyper_lr(self) -> float:
        """η of the constant rule, β of the others."""
        return self.eta if self.rule == "constant" else self.beta

    @property
    def limits(self) -> tuple[float, float]:
        """The bounds in force, an open one as infinity."""
        default = PAPER_BOUNDS if self.schedule is None else MULTIPLIER_BOUNDS
        lower, upper = default if self.bounds is None else self.bounds
        return float(lower), math.inf if upper is None else float(upper)


def read_options(preset: str, options: Mapping[str, Any]) -> Options:
    """A preset with the user's options on top. Raises OptionError, with near misses, for names that do not exist."""
    _one_of("preset", preset, PRESETS)
    known = [f.name for f in fields(Options)]
    for name in options:
        _one_of("option", name, known)
    merged = {**PRESETS[preset], **options}
    if isinstance(merged.get("bounds"), list):  # JSON and YAML have no tuples
        merged["bounds"] = tuple(merged["bounds"])
    rule = merged.get("rule", Options.rule)
    unused, used = ("beta", "eta") if rule == "constant" else ("eta", "beta")
    if unused in options:
        raise OptionError(f"{unused}={options[unused]!r} has no part in rule={rule!r}; that rule takes {used}.")
    return Options(**merged)


def _one_of(name: str, value: Any, allowed: Any) -> None:  # noqa: ANN401 - user input may be anything
    if value in tuple(allowed):
        return
    raise OptionError(
        f"{name} {value!r} does not exist; expected one of {', '.join(allowed)}.{near_misses(str(value), allowed)}"
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _in_range(name: str, value: float, lowest: float, below: float) -> None:
    if not _is_number(value) or not lowest <= value < below:
        raise OptionError(f"{name} is {value!r}; expected a number of at least {lowest} and below {below}.")
