"""Schemes at equal wall-clock."""

from __future__ import annotations

import math

import pytest
from study_records import record

from metalr_monai.study.budget import equal_time

# The baseline takes 40 s and ends at 0.8, which it first has after 30 s.
BASE = {0: record("base", 0, 0.8, seconds=[10] * 4, validation={0: 0.2, 1: 0.4, 2: 0.6, 3: 0.85, 4: 0.8})}


def test_the_score_at_the_baselines_end_lies_on_the_line_between_two_validations():
    slow = {0: record("slow", 0, 0.9, seconds=[25] * 4, validation={0: 0.2, 1: 0.5, 2: 0.7, 4: 0.9})}
    found = equal_time(slow, BASE)
    assert found.score.mean == pytest.approx(0.5 + 0.2 * 15 / 25)  # 40 s: 15 s into the second epoch
    assert found.baseline.mean == 0.8
    assert (found.seeds, found.reached) == (1, 1)
    assert found.time_ratio == pytest.approx(100 / 30)
    assert found.epoch_ratio == pytest.approx(4 / 3)


def test_a_scheme_that_is_done_earlier_keeps_its_last_score():
    fast = {0: record("fast", 0, 0.7, seconds=[5] * 4, validation={2: 0.9, 4: 0.7})}
    found = equal_time(fast, BASE)
    assert (found.score.mean, found.time_ratio, found.epoch_ratio) == pytest.approx((0.7, 10 / 30, 2 / 3))


def test_the_baseline_against_itself_is_one():
    found = equal_time(BASE, BASE)
    assert (found.score.mean, found.time_ratio, found.epoch_ratio) == (0.8, 1.0, 1.0)


def test_the_time_of_a_search_counts_and_before_its_end_there_is_no_score():
    search = {0: record("search", 0, 0.9, seconds=[5] * 4, search_seconds=50, validation={0: 0.2, 2: 0.9, 4: 0.9})}
    found = equal_time(search, BASE)
    assert found.score.n == 0 and math.isnan(found.score.mean)
    assert found.time_ratio == pytest.approx(60 / 30)
    assert found.epoch_ratio is None


def test_before_the_first_epoch_that_is_validated_there_is_no_score_without_one_of_the_start():
    late = {0: record("late", 0, 0.9, seconds=[50] * 2, validation={1: 0.5, 2: 0.9})}
    assert equal_time(late, BASE).score.n == 0


def test_no_ratio_where_half_of_the_seeds_never_get_there():
    base = {seed: BASE[0] for seed in (0, 1)}
    ours = {0: BASE[0], 1: record("ours", 1, 0.7, seconds=[10] * 4, validation={0: 0.9, 2: 0.6, 4: 0.7})}
    found = equal_time(ours, base)
    assert (found.seeds, found.reached) == (2, 1)  # before training does not count
    assert found.time_ratio is None and found.epoch_ratio is None


@pytest.mark.parametrize("validation", [{}, {0: 0.5, 4: 0.9}])
def test_left_out_where_only_the_last_epoch_was_validated(validation):
    ours = {0: record("ours", 0, 0.9, seconds=[10] * 4, validation=validation)}
    assert equal_time(ours, BASE) is None
    assert equal_time(BASE, ours) is None


def test_left_out_without_a_common_seed():
    assert equal_time({1: BASE[0]}, BASE) is None
