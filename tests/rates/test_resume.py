"""2N steps equal N + save + load + N, bit for bit, through a file that `weights_only=True` can read."""

from __future__ import annotations

import copy

import pytest
import torch
from small import Scale, batch, groups, mlp, scale_groups, squared_error
from torch import nn

import metalr_monai
from metalr_monai import MetaLR, RateHistory
from metalr_monai.errors import StateError

CASES = {
    "two-pass": {},
    "one-pass": {"one_pass": True},
    "every third": {"meta_every": 3},
    "one-pass, every third": {"one_pass": True, "meta_every": 3},
    "averaged cosine": {"scale": "cosine", "average": 0.9},
    "schedule": {"schedule": lambda t: 1e-2 / (1 + t), "renormalize": True},
    "sgd look-ahead": {"lookahead": "sgd"},
    "held": {"hold": {"4": 2}},
}
N = 5


def build(options):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3)).double()
    groups = metalr_monai.param_groups(network, {"0": ["0", "1"], "4": "4"}, 5e-3)
    optimizer = torch.optim.Adam(groups)
    return network, optimizer, MetaLR(optimizer, network, **options)


def train(network, tuner, steps, one_pass):
    for t in steps:
        meta = () if one_pass else (lambda t=t: squared_error(network, batch(100 + t)),)
        tuner.step(lambda t=t: squared_error(network, batch(t)), *meta)
        if t % 2:
            tuner.end_epoch()


@pytest.mark.parametrize("name", CASES)
def test_resuming_is_exact(name, tmp_path):
    options = CASES[name]
    one_pass = options.get("one_pass", False)
    network, optimizer, tuner = build(options)
    torch.manual_seed(1)
    train(network, tuner, range(N), one_pass)
    saved = {"net": network.state_dict(), "opt": optimizer.state_dict(), "metalr": tuner.state_dict()}
    torch.save({**saved, "random": torch.get_rng_state()}, tmp_path / "checkpoint.pt")
    train(network, tuner, range(N, 2 * N), one_pass)

    resumed, resumed_optimizer, resumed_tuner = build(options)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(checkpoint["net"])
    resumed_optimizer.load_state_dict(checkpoint["opt"])
    resumed_tuner.load_state_dict(checkpoint["metalr"])
    torch.set_rng_state(checkpoint["random"])
    train(resumed, resumed_tuner, range(N, 2 * N), one_pass)

    for ours, theirs in zip(resumed.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed_tuner.lrs == tuner.lrs and resumed_tuner.counts == tuner.counts
    assert list(map(repr, resumed_tuner.history.rows())) == list(map(repr, tuner.history.rows()))
    assert len(tuner.history) == 2 * N and tuner.lrs["4"] != 5e-3


@pytest.mark.parametrize("name", CASES)
def test_the_optimizers_state_may_be_loaded_before_or_after_the_tuners(name):
    """A schedule's next rate is no rate of the last step, which the optimizer's state has."""
    options = CASES[name]
    one_pass = options.get("one_pass", False)
    network, optimizer, tuner = build(options)
    train(network, tuner, range(N), one_pass)
    saved = {"tuner": tuner.state_dict(), "optimizer": optimizer.state_dict()}
    learned = []
    for tuner_first in (True, False):
        resumed, resumed_optimizer, resumed_tuner = build(options)
        resumed.load_state_dict(network.state_dict())
        objects = {"tuner": resumed_tuner, "optimizer": resumed_optimizer}
        for part in objects if tuner_first else reversed(objects):
            objects[part].load_state_dict(copy.deepcopy(saved[part]))  # Adam's moments would be shared
        assert resumed_tuner.lrs == tuner.lrs
        torch.manual_seed(1)
        train(resumed, resumed_tuner, range(N, N + 4), one_pass)
        learned.append(resumed_tuner.lrs)
    assert learned[0] == learned[1] != tuner.lrs


@pytest.mark.parametrize("one_pass", [False, True])
def test_a_saved_state_is_not_changed_by_going_on(one_pass):
    network, _, tuner = build({"one_pass": one_pass})
    train(network, tuner, range(2), one_pass)
    state = tuner.state_dict()
    kept = repr(state)
    train(network, tuner, range(2, 4), one_pass)
    assert repr(state) == kept != repr(tuner.state_dict())


def test_the_state_of_another_mode_or_of_something_else_is_refused():
    saved = build({"one_pass": True})[2].state_dict()
    tuner = build({})[2]
    with pytest.raises(StateError, match="of one_pass=True; set one_pass accordingly"):
        tuner.load_state_dict(saved)
    with pytest.raises(StateError, match="no state of MetaLR: it has nothing in it"):
        tuner.load_state_dict({})


def test_the_state_of_other_blocks_is_refused_and_changes_nothing():
    network = mlp()
    other = Scale()
    saved = MetaLR(torch.optim.SGD(scale_groups(other, 1e-3)), other).state_dict()
    tuner = MetaLR(torch.optim.SGD(groups(network)), network)
    with pytest.raises(StateError, match="has the blocks first, second; here they are first, middle, head"):
        tuner.load_state_dict(saved)
    assert tuner.lrs == dict.fromkeys(tuner.names, 5e-3)


def test_rates_are_not_taken_for_multipliers():
    network = Scale()
    optimizer = torch.optim.SGD(scale_groups(network, 1e-3))
    tuner = MetaLR(optimizer, network)
    saved = tuner.state_dict()
    tuner.detach()
    relative = MetaLR(optimizer, network, schedule=lambda t: 1e-3)
    with pytest.raises(StateError, match="saved state has learned rates, this tuner learns multipliers"):
        relative.load_state_dict(saved)


def test_an_empty_history_has_columns_and_no_rows():
    history = RateHistory(["a", "b"])
    assert history.columns == ("step", "epoch", "meta_loss", "lr/a", "lr/b", "h/a", "h/b")
    assert history.rates.shape == (0, 2) and list(history.rows()) == [] and len(history.steps) == 0
