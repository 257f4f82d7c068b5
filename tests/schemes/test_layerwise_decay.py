"""Rates that fall from the head to the first block."""

from __future__ import annotations

import pytest
import torch
from scheme_runs import assert_resuming_changes_nothing, train

from metalr_monai import LayerwiseDecay
from metalr_monai.errors import OptionError


def test_each_block_has_the_rate_of_the_next_one_times_the_decay():
    _, steps = train(LayerwiseDecay(0.5), lr=0.8, optimizer=torch.optim.SGD)
    assert steps.rates == [{"conv": 0.2, "norm": 0.4, "head": 0.8}] * 10
    for before, after, gradients in zip(steps.before, steps.after, steps.gradients, strict=True):
        for name, rate in {"conv": 0.2, "norm": 0.4, "head": 0.8}.items():
            for weight, new, gradient in zip(before[name], after[name], gradients[name], strict=True):
                assert torch.equal(new, weight.add(gradient, alpha=-rate))


def test_the_head_keeps_a_rate_of_its_own_and_a_block_its_share():
    def optimizer(groups):
        groups[0]["lr"], groups[-1]["lr"] = 4.0, 8.0
        return torch.optim.SGD(groups)

    _, steps = train(LayerwiseDecay(0.5), lr=2.0, epochs=1, optimizer=optimizer)
    assert steps.rates[0] == {"conv": 1.0, "norm": 1.0, "head": 8.0}


def test_the_usual_decay_is_three_quarters():
    _, steps = train(LayerwiseDecay(), lr=1.0, epochs=1, optimizer=torch.optim.SGD)
    assert steps.rates[0] == {"conv": 0.5625, "norm": 0.75, "head": 1.0}


def test_resuming_changes_nothing(tmp_path):
    assert_resuming_changes_nothing(LayerwiseDecay, tmp_path)


@pytest.mark.parametrize("decay", [0, 1.5, -1, float("nan"), "0.75", True])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(OptionError, match=r"decay is .*; expected a number above 0, at most 1\."):
        LayerwiseDecay(decay)
