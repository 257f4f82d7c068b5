"""What MetaLR asks of an optimizer: groups with block names and plain float rates, and a step linear in its rate."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import OptimizerError

PROBE_STEPS = 4  # the first step of Rprop and ASGD is linear, later ones are not; the last is a late one
LATE = 1e6
PROBE_FACTORS = (1.0, 2.0, 0.5)


def groups_by_block(optimizer: Optimizer, *, rates_count: bool = True) -> dict[str, list[int]]:
    """Block name → numbers of its parameter groups, in group order; several groups may share a block and its rate.

    Numbers, for loading a state replaces the group dictionaries. Under a schedule the groups' multipliers count, and
    not their rates.

    Raises:
        OptimizerError: a group has no `name`, its rate is no positive float, or groups of one block differ in it.
    """
    counts, otherwise = ("lr", None) if rates_count else ("multiplier", 1.0)
    blocks: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(optimizer.param_groups):
        name, rate = group.get("name"), group["lr"]
        if not isinstance(name, str) or not name:
            raise OptimizerError(
                f"Group {number} of {type(optimizer).__name__} has no block name (its keys: {', '.join(group)}). "
                f"Build the optimizer from metalr_monai.param_groups(network, blocks, lr)."
            )
        if any(p.is_complex() for p in group["params"]):
            raise OptimizerError(f"Block {name!r} has complex parameters, which MetaLR does not handle.")
        if isinstance(rate, Tensor) or (rates_count and not rate > 0):
            raise OptimizerError(
                f"Block {name!r} starts at rate {rate!r}; expected a float above 0. "
                f"To keep a block fixed, set requires_grad=False on its parameters."
            )
        own = group.get(counts, otherwise)
        first = optimizer.param_groups[blocks[name][0]].get(counts, otherwise) if blocks[name] else own
        if first != own:
            raise OptimizerError(
                f"Two groups of block {name!r} start with different values of {counts!r}, {first} and {own}; a block "
                f"has one rate."
            )
        blocks[name].append(number)
    return dict(blocks)


def refuse_nonlinear_step(optimizer: Optimizer) -> None:
    """Probe whether a step is linear in its rate, on a tiny copy with the same settings; the optimizer is untouched.

    Raises:
        OptimizerError: the step or the state it leaves depends on the rate in another way, or it cannot be tried.
    """
    name = type(optimizer).__name__
    try:
        probe = _tiny_copy(optimizer)
        for step in range(PROBE_STEPS):
            trials = {factor: _trial(probe, factor, step) for factor in PROBE_FACTORS}
            moved = {factor: _moved(probe, trial) for factor, trial in trials.items()}
            for factor in PROBE_FACTORS[1:]:
                linear = all(_close(m, factor * one) for m, one in zip(moved[factor], moved[1.0], strict=True))
                if not linear or not _close(_state(trials[factor]), _state(trials[1.0])):
                    raise OptimizerError(
                        f"{name} does not move parameters in proportion to its rate (probed at {factor} × the rate, "
                        f"step {step + 1}), so its look-ahead cannot be rescaled. "
                        f"Use SGD, Adam, AdamW, RMSprop, NAdam or another optimizer whose step is linear in lr."
                    )
            probe = trials[1.0]
            if step == PROBE_STEPS - 2:
                _age(probe)  # Adafactor's rate is capped by 1/√t
    except OptimizerError:
        raise
    except Exception as error:  # a foreign optimizer may fail in any way
        raise OptimizerError(f"{name} could not be probed for a step linear in its rate: {error}") from error


def _tiny_copy(optimizer: Optimizer) -> Optimizer:
    """The same class, settings and kind of state over one 2×3 parameter a group; the real ones are left alone."""
    real = [group["params"][:1] for group in optimizer.param_groups]
    memo: dict[int, Any] = {id(p): None for p in _parameters(optimizer)}
    memo.update({id(p): nn.Parameter(_tiny_like(p)) for first in real for p in first})
    state, optimizer.state = optimizer.state, defaultdict(dict)
    try:
        probe = _whole_copy(optimizer, memo)
    finally:
        optimizer.state = state
    for group, first in zip(probe.param_groups, real, strict=True):
        group["params"] = [memo[id(p)] for p in first]
        for p in first:  # some optimizers, Adagrad among them, are born with state
            if p in state:
                probe.state[memo[id(p)]] = {key: _tiny_state(value, p) for key, value in state[p].items()}
    return probe


def _whole_copy(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """A deep copy with what subclasses keep beside groups and state, which Optimizer's own copying drops."""
    twin = copy.deepcopy(optimizer, memo)
    for name, value in vars(optimizer).items():
        if name not in vars(twin) and name != "step":  # a scheduler's patch of `step` would step the original
            setattr(twin, name, copy.deepcopy(value, memo))
    return twin


def _age(probe: Optimizer) -> None:
    """Let the probe's step counters say that training has long gone on."""
    for state in probe.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"].fill_(LATE)
        elif "step" in state:
            state["step"] = int(LATE)


def _tiny_like(p: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, 6, dtype=torch.float64, device=p.device).reshape(2, 3)


def _tiny_state(value: object, p: Tensor) -> object:
    if isinstance(value, Tensor) and value.shape == p.shape and value.numel():
        return torch.full_like(_tiny_like(p), value.detach().reshape(-1)[0].item())
    return copy.deepcopy(value)


def _trial(probe: Optimizer, factor: float, step: int) -> Optimizer:
    trial = _whole_copy(probe, {})
    for group in trial.param_groups:
        group["lr"] *= factor
        for p in group["params"]:
            p.grad = torch.cos(torch.arange(6, dtype=p.dtype, device=p.device) + 2 * step).reshape(2, 3)
    trial.step()
    for group in trial.param_groups:
        group["lr"] /= factor
    return trial


def _moved(before: Optimizer, after: Optimizer) -> list[Tensor]:
    return [a.detach() - b.detach() for a, b in zip(_parameters(before), _parameters(after), strict=True)]


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _state(optimizer: Optimizer) -> Tensor:
    """Every number in the optimizer's state and groups, in a fixed order."""
    own = [optimizer.state[p] for p in _parameters(optimizer)]
    settings = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    values = [v.detach().double().cpu().reshape(-1) for v in _numbers([own, settings])]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)


def _numbers(value: object) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (int, float)):
        yield torch.tensor(float(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-9, atol=1e-15, equal_nan=True)
