"""Bad input is refused with the name of the culprit, and a bad number costs no step and no rate."""

from __future__ import annotations

import math

import pytest
import torch
from small import Scale, batch, groups, mlp, scale_groups, squared_error
from torch import nn

from metalr_monai import MetaLR
from metalr_monai.errors import BlockError, ConflictError, MetaDataError, MetaLRError, OptimizerError, OptionError


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("options", [{}, {"lookahead": "sgd"}, {"scale": "cosine"}], ids=str)
def test_a_meta_loss_that_is_not_finite_keeps_the_step_and_the_rates_and_is_counted(bad, options):
    network, twin = mlp(), mlp()
    tuner = MetaLR(torch.optim.SGD(groups(network)), network, **options)
    optimizer = torch.optim.SGD(groups(twin))
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)) + bad)
    squared_error(twin, batch(0)).backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), twin.parameters(), strict=True))
    assert tuner.lrs == dict.fromkeys(tuner.names, 5e-3)
    assert tuner.counts["nonfinite"] == 1
    tuner.step(lambda: squared_error(network, batch(2)), lambda: squared_error(network, batch(3)))
    assert tuner.counts["nonfinite"] == 1 and tuner.lrs["head"] != 5e-3  # and it goes on learning


def test_one_meta_gradient_that_is_not_finite_leaves_all_rates_untouched():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, 1e-3)), network)
    network.second.register_hook(lambda g: g * (math.nan if g.item() == 7 else 1))
    tuner.step(
        lambda: network.first.sum() + network.second.sum(), lambda: network.first.sum() + 7 * network.second.sum()
    )
    assert tuner.lrs == {"first": 1e-3, "second": 1e-3} and tuner.counts["nonfinite"] == 1
    assert network.first.item() == 1 - 1e-3


@pytest.mark.parametrize("one_pass", [False, True])
def test_a_training_gradient_that_is_not_finite_leaves_the_rates_untouched(one_pass):
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, 1e-3)), network, one_pass=one_pass)
    meta = () if one_pass else (lambda: network.first.sum() + network.second.sum(),)
    for slope in (1.0, math.nan):
        tuner.step(lambda slope=slope: slope * (network.first.sum() + network.second.sum()), *meta)
    assert tuner.counts["nonfinite"] == 1
    assert all(math.isfinite(rate) for rate in tuner.lrs.values())


@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=str)
def test_a_training_loss_that_is_not_finite_beside_finite_gradients_leaves_the_rates_untouched(options):
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, 1e-3)), network, **options)
    meta = () if options else (lambda: network.first.sum() + network.second.sum(),)
    for extra in (0.0, math.inf):
        rates = tuner.lrs
        tuner.step(lambda extra=extra: network.first.sum() + network.second.sum() + extra, *meta)
    assert tuner.lrs == rates and tuner.counts["nonfinite"] == 1


def test_groups_without_block_names_are_refused():
    network = mlp()
    with pytest.raises(OptimizerError, match=r"Group 0 of Adam has no block name .*param_groups"):
        MetaLR(torch.optim.Adam(network.parameters()), network)


def test_a_starting_rate_of_zero_is_refused():
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, 1e-3))
    optimizer.param_groups[1]["lr"] = 0.0
    with pytest.raises(OptimizerError, match=r"'second' starts at rate 0.0.*requires_grad=False"):
        MetaLR(optimizer, network)


def test_groups_of_one_block_with_different_rates_are_refused():
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, 1e-3))
    optimizer.param_groups[0].update(name="both")
    optimizer.param_groups[1].update(name="both", lr=1e-2)
    with pytest.raises(OptimizerError, match=r"'both' start with different values of 'lr', 0\.001 and 0\.01"):
        MetaLR(optimizer, network)


def test_hold_names_a_block():
    network = Scale()
    with pytest.raises(BlockError, match="hold names 'heads'; the blocks are first, second"):
        MetaLR(torch.optim.SGD(scale_groups(network, 1e-3)), network, hold={"heads": 1})


LINEAR = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"amsgrad": True}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.AdamW, {}),
    (torch.optim.NAdam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    (torch.optim.RAdam, {}),
    (torch.optim.RMSprop, {"centered": True, "momentum": 0.9}),
    (torch.optim.Adagrad, {}),
    (torch.optim.Adamax, {}),
    (torch.optim.Adadelta, {}),
    (torch.optim.Muon, {}),
]


@pytest.mark.parametrize(("make", "settings"), LINEAR, ids=lambda v: getattr(v, "__name__", str(v)))
def test_an_optimizer_that_is_linear_in_its_rate_is_accepted(make, settings):
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    optimizer = make(groups_of_two(network), **settings)
    tuner = MetaLR(optimizer, network)
    assert all(p.shape == s.shape for p in optimizer.state for s in optimizer.state[p].values() if s.ndim)  # no trace
    x = torch.ones(2, 3)
    tuner.step(lambda: network(x).square().mean(), lambda: network(x).square().mean())
    assert tuner.counts["meta_steps"] == 1


def groups_of_two(network):
    return [{"params": list(m.parameters()), "lr": 1e-3, "name": str(i)} for i, m in enumerate(network)]


class WithAttributes(torch.optim.SGD):
    """Keeps a setting beside its groups."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.gain = 2.0

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=self.gain * group["lr"])


def test_an_optimizer_may_keep_attributes_of_its_own():
    network = mlp()
    tuner = MetaLR(WithAttributes(groups(network)), network)
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    assert tuner.lrs["head"] != 5e-3


@pytest.mark.parametrize("make", [torch.optim.Rprop, torch.optim.ASGD, torch.optim.LBFGS, torch.optim.Adafactor])
def test_an_optimizer_that_is_not_linear_in_its_rate_is_refused(make):
    network = nn.Linear(3, 3)
    optimizer = make(network.parameters(), lr=1e-3)
    optimizer.param_groups[0]["name"] = "all"
    with pytest.raises(OptimizerError, match=f"^{make.__name__} "):
        MetaLR(optimizer, network)
    assert not optimizer.state


class LinearAtFirst(torch.optim.SGD):
    """Warms up inside: linear in its rate at the first step only."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["n"] = state.get("n", 0) + 1
                p.sub_(p.grad, alpha=group["lr"] if state["n"] == 1 else group["lr"] ** 2)


def test_the_probe_looks_beyond_the_first_step():
    network = nn.Linear(3, 3)
    optimizer = LinearAtFirst([{"params": list(network.parameters()), "lr": 1e-3, "name": "all"}])
    with pytest.raises(OptimizerError, match="step 2"):
        MetaLR(optimizer, network)


def test_a_scheduler_that_overwrites_the_rates_is_refused_by_its_name():
    network = mlp()
    optimizer = torch.optim.SGD(groups(network))
    tuner = MetaLR(optimizer, network)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    scheduler.step()
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(ConflictError, match=r"CosineAnnealingLR overwrote it.*schedule="):
        tuner.step(lambda: squared_error(network, batch(2)), lambda: squared_error(network, batch(3)))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))


def test_a_scheduler_that_is_there_already_is_refused_at_the_start():
    network = mlp()
    optimizer = torch.optim.SGD(groups(network))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
    with pytest.raises(ConflictError, match="StepLR would overwrite"):
        MetaLR(optimizer, network)
    assert scheduler.last_epoch == 0


def test_groups_that_are_added_later_are_refused():
    network, extra = mlp(), nn.Linear(2, 2)
    tuner = MetaLR(torch.optim.SGD(groups(network)), network)
    tuner.optimizer.add_param_group({"params": list(extra.parameters()), "lr": 1.0})
    with pytest.raises(OptimizerError, match=r"has 4 groups, and had 3.*make it anew"):
        tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))


def test_rates_written_by_hand_are_refused_too():
    network = mlp()
    optimizer = torch.optim.SGD(groups(network))
    tuner = MetaLR(optimizer, network)
    optimizer.param_groups[2]["lr"] = 0.5
    with pytest.raises(ConflictError, match=r"'head' was 0.005 after the last step and is now 0.5: something outside"):
        tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))


def test_a_second_tuner_on_one_optimizer_is_refused_until_the_first_is_detached():
    network = mlp()
    optimizer = torch.optim.SGD(groups(network))
    first = MetaLR(optimizer, network)
    with pytest.raises(ConflictError, match="already has a MetaLR"):
        MetaLR(optimizer, network)
    first.detach()
    MetaLR(optimizer, network)


def test_a_missing_or_a_needless_meta_loss_is_named():
    network = mlp()
    tuner = MetaLR(torch.optim.SGD(groups(network)), network)
    with pytest.raises(OptionError, match="expects a meta_loss"):
        tuner.step(lambda: squared_error(network, batch(0)))
    squared_error(network, batch(0)).backward()
    with pytest.raises(MetaDataError, match="No meta batch"):
        tuner.optimizer.step()
    tuner.detach()
    one_pass = MetaLR(tuner.optimizer, network, one_pass=True)
    with pytest.raises(OptionError, match="no meta_loss with one_pass=True"):
        one_pass.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))


def test_a_closure_is_refused():
    network = mlp()
    tuner = MetaLR(torch.optim.SGD(groups(network)), network)
    with pytest.raises(OptimizerError, match="closure"):
        tuner.optimizer.step(lambda: squared_error(network, batch(0)))


def test_every_error_is_a_metalr_error():
    for error in (BlockError, ConflictError, MetaDataError, OptimizerError, OptionError):
        assert issubclass(error, MetaLRError)


# Mixed precision, gradient accumulation and clipping


def four_steps(make=torch.optim.Adam, scaler=None, **options):
    network = mlp()
    tuner = MetaLR(make(groups(network)), network, scaler=scaler, **options)
    for t in range(4):
        meta = () if options.get("one_pass") else (lambda t=t: squared_error(network, batch(50 + t)),)
        tuner.step(lambda t=t: squared_error(network, batch(t)), *meta)
    return tuner.history.hypergradients, [p.detach() for p in network.parameters()]


@pytest.mark.parametrize("options", [{}, {"one_pass": True}, {"scale": "cosine"}], ids=str)
def test_a_gradient_scaler_changes_nothing_but_the_scale(options):
    h, ours = four_steps(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), **options)
    plain_h, plain = four_steps(**options)
    torch.testing.assert_close(h, plain_h, rtol=1e-9, atol=0, equal_nan=True)
    for p, q in zip(ours, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def fused_adam(parameters):
    return torch.optim.Adam(parameters, fused=True)


@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=str)
def test_a_fused_optimizer_that_unscales_inside_its_step_gives_the_same_hypergradients(options):
    h, _ = four_steps(fused_adam, torch.amp.GradScaler("cpu", init_scale=64.0), **options)
    plain_h, _ = four_steps(**options)
    torch.testing.assert_close(h, plain_h, rtol=1e-9, atol=0, equal_nan=True)


def test_a_gradient_step_lookahead_needs_unscaled_gradients():
    with pytest.raises(OptimizerError, match=r"call scaler\.unscale_\(optimizer\) first"):
        four_steps(fused_adam, torch.amp.GradScaler("cpu"), lookahead="sgd")


def test_a_step_that_the_scaler_skips_updates_no_rate():
    network = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    tuner = MetaLR(torch.optim.SGD(groups(network)), network, scaler=scaler)
    before = [p.detach().clone() for p in network.parameters()]
    tuner.step(lambda: squared_error(network, batch(0)) * math.inf, lambda: squared_error(network, batch(1)))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    assert tuner.lrs == dict.fromkeys(tuner.names, 5e-3)
    assert len(tuner.history) == 0 and scaler.get_scale() == 32.0
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    assert tuner.counts["meta_steps"] == 1 and tuner.lrs["head"] != 5e-3


def test_accumulated_gradients_make_one_step_of_their_sum():
    first, second, meta = batch(0), batch(1), batch(2)
    network, twin = mlp(), mlp()
    tuner = MetaLR(torch.optim.Adam(groups(network)), network)
    (squared_error(network, first) / 2).backward()
    tuner.step(lambda: squared_error(network, second) / 2, lambda: squared_error(network, meta))
    at_once = MetaLR(torch.optim.Adam(groups(twin)), twin)
    at_once.step(
        lambda: (squared_error(twin, first) + squared_error(twin, second)) / 2, lambda: squared_error(twin, meta)
    )
    torch.testing.assert_close(tuner.history.hypergradients, at_once.history.hypergradients, rtol=1e-10, atol=0)
    for p, q in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_a_step_that_a_fused_optimizer_skips_inside_is_no_step():
    network = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    tuner = MetaLR(fused_adam(groups(network)), network, scaler=scaler, average=0.9)
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    rates, weights = tuner.lrs, [p.detach().clone() for p in network.parameters()]
    tuner.step(lambda: squared_error(network, batch(0)) * math.inf, lambda: squared_error(network, batch(1)))
    assert tuner.lrs == rates and tuner.steps == len(tuner.history) == tuner.counts["meta_steps"] == 1
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), weights, strict=True))
    assert scaler.get_scale() == 32.0


def test_a_clipped_step_is_judged_as_clipped():
    network, twin = mlp(), mlp()
    optimizer = torch.optim.SGD(groups(network))
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(network.parameters(), 1e-3) and None)
    tuner = MetaLR(optimizer, network, beta=0.0)
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))

    squared_error(twin, batch(0)).backward()
    directions = [p.grad.clone() for p in twin.parameters()]
    norm = torch.stack([d.norm() for d in directions]).norm()
    with torch.no_grad():
        for p, d in zip(twin.parameters(), directions, strict=True):
            p -= 5e-3 * d * 1e-3 / norm
    meta = torch.autograd.grad(squared_error(twin, batch(1)), list(twin.parameters()))
    products = torch.stack([-(g * d).sum() * 1e-3 / norm for g, d in zip(meta, directions, strict=True)])
    h = products.reshape(3, 2).sum(1)
    torch.testing.assert_close(
        tuner.history.hypergradients[0], h.detach(), rtol=1e-5, atol=0
    )  # clip adds 1e-6 to the norm


def test_half_precision_parameters_are_summed_in_float32():
    network = nn.Linear(4097, 1, bias=False).to(torch.bfloat16)  # 4097 is no bfloat16
    optimizer = torch.optim.SGD([{"params": [network.weight], "lr": 0.5, "name": "all"}])
    tuner = MetaLR(optimizer, network, beta=0.0, bounds=(1e-6, 1.0), lookahead="sgd")
    ones = torch.ones(1, 4097, dtype=torch.bfloat16)
    tuner.step(lambda: network(ones).sum(), lambda: network(ones).sum())
    assert tuner.history.hypergradients.item() == -4097.0


def test_sparse_gradients_and_complex_parameters_are_refused_before_anything_moves():
    network = nn.Embedding(4, 2, sparse=True)
    tuner = MetaLR(torch.optim.SGD([{"params": [network.weight], "lr": 1e-3, "name": "all"}]), network)
    before = network.weight.detach().clone()
    with pytest.raises(OptimizerError, match="sparse"):
        tuner.step(lambda: network(torch.tensor([1])).sum(), lambda: network(torch.tensor([1])).sum())
    assert torch.equal(network.weight, before)
    complex_weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(OptimizerError, match="complex parameters"):
        MetaLR(torch.optim.SGD([{"params": [complex_weight], "lr": 1e-3, "name": "all"}]), network)
