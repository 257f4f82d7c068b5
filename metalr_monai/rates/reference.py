"""The oracle: Algorithm 1 by differentiating the meta loss through the unrolled step. Slow and obvious.

Every optimizer is written out as a pure function θ̂ = step(θ, g, state, α), so that autograd itself finds
h_j = ∂L_val(θ̂)/∂α_j. Nothing here is shared with the fast path but the update rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .update import RULES

State = dict[str, Any]
Step = Callable[[Tensor, Tensor, State, Tensor, Mapping[str, Any]], tuple[Tensor, State]]
Forward = Callable[[Callable[..., Any]], Tensor]


def sgd(theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any]) -> tuple[Tensor, State]:
    """Stochastic gradient descent with momentum, Nesterov and coupled weight decay."""
    g = g + o.get("weight_decay", 0.0) * theta
    momentum = o.get("momentum", 0.0)
    if momentum == 0:
        return theta - lr * g, state
    velocity = momentum * state["velocity"] + g if state else g
    direction = g + momentum * velocity if o.get("nesterov", False) else velocity
    return theta - lr * direction, {"velocity": velocity}


def adam(theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any]) -> tuple[Tensor, State]:
    """Adam (Kingma & Ba 2015) with coupled weight decay."""
    return _adam(theta, g + o.get("weight_decay", 0.0) * theta, state, lr, o, shrink=0.0)


def adamw(theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any]) -> tuple[Tensor, State]:
    """AdamW (Loshchilov & Hutter 2019): weight decay apart from the gradient."""
    return _adam(theta, g, state, lr, o, shrink=o.get("weight_decay", 0.01))


def _adam(
    theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any], shrink: float
) -> tuple[Tensor, State]:
    beta1, beta2 = o.get("betas", (0.9, 0.999))
    t = state.get("t", 0) + 1
    m = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    v = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    direction = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + o.get("eps", 1e-8))
    return theta - lr * (direction + shrink * theta), {"t": t, "m": m, "v": v}


def rmsprop(theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any]) -> tuple[Tensor, State]:
    """RMSprop (Hinton, lecture 6e), with momentum and coupled weight decay."""
    g = g + o.get("weight_decay", 0.0) * theta
    v = o.get("alpha", 0.99) * state.get("v", 0.0) + (1 - o.get("alpha", 0.99)) * g * g
    direction = g / (v.sqrt() + o.get("eps", 1e-8))
    direction = o.get("momentum", 0.0) * state.get("velocity", 0.0) + direction
    return theta - lr * direction, {"v": v, "velocity": direction}


def nadam(theta: Tensor, g: Tensor, state: State, lr: Tensor, o: Mapping[str, Any]) -> tuple[Tensor, State]:
    """NAdam (Dozat 2016) with its momentum schedule μ_t and coupled weight decay."""
    g = g + o.get("weight_decay", 0.0) * theta
    beta1, beta2 = o.get("betas", (0.9, 0.999))
    t = state.get("t", 0) + 1
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * o.get("momentum_decay", 4e-3))) for k in (t, t + 1))
    product = state.get("mu_product", 1.0) * mu
    m = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    v = beta2 * state.get("v", 0.0) + (1 - beta2) * g * g
    ahead = (1 - mu) / (1 - product) * g + mu_next / (1 - product * mu_next) * m
    direction = ahead / ((v / (1 - beta2**t)).sqrt() + o.get("eps", 1e-8))
    return theta - lr * direction, {"t": t, "m": m, "v": v, "mu_product": product}


STEPS: Mapping[str, Step] = {"sgd": sgd, "adam": adam, "adamw": adamw, "rmsprop": rmsprop, "nadam": nadam}


class UnrolledMetaLR:
    """MetaLR with every derivative left to autograd; the parameters live here, not in the network.

    Args:
        network: gives the function; its own parameters are read once and never written.
        block_of: parameter name → block number, 0 … d−1.
        rates: starting rates α, one a block.
        step: a name out of `STEPS`, with its settings in `settings`.
        rule: a name out of `RULES`, with its β or η in `hyper_lr`.
        bounds: lowest and highest rate.
    """

    def __init__(
        self,
        network: nn.Module,
        block_of: Mapping[str, int],
        rates: Sequence[float],
        step: str,
        settings: Mapping[str, Any],
        rule: str,
        hyper_lr: float,
        bounds: tuple[float, float],
    ) -> None:
        self.network, self.block_of = network, dict(block_of)
        self.theta = {name: p.detach().clone() for name, p in network.named_parameters()}
        dtype = next(iter(self.theta.values())).dtype
        self.rates = torch.tensor(rates, dtype=dtype)
        self._step, self._settings = STEPS[step], settings
        self._rule, self._hyper_lr, self._bounds = RULES[rule], hyper_lr, bounds
        self._states: dict[str, State] = {name: {} for name in self.theta}

    def step(self, train_loss: Forward, meta_loss: Forward) -> Tensor:
        """One iteration of Algorithm 1. The losses take the network as a callable. Returns h, shape (d,)."""
        theta = {name: value.detach().requires_grad_() for name, value in self.theta.items()}
        loss = train_loss(self._call(theta))
        gradients = dict(zip(theta, torch.autograd.grad(loss, list(theta.values()), create_graph=True), strict=True))
        alpha = self.rates.clone().requires_grad_()
        ahead, _ = self._unrolled(theta, gradients, alpha)  # Eq. 2
        (h,) = torch.autograd.grad(meta_loss(self._call(ahead)), alpha)
        self.rates = self._rule(self.rates, h, self._hyper_lr).clamp(*self._bounds)  # Eq. 3 or 5
        moved, states = self._unrolled(theta, gradients, self.rates)  # Eq. 4
        self.theta = {name: value.detach() for name, value in moved.items()}
        self._states = {name: _detached(state) for name, state in states.items()}
        return h.detach()

    def _call(self, theta: Mapping[str, Tensor]) -> Callable[..., Any]:
        return lambda *inputs: functional_call(self.network, dict(theta), inputs)

    def _unrolled(
        self, theta: Mapping[str, Tensor], gradients: Mapping[str, Tensor], alpha: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, State]]:
        moved, states = {}, {}
        for name, value in theta.items():
            rate = alpha[self.block_of[name]]
            moved[name], states[name] = self._step(value, gradients[name], self._states[name], rate, self._settings)
        return moved, states


def _detached(state: State) -> State:
    return {key: value.detach() if isinstance(value, Tensor) else value for key, value in state.items()}
