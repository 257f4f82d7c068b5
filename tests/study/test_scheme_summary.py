"""What is said of a study: scores, costs, verdicts, warnings."""

from __future__ import annotations

import math

import pytest
from study_records import record

from metalr_monai.errors import OptionError
from metalr_monai.study.against import BETTER, OPEN, WORSE
from metalr_monai.study.summary import summarize

RIGHT = [1.0] * 40  # a scheme that is right in every case
HALF = [1.0, 0.0] * 20


def of(summary, name):
    return next(scheme for scheme in summary.schemes if scheme.scheme == name)


def five_seeds(name, scores, cases, **other):
    return [record(name, seed, score, cases=cases, **other) for seed, score in enumerate(scores)]


def study(*records, baseline="all layers", **settings):
    return summarize(records, baseline=baseline, titles=["accuracy"], **settings)


ALL = five_seeds("all layers", [0.5, 0.51, 0.49, 0.5, 0.5], HALF)


def test_schemes_keep_the_order_of_their_first_runs_and_seeds_are_sorted():
    summary = study(record("b", 1, 0.25), record("a", 1, 0.5), record("b", 0, 0.75), baseline="a")
    assert [scheme.scheme for scheme in summary.schemes] == ["b", "a"]
    assert of(summary, "b").scores_by_seed == {"accuracy": {0: 0.75, 1: 0.25}}
    score = of(summary, "b").scores["accuracy"]
    assert (score.n, score.mean, score.sd) == (2, 0.5, pytest.approx(math.sqrt(0.125)))


def test_better_and_worse_need_cases_and_seeds_of_one_mind():
    better = five_seeds("better", [0.99, 1.0, 1.0, 0.98, 1.0], RIGHT)
    worse = five_seeds("worse", [0.01, 0.0, 0.0, 0.02, 0.0], [0.0] * 40)
    summary = study(*ALL, *better, *worse)
    found = of(summary, "better").against
    assert (found.verdict, found.unit, found.cases.n, found.seeds.n) == (BETTER, "cases", 40, 5)
    assert found.cases.mean == 0.5
    assert found.seeds.p == 0.0625 and found.seeds_holm == 0.125  # two schemes
    assert found.words.startswith("better by 50.0 points (")
    assert of(summary, "worse").against.verdict == WORSE
    assert of(summary, "all layers").against is None
    assert summary.verdict.startswith("Accuracy against “all layers”, with 95 % intervals: “better” better by 50.0 ")
    assert "; “worse” worse by 50.0 points (" in summary.verdict


def test_seeds_that_disagree_tell_nothing_apart_however_sure_the_cases_are():
    unsure = five_seeds("unsure", [1.0, 0.3, 1.0, 0.2, 1.0], RIGHT)
    summary = study(*ALL, *unsure)
    found = of(summary, "unsure").against
    assert found.cases_holm < 0.001 and found.cases.excludes_zero and not found.seeds.excludes_zero
    assert (found.verdict, found.words) == (OPEN, "not told apart from all layers")
    assert summary.verdict == "No scheme is told apart from “all layers” by its accuracy."


def test_cases_and_seeds_of_opposite_signs_tell_nothing_apart():
    odd = five_seeds("odd", [0.1, 0.11, 0.12, 0.1, 0.1], RIGHT)
    assert of(study(*ALL, *odd), "odd").against.verdict == OPEN


def test_cases_that_disagree_tell_nothing_apart():
    few = [1.0, 1.0, *HALF[2:]]  # one case of 40 is better, none worse
    assert of(study(*ALL, *five_seeds("few", [0.6, 0.61, 0.62, 0.6, 0.6], few)), "few").against.verdict == OPEN


def test_many_schemes_are_corrected_for():
    cases = [1.0] * 12 + HALF[12:]  # six cases better, none worse: p = 2/64 over cases
    scores = [0.6, 0.61, 0.62, 0.6, 0.6]
    alone = study(*ALL, *five_seeds("one", scores, cases))
    assert of(alone, "one").against.cases_holm == 0.03125
    assert of(alone, "one").against.verdict == BETTER
    both = study(*ALL, *five_seeds("one", scores, cases), *five_seeds("two", scores, cases))
    assert of(both, "one").against.cases_holm == 0.0625
    assert of(both, "one").against.verdict == OPEN


def test_with_one_case_the_seeds_count_and_five_of_them_are_too_few():
    base = five_seeds("all layers", [0.5, 0.51, 0.49, 0.5, 0.5], [0.5])
    summary = study(*base, *five_seeds("far", [0.9, 0.91, 0.92, 0.9, 0.9], [0.9]))
    found = of(summary, "far").against
    assert (found.unit, found.seeds.p, found.verdict) == ("seeds", 0.0625, OPEN)
    assert any("0.0625" in note and "nothing can be told apart" in note for note in summary.notes)


def test_with_one_case_six_seeds_are_enough():
    base = [record("all layers", seed, 0.5 + seed / 1000, cases=[0.5]) for seed in range(6)]
    far = [record("far", seed, 0.9, cases=[0.9]) for seed in range(6)]
    found = of(study(*base, *far), "far").against
    assert (found.unit, found.seeds.p, found.verdict) == ("seeds", 0.03125, BETTER)


def test_one_seed_tells_nothing_apart_and_the_notes_say_so():
    summary = study(record("all layers", 0, 0.5, cases=HALF), record("far", 0, 1.0, cases=RIGHT))
    assert of(summary, "far").against.verdict == OPEN
    assert "1 seed in common: too few for an interval over seeds, so nothing can be told apart yet." in summary.notes


def test_a_failed_run_leaves_pairs_of_the_other_seeds_and_a_note():
    summary = study(*ALL, *five_seeds("b", [0.6] * 5, RIGHT)[:3])
    assert of(summary, "b").seeds == (0, 1, 2) and of(summary, "b").missing == (3, 4)
    assert of(summary, "b").against.seeds.n == 3
    assert of(summary, "b").against.seeds.mean == pytest.approx(0.1)
    assert "“b” has no finished run of seeds 3, 4: pairs are of the other seeds." in summary.notes


def test_no_common_seed_is_said():
    summary = study(record("all layers", 0, 0.5), record("b", 1, 0.9))
    assert of(summary, "b").against.words == "not compared with all layers: no seed in common"
    assert of(summary, "b").cost.epoch_ratio is None


# ---------------------------------------------------------------------- costs


def test_times_are_medians_of_ratios_within_a_seed():
    base = [record("all layers", seed, 0.5, seconds=[s] * 3) for seed, s in enumerate((10, 20, 40))]
    ours = [record("b", seed, 0.5, seconds=[99, s, s]) for seed, s in enumerate((11, 40, 60))]
    cost = of(study(*base, *ours), "b").cost
    assert cost.epoch_ratio == 1.5  # 1.1, 2.0, 1.5: the first epoch of a run is slow, and no median of it
    assert cost.total_ratio == pytest.approx(179 / 60)  # 121/30, 179/60, 219/120
    assert cost.train_seconds == 179


def test_the_time_of_a_search_is_training_time_but_no_epochs():
    base = record("all layers", 0, 0.5, seconds=[10, 10])
    cost = of(study(base, record("b", 0, 0.5, seconds=[10, 10], search_seconds=80)), "b").cost
    assert (cost.epoch_ratio, cost.total_ratio, cost.train_seconds, cost.search_seconds) == (1.0, 5.0, 100, 80)


def test_memory_is_the_highest_of_the_seeds_that_know_it():
    summary = study(record("all layers", 0, 0.5, peak_memory=3), record("all layers", 1, 0.5, peak_memory=7))
    assert of(summary, "all layers").cost.peak_memory == 7
    assert of(study(record("all layers", 0, 0.5)), "all layers").cost.peak_memory is None


# ---------------------------------------------------------------------- warnings and notes


def test_a_scheme_that_loses_what_it_came_with_is_warned_of():
    down = [record("all layers", s, 0.5, validation={0: 0.8, 5: v}) for s, v in enumerate((0.7, 0.81, 0.74))]
    down.append(record("all layers", 3, 0.5, validation={0: 0.9}))  # no epoch was validated
    up = [record("up", s, 0.5, validation={0: 0.8, 5: 0.9}) for s in range(3)]
    summary = study(*down, *up)
    [warning] = of(summary, "all layers").warnings
    assert warning == "ends below its own validation score before training: 80.0 → 75.0 % (2 of 3 seeds)"
    assert of(summary, "up").warnings == ()


def test_no_warning_where_nothing_was_validated_before_training():
    assert of(study(record("all layers", 0, 0.5, validation={5: 0.1})), "all layers").warnings == ()


def test_a_scheme_below_random_weights_is_warned_of():
    scratch = [record("new", seed, 0.7) for seed in range(2)]
    worse = [record("all layers", seed, score) for seed, score in enumerate((0.5, 0.8))]
    summary = study(*scratch, *worse, scratch="new")
    [warning] = of(summary, "all layers").warnings
    assert warning == "worse than training from random weights (new) by 5.0 points of accuracy (1 of 2 seeds)"
    assert of(summary, "new").warnings == ()


def test_without_a_run_from_random_weights_a_note_says_so():
    summary = study(record("all layers", 0, 0.5), scratch="new")
    assert "“new” has no finished run: no scheme is compared with training from random weights." in summary.notes


def test_equal_time_is_left_out_aloud():
    curve = {1: 0.5, 2: 0.6}
    none = study(record("all layers", 0, 0.5, validation={2: 0.6}), record("b", 0, 0.5, validation=curve))
    assert "Scores at equal time are left out: the baseline was validated at its last epoch only." in none.notes
    some = study(record("all layers", 0, 0.5, validation=curve), record("b", 0, 0.5, validation={2: 0.6}))
    assert "Scores at equal time are left out for “b”: validated at the last epoch only." in some.notes
    assert of(some, "all layers").equal_time.score.mean == 0.6 and of(some, "b").equal_time is None


def test_a_study_of_the_baseline_alone_compares_nothing():
    assert study(record("all layers", 0, 0.5)).verdict == "all layers is the only scheme: there is nothing to compare."


@pytest.mark.parametrize(
    ("records", "settings", "message"),
    [
        ([], {}, "0 runs"),
        ([record("a", 0, 0.5)], {"baseline": "all layer"}, "No run is of the scheme 'all layer'"),
        ([record("a", 0, 0.5), record("a", 0, 0.6)], {"baseline": "a"}, "Two runs are of scheme 'a' and seed 0"),
        ([record("a", 0, 0.5, Dice=1)], {"baseline": "a", "titles": ["dice"]}, "no score 'dice'.*has accuracy, Dice"),
    ],
)
def test_what_does_not_fit_is_named(records, settings, message):
    with pytest.raises(OptionError, match=message):
        summarize(records, **{"baseline": "all layers", "titles": ["accuracy"], **settings})
