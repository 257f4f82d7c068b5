"""Averaged weights where the network is judged or saved."""

from __future__ import annotations

import time

import pytest
import torch
from ignite.engine import Events
from scheme_runs import BLOCKS, STEPS, assert_resuming_changes_nothing, train

from metalr_monai import FinalModel, ScheduleFree
from metalr_monai.errors import OptimizerError, OptionError

schedulefree = pytest.importorskip("schedulefree", reason="needs the extra rivals")


class AtEpochEnd:
    """The network's state as a validation would see it, and one batch norm's statistics of training batches."""

    def __init__(self):
        self.states, self.modes = [], []

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._record)

    def _record(self, engine):
        self.states.append({name: value.clone() for name, value in engine.network.state_dict().items()})
        self.modes.append([group["train_mode"] for group in engine.optimizer.param_groups])


def sgd(groups):
    return schedulefree.SGDScheduleFree(groups, momentum=0.5)


def test_an_epoch_ends_with_the_average_of_the_weights_by_hand():
    """z takes the steps of plain SGD, x is the mean of z after each step, and gradients are taken at (x + z)/2."""
    ends = AtEpochEnd()
    _, steps = train(ScheduleFree(warmup=0, statistics_batches=0), ends, lr=0.1, epochs=2, optimizer=sgd)
    for name, key, place in (("conv", "body.0.weight", 0), ("head", "head.bias", 1)):
        z = x = steps.before[0][name][place]
        for number in range(2 * STEPS):
            at = steps.before[number][name][place]
            torch.testing.assert_close(at, (x + z) / 2, rtol=0, atol=1e-6)
            z = z - 0.1 * steps.gradients[number][name][place]
            x = x + (z - x) / (number + 1)
            if number % STEPS == STEPS - 1:
                torch.testing.assert_close(ends.states[number // STEPS][key], x, rtol=0, atol=1e-6)
                torch.testing.assert_close(steps.after[number][name][place], (x + z) / 2, rtol=0, atol=1e-6)
        assert (x - z).abs().max() > 1e-4  # far above the tolerance


class Slow:
    """Every batch takes a tenth of a second, and what a run's report would say that an epoch took."""

    def __init__(self):
        self.seconds = []

    def attach(self, engine):
        prepare = engine.prepare_batch

        def slowly(*args, **kwargs):
            time.sleep(0.1)
            return prepare(*args, **kwargs)

        engine.prepare_batch = slowly
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.seconds.append(self._told(engine)))

    def _told(self, engine):
        return engine.state.times[Events.EPOCH_COMPLETED.name]


def test_the_pass_for_the_statistics_counts_as_the_epochs_time():
    slow = Slow()
    train(ScheduleFree(statistics_batches=STEPS), slow, epochs=1, optimizer=schedulefree.AdamWScheduleFree)
    assert slow.seconds[0] >= 2 * STEPS * 0.1


def test_what_stands_behind_sees_averaged_weights_in_every_epoch():
    ends = AtEpochEnd()
    train(ScheduleFree(), ends, optimizer=schedulefree.AdamWScheduleFree)
    assert ends.modes == [[False] * 3] * 2


def test_the_final_model_has_the_averaged_weights_even_of_a_run_that_stops_within_an_epoch(tmp_path):
    class Stop:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: engine.terminate())

    class Save:
        def attach(self, engine):
            engine.add_event_handler(
                Events.STARTED, lambda: FinalModel(engine.network, tmp_path / "m.pt").attach(engine)
            )

    trainer, steps = train(ScheduleFree(), Stop(), Save(), lr=0.1, optimizer=sgd)
    saved = torch.load(tmp_path / "m.pt", weights_only=True)["head.weight"]
    assert len(steps.rates) == 3
    assert not torch.equal(saved, steps.after[-1]["head"][0])
    trainer.optimizer.train()
    torch.testing.assert_close(trainer.network.head.weight.detach(), steps.after[-1]["head"][0])


def test_running_statistics_are_those_of_training_batches_under_the_averaged_weights():
    seen = []

    class Record:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self.hook)

        def hook(self, engine):
            engine.network.body[0].register_forward_hook(lambda m, i, o: seen.append((m.weight.detach().clone(), o)))

    trainer, _ = train(ScheduleFree(statistics_batches=3), Record(), lr=0.1, epochs=1, optimizer=sgd)
    assert len(seen) == STEPS + 3
    outputs = [output.detach() for weight, output in seen[STEPS:]]
    assert all(torch.equal(weight, trainer.network.body[0].weight) for weight, _ in seen[STEPS:])
    norm = trainer.network.body[1]
    torch.testing.assert_close(norm.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0))
    assert norm.momentum == 0.1


def test_no_batches_leave_the_statistics_and_the_random_numbers_alone():
    trainer, _ = train(ScheduleFree(statistics_batches=0), lr=0.1, epochs=1, optimizer=sgd)
    assert trainer.network.body[1].num_batches_tracked == STEPS


def test_the_warm_up_is_a_share_of_the_run():
    trainer, _ = train(ScheduleFree(warmup=0.3), epochs=2, optimizer=schedulefree.AdamWScheduleFree)
    assert [group["warmup_steps"] for group in trainer.optimizer.param_groups] == [3] * 3


@pytest.mark.parametrize("optimizer", ["AdamWScheduleFree", "SGDScheduleFree"])
def test_resuming_changes_nothing(optimizer, tmp_path):
    make = getattr(schedulefree, optimizer)
    assert_resuming_changes_nothing(
        lambda: ScheduleFree(warmup=0, statistics_batches=2), tmp_path, lr=0.05, after=2, optimizer=make
    )


def test_blocks_keep_rates_of_their_own():
    def optimizer(groups):
        groups[-1]["lr"] = 0.5
        return sgd(groups)

    _, steps = train(ScheduleFree(), lr=0.1, epochs=1, optimizer=optimizer)
    assert steps.rates == [{"conv": 0.1, "norm": 0.1, "head": 0.5}] * STEPS
    assert steps.moved() == [set(BLOCKS)] * STEPS


def test_another_optimizer_is_refused():
    with pytest.raises(OptimizerError, match=r"drives the optimizers of the package schedulefree.*and not Adam\."):
        train(ScheduleFree())


@pytest.mark.parametrize("arguments", [{"warmup": 1}, {"statistics_batches": -1}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(OptionError, match=r"(warmup|statistics_batches) is .*; expected a"):
        ScheduleFree(**arguments)
