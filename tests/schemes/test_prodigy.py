"""Prodigy as the optimizer of named groups."""

from __future__ import annotations

import pytest
from scheme_runs import BLOCKS, STEPS, assert_resuming_changes_nothing, train

from metalr_monai.schemes.scheme import Scheme

prodigyopt = pytest.importorskip("prodigyopt", reason="needs the extra rivals")


def test_all_blocks_train_at_the_one_rate_that_it_finds():
    trainer, steps = train(Scheme(), lr=1.0, optimizer=prodigyopt.Prodigy)
    assert steps.moved() == [set(BLOCKS)] * 2 * STEPS
    found = {group["d"] for group in trainer.optimizer.param_groups}
    assert len(found) == 1 and found.pop() > 1e-6


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_changes_nothing(after, tmp_path):
    assert_resuming_changes_nothing(Scheme, tmp_path, lr=1.0, after=after, optimizer=prodigyopt.Prodigy)


def test_rates_that_differ_are_refused_before_anything_moves():
    def optimizer(groups):
        groups[-1]["lr"] = 0.5
        return prodigyopt.Prodigy(groups)

    with pytest.raises(RuntimeError, match="different lr values in different parameter groups is only supported for"):
        train(Scheme(), lr=1.0, optimizer=optimizer)
