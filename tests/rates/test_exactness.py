"""The fast path against its oracle, against finite differences, and against a step taken anew."""

from __future__ import annotations

import copy

import pytest
import torch
from small import batch, groups, mlp, squared_error

from metalr_monai import MetaLR
from metalr_monai.rates.reference import UnrolledMetaLR

STEPS = 20
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, "sgd", {}),
    "sgd with momentum": (torch.optim.SGD, "sgd", {"momentum": 0.9}),
    "sgd with nesterov and weight decay": (
        torch.optim.SGD,
        "sgd",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-2},
    ),
    "adam": (torch.optim.Adam, "adam", {"weight_decay": 1e-2}),
    "adamw": (torch.optim.AdamW, "adamw", {"weight_decay": 1e-2}),
    "rmsprop": (torch.optim.RMSprop, "rmsprop", {"momentum": 0.5}),
    "nadam": (torch.optim.NAdam, "nadam", {"weight_decay": 1e-2}),
}
RULES = {"proportional": {"beta": 0.02}, "constant": {"eta": 1e-5}, "exponential": {"beta": 0.02}}
BOUNDS = (1e-6, 1.0)

each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


@pytest.fixture(autouse=True)
def double_precision():
    """NAdam keeps its product of μ_t in the default type, so float64 parameters alone do not make it exact."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tuned(name: str, rule: str = "proportional", **options):
    network = mlp()
    make, _, settings = OPTIMIZERS[name]
    optimizer = make(groups(network), **settings)
    return network, MetaLR(optimizer, network, rule=rule, bounds=BOUNDS, **RULES[rule], **options)


def oracle(name: str, rule: str = "proportional") -> UnrolledMetaLR:
    _, step, settings = OPTIMIZERS[name]
    network = mlp()
    block_of = {n: ("0", "2", "4").index(n.split(".")[0]) for n, _ in network.named_parameters()}
    (hyper_lr,) = RULES[rule].values()
    return UnrolledMetaLR(network, block_of, [5e-3] * 3, step, settings, rule, hyper_lr, BOUNDS)


@each_optimizer
@pytest.mark.parametrize("rule", RULES)
def test_hypergradients_and_parameters_equal_differentiation_through_the_unrolled_step(name, rule):
    network, tuner = tuned(name, rule)
    slow = oracle(name, rule)
    for t in range(STEPS):
        train, meta = batch(2 * t), batch(2 * t + 1)
        h = slow.step(lambda net, data=train: squared_error(net, data), lambda net, data=meta: squared_error(net, data))
        tuner.step(lambda data=train: squared_error(network, data), lambda data=meta: squared_error(network, data))
        torch.testing.assert_close(tuner.history.hypergradients[t], h, rtol=1e-10, atol=0)
        torch.testing.assert_close(tuner.history.rates[t], slow.rates, rtol=1e-10, atol=0)
        for n, p in network.named_parameters():
            torch.testing.assert_close(p.detach(), slow.theta[n], rtol=0, atol=1e-12)
    assert not torch.equal(tuner.history.rates[0], tuner.history.rates[-1])


@each_optimizer
def test_hypergradients_equal_central_finite_differences(name):
    network, tuner = tuned(name)
    for t in range(5):  # some steps first, so that moments are in play
        train, meta = batch(2 * t), batch(2 * t + 1)
        before = copy.deepcopy((network, tuner.optimizer))
        tuner.step(lambda data=train: squared_error(network, data), lambda data=meta: squared_error(network, data))

    def meta_loss_at(block: int, rate: float) -> float:
        net, optimizer = copy.deepcopy(before)
        squared_error(net, train).backward()
        optimizer.param_groups[block]["lr"] = rate
        optimizer.step()
        return squared_error(net, meta).item()

    for block, h in enumerate(tuner.history.hypergradients[-1].tolist()):
        rate = before[1].param_groups[block]["lr"]
        epsilon = 1e-3 * rate
        slope = (meta_loss_at(block, rate + epsilon) - meta_loss_at(block, rate - epsilon)) / (2 * epsilon)
        assert h == pytest.approx(slope, rel=1e-6)


@each_optimizer
def test_parameters_equal_a_step_taken_from_theta_with_the_new_rates(name):
    network, tuner = tuned(name)
    for t in range(STEPS):
        train, meta = batch(2 * t), batch(2 * t + 1)
        net, optimizer = copy.deepcopy((network, tuner.optimizer))
        tuner.step(lambda data=train: squared_error(network, data), lambda data=meta: squared_error(network, data))
        squared_error(net, train).backward()
        for group, rate in zip(optimizer.param_groups, tuner.lrs.values(), strict=True):
            group["lr"] = rate
        optimizer.step()
        for p, q in zip(network.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_gradient_step_lookahead_is_eq_2_to_the_letter_under_adam():
    network, tuner = tuned("adam", lookahead="sgd")
    for t in range(5):
        train, meta = batch(2 * t), batch(2 * t + 1)
        net, optimizer = copy.deepcopy((network, tuner.optimizer))
        rates = list(tuner.lrs.values())
        tuner.step(lambda data=train: squared_error(network, data), lambda data=meta: squared_error(network, data))

        alpha = torch.tensor(rates, dtype=torch.float64, requires_grad=True)
        squared_error(net, train).backward()
        ahead = {n: p.detach() - alpha[int(n[0]) // 2] * p.grad for n, p in net.named_parameters()}
        meta_loss = squared_error(lambda x, a=ahead, m=net: torch.func.functional_call(m, a, (x,)), meta)
        (h,) = torch.autograd.grad(meta_loss, alpha)
        torch.testing.assert_close(tuner.history.hypergradients[t], h, rtol=1e-10, atol=0)

        for group, rate in zip(optimizer.param_groups, tuner.lrs.values(), strict=True):
            group["lr"] = rate
        optimizer.step()  # the real step is Adam's, with the new rates
        for p, q in zip(network.parameters(), net.parameters(), strict=True):
            assert torch.equal(p, q)


@each_optimizer
def test_one_pass_hypergradient_is_the_next_training_gradient_along_the_last_direction(name):
    network, tuner = tuned(name, one_pass=True)
    directions: list[torch.Tensor] = []
    for t in range(5):
        net, optimizer = copy.deepcopy((network, tuner.optimizer))
        before = [p.detach().clone() for p in network.parameters()]
        tuner.step(lambda t=t: squared_error(network, batch(t)))

        squared_error(net, batch(t)).backward()
        products = [-(p.grad * u).sum() for p, u in zip(net.parameters(), directions, strict=False)]
        if t:  # two tensors, weight and bias, a block
            expected = torch.stack(products).reshape(3, 2).sum(1)
            torch.testing.assert_close(tuner.history.hypergradients[t], expected, rtol=1e-10, atol=1e-18)
        for group, rate in zip(optimizer.param_groups, tuner.lrs.values(), strict=True):
            group["lr"] = rate
        optimizer.step()
        for p, q in zip(network.parameters(), net.parameters(), strict=True):
            assert torch.equal(p, q)
        used = [rate for rate in tuner.lrs.values() for _ in range(2)]
        directions = [(b - p.detach()) / r for b, p, r in zip(before, network.parameters(), used, strict=True)]
    assert torch.equal(tuner.history.rates[0], torch.full((3,), 5e-3, dtype=torch.float64))
    assert not torch.equal(tuner.history.rates[0], tuner.history.rates[1])


def test_the_loss_returned_is_that_of_plain_training_at_theta():
    network, tuner = tuned("sgd")
    expected = squared_error(network, batch(0)).detach()
    loss = tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    assert torch.equal(loss, expected) and not loss.requires_grad
