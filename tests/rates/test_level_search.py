"""The height of a schedule, found by the sign of the hypergradient."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from small import Scale, batch, mlp, scale_groups, squared_error
from torch import nn

import metalr_monai
from metalr_monai import LevelSearch, MetaLR
from metalr_monai.errors import OptionError, StateError

STEPS, SHARE = 100, 0.4
FACTOR = 1.5


def test_it_climbs_while_steps_help_and_keeps_the_geometric_mean_since_the_first_that_did_not():
    schedule = LevelSearch(steps=8, guess=1e-3, search=0.1)  # 40 steps would be more than half
    rates = []
    for step, approval in enumerate([0.5, 0.1, -0.2, 0.1]):
        rates.append(schedule(step))
        schedule.observe(step, approval)
    assert rates == pytest.approx([1e-6, 1.5e-6, 2.25e-6, 1.5e-6])
    found = math.sqrt(2.25e-6 * 1.5e-6)
    falls = [schedule(step) for step in range(4, 10)]
    assert falls == pytest.approx([found * (1 + math.cos(math.pi * x / 4)) / 2 for x in range(4)] + [0, 0])


def test_what_comes_after_the_search_is_not_looked_at():
    schedule = LevelSearch(steps=8, guess=1e-3, search=0.5)
    for step, approval in enumerate([1, 1, -1, -1]):
        schedule.observe(step, approval)
    before = schedule(5)
    for step in range(4, 8):
        schedule.observe(step, -1.0)
    assert schedule(5) == before


def test_a_loss_that_is_no_number_is_no_approval():
    nan, no = LevelSearch(20, 1e-3, 0.5), LevelSearch(20, 1e-3, 0.5)
    for step in range(10):
        nan.observe(step, 1.0 if step < 3 else math.nan)
        no.observe(step, 1.0 if step < 3 else -1.0)
    assert nan(12) == no(12) < LevelSearch(20, 1e-3, 0.5)(0) * 1000


def test_it_stays_within_three_decades_and_says_when_nothing_was_found():
    schedule = LevelSearch(100, 1e-3, 0.5)
    with pytest.warns(RuntimeWarning, match=r"approved of, up to a rate of 1: the level was not found"):
        for step in range(50):
            schedule.observe(step, 1.0)
    assert schedule(50) == pytest.approx(1.0)
    lowest = LevelSearch(20, 1e-3, 0.5)
    for step in range(10):
        lowest.observe(step, -1.0)
    assert lowest(10) == pytest.approx(1e-6)


@pytest.mark.parametrize("right", [0.9, 0.8, 0.7])
def test_a_sign_that_is_noise_in_part_does_not_drag_the_level_down(right):
    """A disapproval on the way up is no sign that the level is reached."""
    found = []
    for seed in range(40):
        schedule, random = LevelSearch(1000, 1e-3, 0.1), torch.Generator().manual_seed(seed)
        for step in range(100):
            sign = 1.0 if schedule(step) < 1e-3 else -1.0
            schedule.observe(step, sign if torch.rand((), generator=random) < right else -sign)
        found.append(math.log10(schedule(100) / 1e-3))
    assert abs(sorted(found)[20]) < math.log10(2)


def test_one_step_that_is_no_number_does_not_end_the_search():
    schedule = LevelSearch(STEPS, 1e-3, SHARE)
    for step in range(40):
        schedule.observe(step, math.nan if step == 0 else (1.0 if schedule(step) < 1e-3 else -1.0))
    assert 1 / FACTOR < schedule(40) / 1e-3 < FACTOR


@pytest.mark.parametrize("guess", [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
@pytest.mark.parametrize("one_pass", [True, False])
def test_on_a_parabola_it_finds_the_step_to_the_bottom_whatever_the_guess(guess, one_pass):
    """L = c/2·w²: a step of rate 1/c lands at the bottom, and one beyond it finds the gradient turned about."""
    curvature = 700.0
    network = Scale().double()
    schedule = LevelSearch(STEPS, guess, SHARE)
    optimizer = torch.optim.SGD(scale_groups(network, lr=guess))
    tuner = MetaLR(optimizer, network, one_pass=one_pass, schedule=schedule, renormalize=True, beta=0.0)

    def loss():
        return curvature / 2 * (network.first.square().sum() + network.second.square().sum())

    for _ in range(int(SHARE * STEPS) + 1):
        tuner.step(loss, None if one_pass else loss)
    found = schedule(int(SHARE * STEPS))
    assert 1 / FACTOR < found * curvature < FACTOR


class Recorded(LevelSearch):
    def __init__(self):
        super().__init__(10, 1e-3, 0.5)
        self.steps = []

    def observe(self, step, approval):
        self.steps.append(step)
        super().observe(step, approval)


@pytest.mark.parametrize("one_pass", [True, False])
def test_each_step_is_judged_once_and_by_its_own_number(one_pass):
    network = Scale().double()
    schedule = Recorded()
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=1e-3)), network, one_pass=one_pass, schedule=schedule, renormalize=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(6):
            tuner.step(network.first.sum, None if one_pass else network.first.sum)
    assert schedule.steps == [0, 1, 2, 3, 4] + [5] * (not one_pass)


def build(search=True, one_pass=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.Adam(metalr_monai.param_groups(network, {"0": ["0", "1"], "3": "3"}, 1e-3))
    schedule = LevelSearch(24, 10.0, 0.5) if search else (lambda step: 1e-3)
    options = {"rule": "exponential", "scale": "cosine", "renormalize": True, "one_pass": one_pass}
    return network, optimizer, MetaLR(optimizer, network, schedule=schedule, **options)


def train(network, tuner, steps, one_pass=True):
    for t in steps:
        meta = () if one_pass else (lambda t=t: squared_error(network, batch(100 + t)),)
        tuner.step(lambda t=t: squared_error(network, batch(t)), *meta)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("at", [7, 15])
def test_resuming_within_and_after_the_search_is_exact(tmp_path, at, one_pass):
    network, optimizer, tuner = build(one_pass=one_pass)
    train(network, tuner, range(at), one_pass)
    saved = {"net": network.state_dict(), "opt": optimizer.state_dict(), "metalr": tuner.state_dict()}
    torch.save(saved, tmp_path / "checkpoint.pt")
    train(network, tuner, range(at, 24), one_pass)
    resumed, resumed_optimizer, resumed_tuner = build(one_pass=one_pass)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(state["net"])
    resumed_optimizer.load_state_dict(state["opt"])
    resumed_tuner.load_state_dict(state["metalr"])
    train(resumed, resumed_tuner, range(at, 24), one_pass)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), network.parameters(), strict=True))
    assert [*map(repr, resumed_tuner.history.rows())] == [*map(repr, tuner.history.rows())]


@pytest.mark.parametrize("saved, told", [(True, "a LevelSearch"), (False, "no LevelSearch")])
def test_a_state_with_a_search_is_none_without(saved, told):
    state = build(saved)[2].state_dict()
    tuner = build(not saved)[2]
    before = dict(tuner.lrs)
    with pytest.raises(StateError, match=f"The saved state has {told}; set schedule"):
        tuner.load_state_dict(state)
    assert tuner.lrs == before


@pytest.mark.parametrize("other", [{"steps": 400}, {"guess": 1.0}, {"search": 0.25}])
def test_a_state_of_another_search_is_refused_and_changes_nothing(other):
    """Amid its climb a longer search would be taken for a level that was found."""
    saved = LevelSearch(200, 10.0, 0.5)
    saved.observe(0, 1.0)
    schedule = LevelSearch(**{"steps": 200, "guess": 10.0, "search": 0.5, **other})
    before = schedule.state_dict()
    with pytest.raises(StateError, match=r"a LevelSearch with steps 200, search_steps 100, guess 10\.0, and this"):
        schedule.load_state_dict(saved.state_dict())
    assert schedule.state_dict() == before


def test_a_search_that_only_climbed_in_its_second_half_says_so():
    schedule = LevelSearch(80, 1e-3, 0.5)
    for step in range(39):
        schedule.observe(step, math.nan if step == 0 else 1.0)
    with pytest.warns(RuntimeWarning, match="No step of the search's second half was disapproved of, up to a rate of"):
        schedule.observe(39, 1.0)


def test_two_pass_takes_the_step_back_that_the_meta_batch_disapproves_of():
    """The verdict of a step is in the step itself: it is rescaled to the level that comes out (Eq. 4)."""
    network = Scale().double()
    schedule = LevelSearch(STEPS, 1e-3, SHARE)
    tuner = MetaLR(
        torch.optim.SGD(scale_groups(network, lr=1e-3)), network, schedule=schedule, renormalize=True, beta=0.0
    )
    before = network.first.item()
    tuner.step(lambda: 2 * network.first.sum() + network.second.sum(), lambda: 3 * network.first.sum())
    assert before - network.first.item() == pytest.approx(2 * 1e-6 * FACTOR, rel=1e-9)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"steps": 1}, "steps is 1; expected a whole number, 2 or more"),
        ({"guess": 0.0}, "guess is 0.0; expected a number above 0"),
        ({"guess": math.inf}, "guess is inf"),
        ({"search": 1.0}, "search is 1.0; expected a number above 0 and below 1"),
        ({"search": "a tenth"}, "search is 'a tenth'"),
    ],
)
def test_arguments_outside_of_their_range_are_refused(options, told):
    with pytest.raises(OptionError, match=told):
        LevelSearch(**{"steps": 100, "guess": 1e-3, **options})


@pytest.mark.parametrize("steps, searched", [(1000, 100), (100, 40), (30, 15)])
def test_the_search_is_a_share_of_the_training_but_long_enough_to_find_something(steps, searched):
    schedule = LevelSearch(steps, 1e-3, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for step in range(steps):
            if schedule(step) > schedule(step + 1):
                break
            schedule.observe(step, 1.0)
    assert step == searched
    assert schedule(searched) == pytest.approx(min(1.0, 1e-6 * min(1.5, 10 ** (12 / searched)) ** searched))


@pytest.mark.parametrize("options", [{"meta_every": 5}, {"lookahead": "sgd"}])
def test_a_search_that_would_not_see_every_step_is_refused(options):
    network = Scale().double()
    optimizer = torch.optim.SGD(scale_groups(network, lr=1e-3))
    with pytest.raises(OptionError, match="A LevelSearch judges every step that the optimizer took; meta_every is"):
        MetaLR(optimizer, network, schedule=LevelSearch(STEPS, 1e-3), **options)


def test_a_state_from_before_there_were_searches_is_taken_by_a_plain_schedule():
    state = build(search=False)[2].state_dict()
    del state["search"]
    build(search=False)[2].load_state_dict(state)
    with pytest.raises(StateError, match="no LevelSearch"):
        build(search=True)[2].load_state_dict(state)


def test_a_search_of_a_short_training_leaves_a_step_to_train():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        schedule = LevelSearch(2, 1e-3, 0.9)
        schedule.observe(0, 1.0)
    assert schedule(1) > 0 == schedule(2)


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_gradient_scaler_changes_no_verdict_and_a_step_that_it_skips_is_none(one_pass):
    def levels(scaler, spoilt):
        network = mlp()
        schedule = LevelSearch(24, 300.0, 0.5)
        optimizer = torch.optim.SGD(metalr_monai.param_groups(network, "auto", 1e-3))
        tuner = MetaLR(optimizer, network, one_pass=one_pass, scaler=scaler, schedule=schedule, renormalize=True)
        for t in range(24):
            meta = () if one_pass else (lambda t=t: squared_error(network, batch(100 + t)),)
            if t == spoilt:
                tuner.step(lambda: squared_error(network, batch(0)) * math.inf, *meta)
            tuner.step(lambda t=t: squared_error(network, batch(t)), *meta)
        return tuner.history.rates

    plain = levels(None, spoilt=None)
    scaled = levels(torch.amp.GradScaler("cpu", init_scale=1024.0), spoilt=5)
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=0)
    level = plain.log().mean(1)
    assert (level[1:12].diff() > 0).any() and (level[1:12].diff() < 0).any()  # both verdicts were given


def test_it_learns_on_real_batches_at_no_pass_of_its_own():
    network = mlp()
    calls = []
    optimizer = torch.optim.SGD(metalr_monai.param_groups(network, "auto", 1e-3))
    tuner = MetaLR(optimizer, network, one_pass=True, schedule=LevelSearch(60, 1e-3, 0.5), renormalize=True)
    losses = []
    for t in range(60):
        losses.append(tuner.step(lambda t=t: calls.append(t) or squared_error(network, batch(t % 4))).item())
    assert len(calls) == 60 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
