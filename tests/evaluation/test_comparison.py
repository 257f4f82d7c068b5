"""Means, paired differences, intervals and p-values, against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from metalr_monai.evaluation.comparison import (
    case_differences,
    compare,
    holm,
    mean_interval,
    mean_sd,
    paired_differences,
    sign_flip_p,
    smallest_p,
)

NAN = math.nan


def test_standard_deviation_divides_by_one_less_than_the_number_of_finite_values():
    found = mean_sd([2.0, 4.0, 4.0, 6.0, NAN])
    assert (found.n, found.mean) == (4, 4.0)
    assert found.sd == pytest.approx(math.sqrt(8 / 3))


def test_one_value_has_no_standard_deviation_and_none_has_no_mean():
    one, none = mean_sd([0.5]), mean_sd([NAN])
    assert (one.n, one.mean) == (1, 0.5) and math.isnan(one.sd)
    assert none.n == 0 and math.isnan(none.mean) and math.isnan(none.sd)


def test_pairs_are_the_keys_that_both_have_a_finite_score_of():
    ours = {"a": 0.5, "b": NAN, "c": 0.75, "only ours": 1.0}
    assert paired_differences(ours, {"c": 0.5, "b": 0.5, "a": 1.0, "only theirs": 0.0}) == {"a": -0.5, "c": 0.25}


def test_a_case_that_several_seeds_test_counts_once_and_is_paired_within_each_seed():
    ours = {0: {"x": 1.0, "y": 1.0}, 1: {"x": 1.0, "z": 0.0}, 2: {"x": 0.0}}
    baseline = {0: {"x": 0.0, "y": 0.0}, 1: {"x": 1.0, "z": 1.0}, 3: {"x": 1.0}}
    assert case_differences(ours, baseline) == {"x": 0.5, "y": 1.0, "z": -1.0}


# ---------------------------------------------------------------------- sign flips


@pytest.mark.parametrize(
    ("differences", "patterns"),
    [
        ([1, 2, 3], 1),  # of 8: the sum 6 is the highest
        ([1, 2, -1], 3),  # of 8: sums 4, 2 and 2 are at least 2
        ([3, 3, -1], 2),  # of 8: sums 7 and 5 are at least 5
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1),  # of 32
        ([5, 4, 3, 2, -1], 2),  # of 32: all plus, and as it is
        ([-0.1, -0.1, -0.1, -0.1, 0.1], 6),  # of 32: five minus, and any one plus
    ],
)
def test_p_is_twice_the_share_of_sign_patterns_with_as_large_a_mean(differences, patterns):
    assert sign_flip_p(differences) == (pytest.approx(2 * patterns / 2 ** len(differences)), True)


def test_p_does_not_depend_on_which_side_is_better():
    assert sign_flip_p([3, 3, -1]) == sign_flip_p([-3, -3, 1])


@pytest.mark.parametrize("n", [2, 3, 5, 6, 13])
def test_no_p_is_smaller_than_that_of_equal_signs(n):
    assert sign_flip_p(list(range(1, n + 1))) == (smallest_p(n), True)
    assert smallest_p(n) == 2 / 2**n


def test_five_seeds_cannot_fall_below_five_percent():
    assert smallest_p(5) == 0.0625
    assert sign_flip_p([50.0, 60.0, 70.0, 80.0, 90.0])[0] == 0.0625


def test_differences_of_zero_say_nothing_about_signs():
    assert sign_flip_p([0] * 500 + [1, 2, 3, 4]) == (0.125, True)
    assert sign_flip_p([0.0, 0.0]) == (1.0, True)
    assert sign_flip_p([0.0, 0.25]) == (1.0, True)


def test_of_many_differences_a_seeded_sample_of_patterns_is_close_to_the_exact_share():
    differences = [1.0] * 13 + [-1.0] * 7  # as a binomial of 20: P(at least 13 of one sign), both sides
    exact = 2 * sum(math.comb(20, k) for k in range(13, 21)) / 2**20
    p, is_exact = sign_flip_p(differences, seed=1)
    assert not is_exact
    assert abs(p - exact) < 4 * 2 * math.sqrt(exact / 2 * (1 - exact / 2) / 9999)  # four standard errors
    assert sign_flip_p(differences, seed=1)[0] == p != sign_flip_p(differences, seed=2)[0]


def test_no_differences_have_no_p():
    assert math.isnan(sign_flip_p([])[0])


# ---------------------------------------------------------------------- interval


def test_symmetric_differences_have_an_interval_that_mirrors_when_they_do():
    differences = np.linspace(-1, 1, 41)
    low, high = mean_interval(differences)
    assert low < 0 < high
    assert low == pytest.approx(-high, abs=0.03)  # two quantiles of 9,999 resamples
    se = np.std(differences, ddof=1) / math.sqrt(41)
    assert high == pytest.approx(1.96 * se, rel=0.08)  # the normal interval, near which a symmetric one must be


def test_a_long_tail_makes_the_interval_lopsided():
    differences = -np.log(1 - (np.arange(40) + 0.5) / 40)  # the quantiles of an exponential distribution
    mean = float(np.mean(differences))
    exact = 80 * mean / stats.chi2.ppf([0.975, 0.025], 80)
    low, high = mean_interval(differences)
    asymmetry, exact_asymmetry = ((b - mean) / (mean - a) for a, b in ((low, high), exact))
    # 1 for a normal interval, 1.15 for plain percentiles
    assert (1 + exact_asymmetry) / 2 < asymmetry < exact_asymmetry == pytest.approx(1.6, abs=0.01)


def test_shift_and_scale_of_the_differences_are_those_of_the_interval():
    differences = np.array([0.1, 0.4, 0.2, 0.9, 0.3, 0.5])
    low, high = mean_interval(differences)
    assert mean_interval(10 * differences + 1) == pytest.approx((10 * low + 1, 10 * high + 1))


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(0.3, 1.0, 40), seed=i) for i in range(100)]
    assert 88 <= sum(low <= 0.3 <= high for low, high in intervals) <= 99  # 95 %, binomial over 100


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.2]])
def test_fewer_than_three_differences_have_no_interval(differences):
    assert mean_interval(differences) is None
    assert not compare(differences).excludes_zero


def test_equal_differences_have_an_interval_of_no_width():
    assert mean_interval([0.25] * 5) == (0.25, 0.25)
    assert mean_interval([0.1 + 0.2, 0.3, 0.3]) == pytest.approx((0.3, 0.3))
    assert compare([0.25] * 5).excludes_zero and not compare([0.0] * 5).excludes_zero


def test_one_case_that_differs_among_many_warns_of_nothing():
    found = compare([0.0] * 99 + [1.0])
    assert (found.n, found.mean, found.p) == (100, 0.01, 1.0)
    assert found.interval[0] == 0.0 and not found.excludes_zero


# ---------------------------------------------------------------------- several comparisons


def test_holm_multiplies_by_what_is_left_and_never_falls():
    # sorted: 0.01·4 = 0.04, 0.02·3 = 0.06, 0.025·2 = 0.05 → 0.06, 0.5·1
    found = holm({"d": 0.5, "a": 0.01, "c": 0.025, "b": 0.02})
    assert found == {"d": 0.5, "a": pytest.approx(0.04), "c": pytest.approx(0.06), "b": pytest.approx(0.06)}


def test_holm_never_exceeds_one_and_leaves_out_what_has_no_p():
    found = holm({"a": 0.4, "none": NAN, "b": 0.6})
    assert (found["a"], found["b"]) == (0.8, 0.8) and math.isnan(found["none"])
    assert holm({"a": 0.7, "b": 0.8})["a"] == 1.0
    assert holm({}) == {}
