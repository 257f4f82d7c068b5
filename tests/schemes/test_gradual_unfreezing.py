"""One block more trains in each epoch."""

from __future__ import annotations

import logging

import pytest
import torch
from scheme_runs import BLOCKS, assert_resuming_changes_nothing, train

from metalr_monai import GradualUnfreezing
from metalr_monai.errors import OptionError


def test_one_block_more_trains_in_each_epoch_from_the_head_on():
    _, steps = train(GradualUnfreezing(2.0), lr=0.8, epochs=4, optimizer=torch.optim.SGD)
    moved = [{"head"}, {"norm", "head"}, set(BLOCKS), set(BLOCKS)]
    assert steps.moved() == [names for names in moved for _ in range(5)]
    assert steps.rates == [{"conv": 0.2, "norm": 0.4, "head": 0.8}] * 20


def test_the_papers_rates_are_divided_by_2_6():
    _, steps = train(GradualUnfreezing(), lr=1.0, epochs=3)
    assert steps.rates[0] == pytest.approx({"conv": 1 / 6.76, "norm": 1 / 2.6, "head": 1.0}, rel=1e-12)


def test_a_run_too_short_for_all_blocks_says_which_never_train(caplog):
    train(GradualUnfreezing(), epochs=1)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == (
        "GradualUnfreezing trains one block more in each epoch: in 1 epochs conv, norm will never train. "
        "Ask for at least 3 epochs, or for fewer blocks."
    )


def test_a_run_with_an_epoch_for_each_block_says_nothing(caplog):
    train(GradualUnfreezing(), epochs=3)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_changes_nothing(after, tmp_path):
    assert_resuming_changes_nothing(GradualUnfreezing, tmp_path, after=after)


@pytest.mark.parametrize("decay", [0.75, 0, float("inf"), None])
def test_a_decay_below_one_is_refused(decay):
    with pytest.raises(OptionError, match=r"decay is .*; expected a number, 1 or more\."):
        GradualUnfreezing(decay)
