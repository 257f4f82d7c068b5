"""Signs and rules, worked out by hand on one weight a block."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from small import Scale, batch, groups, mlp, scale_groups, squared_error

import metalr_monai
from metalr_monai import MetaLR
from metalr_monai.errors import OptimizerError, OptionError
from metalr_monai.rates.options import PRESETS, QUIRKS

RULES = {"proportional": {"beta": 0.1}, "constant": {"eta": 1e-3}, "exponential": {"beta": 0.1}}


def linear_losses(network: Scale, train: tuple[float, float], meta: tuple[float, float]):
    """Losses whose gradients are the given numbers, whatever the weights: L = Σ slope·weight."""

    def loss(slopes):
        return slopes[0] * network.first.sum() + slopes[1] * network.second.sum()

    return lambda: loss(train), lambda: loss(meta)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("lookahead", ["applied", "sgd"])
@pytest.mark.parametrize("scale", ["none", "cosine"])
def test_agreeing_gradients_raise_a_rate_and_opposing_ones_lower_it(rule, lookahead, scale):
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, lr=0.005))
    tuner = MetaLR(optimizer, network, rule=rule, lookahead=lookahead, scale=scale, **RULES[rule])
    # u = (2, 2); g_v = (3, −3); so h = (−6, +6), or (−1, +1) as cosines
    tuner.step(*linear_losses(network, train=(2.0, 2.0), meta=(3.0, -3.0)))
    size = 6.0 if scale == "none" else 1.0
    assert tuner.history.hypergradients[0].tolist() == pytest.approx([-size, size], rel=1e-12)
    raised, lowered = {
        "proportional": (0.005 * (1 + 0.1 * size), 0.005 * (1 - 0.1 * size)),
        "constant": (min(0.005 + 1e-3 * size, 1e-2), max(0.005 - 1e-3 * size, 1e-6)),
        "exponential": (0.005 * math.exp(0.1 * size), 0.005 * math.exp(-0.1 * size)),
    }[rule]
    assert tuner.lrs["first"] == pytest.approx(raised, rel=1e-12) and raised > 0.005
    assert tuner.lrs["second"] == pytest.approx(lowered, rel=1e-12) and lowered < 0.005
    # Eq. 4: the step is the one with the new rates, from θ = 1
    assert network.first.item() == pytest.approx(1 - 2 * raised, rel=1e-12)
    assert network.second.item() == pytest.approx(1 - 2 * lowered, rel=1e-12)


def test_the_published_codes_ascending_lookahead_turns_the_sign_around():
    network = Scale()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=0.005)), network, lookahead="sgd", quirks=("ascending_lookahead",)
    )
    tuner.step(*linear_losses(network, train=(2.0, 2.0), meta=(3.0, -3.0)))
    assert tuner.lrs["first"] == pytest.approx(0.005 * (1 - 0.6))
    assert tuner.lrs["second"] == pytest.approx(0.005 * (1 + 0.6))


def test_the_reference_preset_has_every_quirk():
    network = Scale()
    tuner = MetaLR(torch.optim.Adam(scale_groups(network, lr=1e-3)), network, preset="reference")
    assert set(tuner.options.quirks) == set(QUIRKS) == set(PRESETS["reference"]["quirks"])
    assert tuner.lrs == {"first": pytest.approx(1e-4), "second": 1e-3}  # tenth_start
    for epoch in range(6):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(0.123, 0.123)))
        held = epoch < 5  # held_classifier, epochs 1–5
        assert (tuner.lrs["second"] == 1e-3) is held
        tuner.end_epoch()
        assert tuner.lrs["first"] == round(tuner.lrs["first"], 6)  # rounded_rates


def test_beta_h_beyond_one_is_clipped_counted_and_lifted_to_the_lower_bound():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=0.005)), network, beta=0.1)
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(-30.0, 1.0)))  # β·h = 3 for the first
    assert tuner.lrs["first"] == 1e-6
    assert tuner.counts == {"meta_steps": 1, "nonfinite": 0, "clipped": 1}
    assert network.first.item() == pytest.approx(1 - 1e-6, rel=1e-12)


def test_rates_that_eq_5_threw_down_are_reported_once():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=0.005)), network, beta=0.1)
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(-30.0, 1.0)))
    with pytest.warns(RuntimeWarning, match=r"β·h was beyond 1 in 1 of 2 block updates.*scale='cosine'"):
        tuner.end_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.end_epoch()


def test_rates_stay_within_bounds_and_an_open_upper_bound_is_open():
    for bounds, highest in (((1e-6, 1e-2), 1e-2), ((1e-6, None), 0.005 * 1001)):
        network = Scale()
        tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=0.005)), network, beta=10, bounds=bounds)
        tuner.step(*linear_losses(network, train=(10.0, 1.0), meta=(10.0, 0.0)))
        assert tuner.lrs["first"] == pytest.approx(highest)
        assert tuner.lrs["second"] == 0.005


def test_noise_drives_rates_down_under_eq_5_but_not_under_the_exponential_rule():
    finals = {}
    for rule in ("proportional", "exponential"):
        network = Scale()
        tuner = MetaLR(
            torch.optim.SGD(scale_groups(network, lr=1e-3)), network, rule=rule, beta=0.1, bounds=(1e-9, None)
        )
        for sign in (1, -1) * 100:
            tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(2.0 * sign, 0.0)))
        finals[rule] = tuner.lrs["first"]
    assert finals["exponential"] == pytest.approx(1e-3, rel=1e-9)
    assert finals["proportional"] == pytest.approx(1e-3 * (1.2 * 0.8) ** 100, rel=1e-9)


def test_averaging_is_a_bias_corrected_running_mean_of_h():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, average=0.5, beta=0.1)
    for slope in (-1.0, -3.0):  # h = 1, then 3
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(slope, 0.0)))
    mean = (0.25 * 1 + 0.5 * 3) / 0.75
    assert tuner.lrs["first"] == pytest.approx(1e-3 * (1 - 0.1 * 1) * (1 - 0.1 * mean))


def test_learning_every_kth_step_leaves_the_other_steps_plain():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, meta_every=3)
    for _ in range(7):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    learned = [not math.isnan(h) for h in tuner.history.hypergradients[:, 0].tolist()]
    assert learned == [True, False, False, True, False, False, True]
    assert tuner.counts["meta_steps"] == 3


def test_one_pass_every_kth_step_judges_only_those_steps():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, meta_every=2, one_pass=True)
    for _ in range(6):
        tuner.step(linear_losses(network, train=(1.0, 1.0), meta=(0.0, 0.0))[0])
    learned = [not math.isnan(h) for h in tuner.history.hypergradients[:, 0].tolist()]
    assert learned == [False, True, False, True, False, True]


def test_multipliers_ride_on_the_schedule():
    network = Scale()
    schedule = [1e-2, 5e-3, 0.0, 2e-3].__getitem__
    groups = scale_groups(network, lr=1.0)  # with a schedule the groups' rates give way to s_t·m_j
    tuner = MetaLR(torch.optim.SGD(groups, lr=1.0), network, schedule=schedule, beta=0.1)
    multiplier = 1.0
    for t in range(4):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, -1.0)))
        if schedule(t) > 0:  # at rate 0 nothing moves and nothing can be learned
            multiplier *= 1 + 0.1
        assert tuner.lrs["first"] == pytest.approx(schedule(t) * multiplier)
    assert tuner.counts["meta_steps"] == 3


def test_renormalised_multipliers_keep_a_geometric_mean_of_one():
    network = Scale()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=1.0)), network, schedule=lambda t: 1e-2, renormalize=True, beta=0.1
    )
    for _ in range(5):  # both gradients agree, the first one more: only the ratio may change
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(3.0, 1.0)))
        assert tuner.lrs["first"] * tuner.lrs["second"] == pytest.approx(1e-4)
    assert tuner.lrs["first"] > 1.5 * tuner.lrs["second"]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_moves_the_rate_and_not_the_multiplier_whatever_the_schedule(rule):
    """α = s·m: by Eq. 3 the rate moves by η·h, and so the multiplier by η·h/s; under the others s cancels."""
    network, s = Scale(), 1e-2
    groups = scale_groups(network, lr=1.0)
    tuner = MetaLR(torch.optim.SGD(groups), network, schedule=lambda t: s, rule=rule, **RULES[rule])
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))  # h = −1
    expected = {"proportional": s * 1.1, "exponential": s * math.exp(0.1), "constant": s + 1e-3}
    assert tuner.lrs["first"] == pytest.approx(expected[rule])


def test_renormalising_leaves_a_held_block_out():
    network = Scale()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=1.0)),
        network,
        schedule=lambda t: 1e-2,
        renormalize=True,
        hold={"second": 5},
    )
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(3.0, 1.0)))
    assert tuner.lrs == {"first": pytest.approx(1e-2), "second": 1e-2}  # of one block alone the mean stays 1


@pytest.mark.parametrize("value", [torch.tensor(1e-2), np.float32(1e-2), 1e-2])
def test_a_schedule_may_give_any_kind_of_number(value):
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1.0)), network, schedule=lambda t: value)
    assert tuner.lrs["first"] == pytest.approx(1e-2)


def test_a_schedule_that_gives_no_number_is_told_with_its_type():
    network = Scale()
    with pytest.raises(OptionError, match=r"schedule\(0\) is '1e-3', of type str; expected a finite rate"):
        MetaLR(torch.optim.SGD(scale_groups(network, lr=1.0)), network, schedule=lambda t: "1e-3")


def test_a_rate_that_the_published_rounding_makes_zero_stays_at_its_bound():
    network = Scale()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=4e-7)), network, quirks=("rounded_rates",), bounds=(1e-8, 1e-2)
    )
    for _ in range(2):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
        tuner.end_epoch()
    assert tuner.lrs == {"first": 1e-8, "second": 1e-8}


def test_groups_of_one_block_with_two_multipliers_are_refused():
    network = Scale()
    groups = scale_groups(network, lr=1.0)
    groups = [{**groups[0], "multiplier": 10.0}, {**groups[1], "name": groups[0]["name"]}]
    with pytest.raises(OptimizerError, match=r"start with different values of 'multiplier', 10\.0 and 1\.0;"):
        MetaLR(torch.optim.SGD(groups, lr=1.0), network, schedule=lambda t: 1e-3)


def test_a_block_starts_at_its_multiplier_of_the_schedule():
    network = Scale()
    start = metalr_monai.param_groups(network, {"first": "first", "second": "second"}, 1e-3, {"second": 10.0})
    tuner = MetaLR(torch.optim.SGD(start), network, schedule=lambda t: 1e-3)
    assert tuner.lrs == {"first": 1e-3, "second": pytest.approx(1e-2)}


def test_a_held_block_keeps_its_rate_until_its_epochs_are_over():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, hold={"second": 2})
    rates = []
    for _ in range(3):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
        tuner.end_epoch()
        rates.append(tuner.lrs["second"])
    assert rates[:2] == [1e-3, 1e-3] and rates[2] > 1e-3
    assert tuner.history.rates[0, 0] > 1e-3


def test_a_frozen_block_keeps_its_rate_and_its_weights():
    network = Scale()
    network.second.requires_grad_(False)
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network)
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    assert tuner.lrs["second"] == 1e-3 and network.second.item() == 1.0
    assert tuner.lrs["first"] > 1e-3


@pytest.mark.parametrize("options", [{}, {"lookahead": "sgd"}, {"average": 0.9}], ids=str)
def test_a_block_that_is_frozen_while_its_gradient_buffers_stay_keeps_its_rate(options):
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, lr=1e-3))
    tuner = MetaLR(optimizer, network, **options)
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    rate = tuner.lrs["second"]
    network.second.requires_grad_(False)
    network.second.grad = torch.zeros_like(network.second)  # as zero_grad(set_to_none=False) leaves it
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    assert tuner.lrs["second"] == rate and tuner.lrs["first"] > rate


def test_a_block_that_the_meta_loss_does_not_reach_keeps_its_rate():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network)
    train, _ = linear_losses(network, train=(1.0, 1.0), meta=(0.0, 0.0))
    tuner.step(train, lambda: network.first.sum())
    assert tuner.lrs["second"] == 1e-3 and network.second.item() == 1 - 1e-3


def test_several_groups_may_share_one_block_and_its_rate():
    network = mlp()
    decay = [
        {**g, "params": [p for p in g["params"] if p.ndim > 1], "weight_decay": 0.1} for g in groups(network, 5e-3)
    ]
    plain = [{**g, "params": [p for p in g["params"] if p.ndim == 1]} for g in groups(network, 5e-3)]
    tuner = MetaLR(torch.optim.SGD(decay + plain), network)
    tuner.step(lambda: squared_error(network, batch(0)), lambda: squared_error(network, batch(1)))
    assert tuner.names == ("first", "middle", "head")
    rates = [g["lr"] for g in tuner.optimizer.param_groups]
    assert rates[:3] == rates[3:] and rates[0] != 5e-3


def test_rates_that_never_moved_in_the_first_epoch_are_reported():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, beta=0.1)
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(0.0, 0.0)))
    with pytest.warns(RuntimeWarning, match="No rate has moved in 1 meta steps"):
        tuner.end_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuner.end_epoch()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "proportinal"}, "Did you mean proportional"),
        ({"betta": 0.1}, "Did you mean beta"),
        ({"preset": "papr"}, "Did you mean paper"),
        ({"rule": "constant", "beta": 0.1}, "that rule takes eta"),
        ({"eta": 0.1}, "that rule takes beta"),
        ({"beta": -1}, "beta is -1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"average": 1.0}, "average is 1.0"),
        ({"meta_every": 0}, "meta_every is 0"),
        ({"bounds": (0, 1)}, "0 < lowest < highest"),
        ({"rule": "constant", "bounds": (0, 1)}, "0 < lowest < highest"),
        ({"bounds": (1e-2, 1e-3)}, "0 < lowest < highest"),
        ({"bounds": 1}, "bounds are 1; expected"),
        ({"bounds": (1e-6, 1e-2, 1)}, "expected \\(lowest, highest\\)"),
        ({"bounds": (None, 1)}, "expected \\(lowest, highest\\)"),
        ({"schedule": 1e-3}, "expected a function of the step"),
        ({"schedule": lambda t: 1j}, r"schedule\(0\) is 1j"),
        ({"hold": ["second"]}, "expected block → number of epochs"),
        ({"hold": {"second": "2"}}, "expected block → number of epochs"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"seed": -1}, "seed is -1"),
        ({"one_pass": "no"}, "one_pass is 'no'"),
        ({"quirks": 5}, "quirks is 5"),
        ({"bounds": (1e-2, 1)}, "Block 'first' starts at 0.001, outside"),
        ({"renormalize": True}, "give schedule="),
        ({"one_pass": True, "lookahead": "sgd"}, "choose one"),
        ({"quirks": ("ascending_lookahead",)}, "lookahead='sgd'"),
        ({"quirks": ("rounded",)}, "Did you mean rounded_rates"),
        ({"schedule": lambda t: -1.0}, r"schedule\(0\) is -1.0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_and_nothing_is_changed(options, says):
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, lr=1e-3))
    with pytest.raises(OptionError, match=says):
        MetaLR(optimizer, network, **options)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert [g["lr"] for g in optimizer.param_groups] == [1e-3, 1e-3]


def test_a_rate_that_would_become_infinite_is_left_as_it_is_and_counted():
    network = Scale()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=1e-3)), network, rule="exponential", beta=0.1, bounds=(1e-6, None)
    )
    tuner.step(*linear_losses(network, train=(100.0, 1.0), meta=(100.0, 0.0)))
    assert tuner.lrs["first"] == 1e-3 and tuner.counts["nonfinite"] == 1
    assert network.first.item() == pytest.approx(1 - 0.1)


def test_a_schedule_is_not_asked_beyond_the_last_step():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1.0)), network, schedule=[1e-3, 1e-3].__getitem__)
    for _ in range(2):
        tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    tuner.end_epoch()
    assert tuner.steps == 2


def test_a_warm_up_from_zero_may_be_resumed_or_tuned_anew():
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, lr=1.0))
    first = MetaLR(optimizer, network, schedule=lambda t: 0.0)
    first.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    first.detach()
    second = MetaLR(optimizer, network, schedule=lambda t: 1e-3)
    assert second.lrs == {"first": 1e-3, "second": 1e-3} and first.counts["meta_steps"] == 0


def test_standing_at_a_bound_is_named_as_a_cause_even_if_another_block_is_held():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-2)), network, hold={"second": 1})
    tuner.step(*linear_losses(network, train=(1.0, 1.0), meta=(1.0, 1.0)))
    with pytest.warns(RuntimeWarning, match="widen bounds"):
        tuner.end_epoch()


def test_lists_from_json_are_taken_for_bounds():
    network = Scale()
    tuner = MetaLR(torch.optim.SGD(scale_groups(network, lr=1e-3)), network, bounds=[1e-4, 1e-2])
    assert tuner.options.limits == (1e-4, 1e-2)
