"""The head alone, then all blocks."""

from __future__ import annotations

import pytest
from scheme_runs import BLOCKS, assert_resuming_changes_nothing, train

from metalr_monai import ProbeThenTune
from metalr_monai.errors import OptionError


def test_the_head_trains_alone_for_its_share_of_the_steps_and_then_all_blocks():
    _, steps = train(ProbeThenTune(3, 0.4), lr=0.25, epochs=3)
    assert steps.moved() == [{"head"}] * 6 + [set(BLOCKS)] * 9
    assert steps.rates == [dict.fromkeys(BLOCKS, 0.25)] * 15


def test_a_run_of_one_epoch_has_both_halves():
    _, steps = train(ProbeThenTune(1, 0.4), epochs=1)
    assert steps.moved() == [{"head"}] * 2 + [set(BLOCKS)] * 3


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_changes_nothing(after, tmp_path):
    assert_resuming_changes_nothing(lambda: ProbeThenTune(4, 0.3), tmp_path, after=after)


@pytest.mark.parametrize("epochs", [0, 1.5, True, "2"])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(OptionError, match=r"epochs is .*; expected a whole number, 1 or more\."):
        ProbeThenTune(epochs, 0.3)


@pytest.mark.parametrize("share", [0, 1, 1.5, True, "0.3", float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(OptionError, match=r"probe is .*; expected a number above 0 and below 1\."):
        ProbeThenTune(3, share)
