"""Rates that rise and fall."""

from __future__ import annotations

import pytest
import torch
from scheme_runs import assert_resuming_changes_nothing, train

from metalr_monai import ScheduledRates
from metalr_monai.errors import OptionError

COSINE = [0.5, 1.0, 1.0, 0.9619397662556434, 0.8535533905932737, 0.6913417161825449]  # cos² of 0, π/16, π/8, 3π/16
COSINE += [0.5, 0.3086582838174551, 0.1464466094067262, 0.0380602337443566]
POLY = [0.5, 1.0, *((eighths / 8) ** 0.9 for eighths in range(8, 0, -1))]


@pytest.mark.parametrize(("shape", "factors"), [("cosine", COSINE), ("poly", POLY)])
def test_each_step_is_taken_at_its_own_rate(shape, factors):
    def optimizer(groups):
        groups[-1]["lr"] = 0.25
        return torch.optim.SGD(groups)

    _, steps = train(ScheduledRates(shape, 2, warmup=0.2), lr=0.5, optimizer=optimizer)
    for number, factor in enumerate(factors):
        rates = {"conv": 0.5 * factor, "norm": 0.5 * factor, "head": 0.25 * factor}
        assert steps.rates[number] == pytest.approx(rates, rel=1e-9)
        for name, rate in steps.rates[number].items():
            pairs = zip(steps.before[number][name], steps.gradients[number][name], strict=True)
            expected = [weight.add(gradient, alpha=-rate) for weight, gradient in pairs]
            assert all(map(torch.equal, steps.after[number][name], expected))


def test_without_a_warm_up_the_first_step_is_at_the_full_rate():
    _, steps = train(ScheduledRates("cosine", 2), lr=0.5)
    assert steps.rates[0]["head"] == 0.5
    assert steps.rates[5]["head"] == pytest.approx(0.25, rel=1e-12)


def test_a_run_longer_than_its_schedule_stands_still():
    _, steps = train(ScheduledRates("poly", 1), lr=0.5, epochs=2)
    assert [rates["head"] for rates in steps.rates[5:]] == [0.0] * 5
    assert steps.moved()[4] and not any(steps.moved()[5:])


def test_with_accumulated_gradients_the_rate_is_that_of_the_step_s_last_batch():
    _, steps = train(ScheduledRates("cosine", 2, warmup=0.5), lr=0.5, epochs=1, accumulation_steps=2)
    assert [rates["head"] for rates in steps.rates] == pytest.approx([0.5, 0.2, 0.2, 0.4, 0.5], rel=1e-12)


@pytest.mark.parametrize("shape", ["cosine", "poly"])
def test_resuming_changes_nothing(shape, tmp_path):
    assert_resuming_changes_nothing(lambda: ScheduledRates(shape, 4, warmup=0.3), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cosin", 2), r"shape is 'cosin'; expected one of cosine, poly\. Did you mean cosine\?"),
        (("poly", 0), r"epochs is 0; expected a whole number, 1 or more\."),
        (("poly", 2, 1.0), r"warmup is 1\.0; expected a number from 0 to below 1\."),
    ],
)
def test_bad_arguments_are_refused(arguments, says):
    with pytest.raises(OptionError, match=says):
        ScheduledRates(*arguments)
