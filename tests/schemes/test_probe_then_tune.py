"""The head alone, then all blocks."""

from __future__ import annotations

import logging

import pytest
from scheme_runs import BLOCKS, assert_resuming_changes_nothing, train

from metalr_monai import ProbeThenTune
from metalr_monai.errors import OptionError


def test_the_head_trains_alone_for_the_first_epochs_and_then_all_blocks(caplog):
    _, steps = train(ProbeThenTune(2), lr=0.25, epochs=3)
    assert steps.moved() == [{"head"}] * 10 + [set(BLOCKS)] * 5
    assert steps.rates == [dict.fromkeys(BLOCKS, 0.25)] * 15
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_changes_nothing(after, tmp_path):
    assert_resuming_changes_nothing(lambda: ProbeThenTune(2), tmp_path, after=after)


def test_a_run_that_only_probes_says_so(caplog):
    _, steps = train(ProbeThenTune(2), epochs=2)
    assert set().union(*steps.moved()) == {"head"}
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "trains the head alone for 2 epochs, and the run has 2: the other blocks will never" in record.getMessage()


@pytest.mark.parametrize("epochs", [0, 1.5, True, "2"])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(OptionError, match=r"probe_epochs is .*; expected a whole number, 1 or more\."):
        ProbeThenTune(epochs)
