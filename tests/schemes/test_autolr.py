"""AutoLR: its arithmetic by hand, and its trials in a real trainer."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Events
from small_trainer import make_trainer
from torch import nn

import metalr_monai
from metalr_monai import AutoLR, EpochSeed, RunCheckpoints, latest_checkpoint
from metalr_monai.errors import BlockError, OptionError, StateError
from metalr_monai.schemes.autolr_targets import (
    first_targets,
    later_targets,
    new_rates,
    sorting_quality,
    threshold_in,
    weight_variation,
)

# The arithmetic


def test_weight_variation_by_hand():
    before = [torch.zeros(1, 2, 1, 1), torch.ones(2, 2, 1, 1)]
    after = [torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([1.0, 5.0, 1.0, 1.0]).reshape(2, 2, 1, 1)]
    # ‖ΔW‖² is 3² and 4², of 2 and 4 weights: 10⁶·√25/6
    assert weight_variation(before, after) == pytest.approx(1e6 * 5 / 6)


@pytest.mark.parametrize(
    ("variations", "quality"),
    [
        ([1, 2, 3, 4], 1.0),
        ([1, 3, 2, 4], 0.75),  # the 2nd and 3rd are off by 1 each: 1 − 2/16·2
        ([4, 3, 2, 1], 0.0),  # off by 3, 1, 1, 3: 1 − 2/16·8
        ([30, 10, 20], 1 - 2 / 9 * 4),  # ranks 3, 1, 2: off by 2, 1, 1
        ([1, 2, 3, 4, 5, 6, 8, 7], 0.9375),  # one pair of the eight blocks of ResNet-18: 1 − 2/64·2
    ],
)
def test_sorting_quality_by_hand(variations, quality):
    assert sorting_quality(variations) == pytest.approx(quality)


def test_the_threshold_is_relaxed_from_the_second_epoch_on_while_it_is_above_the_lowest():
    found = [threshold_in(epoch, 0.9, 0.5, 0.3) for epoch in range(4)]
    assert found == [0.9, 0.45, 0.225, 0.225]


def test_targets_and_rates_of_the_first_epoch_by_hand():
    # from 2·min v = 2·1 = 2 to 0.4·max v = 0.4·10 = 4 in four steps of 0.5
    variations = [8.0, 1.0, 10.0, 4.0, 2.0]
    targets = first_targets(variations, 2.0, 0.4)
    assert targets == pytest.approx([2.0, 2.5, 3.0, 3.5, 4.0])
    # 0.1 · 2/8, 2.5/1, 3/10, 3.5/4, 4/2
    assert new_rates([0.1] * 5, variations, targets) == pytest.approx([0.025, 0.25, 0.03, 0.0875, 0.2])


def test_the_first_targets_ascend_though_the_variations_are_nearly_equal():
    # 2·min v = 2 is above 0.4·max v = 0.8: from 0.8 to 2
    assert first_targets([1.0, 1.5, 2.0], 2.0, 0.4) == pytest.approx([0.8, 1.4, 2.0])


def test_targets_and_rates_of_later_epochs_by_hand():
    # Δ = (7 − 2)/4 = 1.25; from the third outwards: 5 > 4, so 4 − Δ = 2.75; 6 > 2.75, so 2.75 − Δ = 1.5;
    # 2 < 4, so 4 + Δ = 5.25; 7 stays
    variations = [6.0, 5.0, 4.0, 2.0, 7.0]
    targets = later_targets(variations)
    assert targets == pytest.approx([1.5, 2.75, 4.0, 5.25, 7.0])
    # 0.1 · 1.5/6, 2.75/5, 1, 5.25/2, 1
    assert new_rates([0.1] * 5, variations, targets) == pytest.approx([0.025, 0.055, 0.1, 0.2625, 0.1])


def test_no_target_is_negative():
    # Δ = (10 − 1)/3 = 3: 8 > 1, and 1 − 3 < 0, so half of 1; 9 > 0.5, so half of that
    assert later_targets([9.0, 8.0, 1.0, 10.0]) == pytest.approx([0.25, 0.5, 1.0, 10.0])


def test_a_block_that_did_not_move_keeps_its_rate():
    variations = [2.0, 0.0, 4.0]
    assert new_rates([0.1, 0.2, 0.3], variations, [0.0, 1.0, 8.0]) == pytest.approx([0.1, 0.2, 0.6])


# The trials

BLOCKS = {name: [name] for name in ("stem", "one", "plain", "two", "three", "head")}
ORDERED = ("one", "two", "three")


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.one = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.plain = nn.GroupNorm(2, 4)
        self.two = nn.Sequential(nn.ConvTranspose2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2))
        self.three = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.three(self.two(self.plain(self.one(self.stem(x)))))
        return self.head(x.mean((2, 3)))


class Watch:
    """What the end of each epoch finds; it is attached before the scheme."""

    def attach(self, engine):
        self.rates, self.states, self.momenta = [], [], []
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _note(self, engine):
        self.rates.append({group["name"]: group["lr"] for group in engine.optimizer.param_groups})
        self.states.append({name: t.clone() for name, t in engine.network.state_dict().items()})
        self.momenta.append([t.clone() for state in engine.optimizer.state.values() for t in state.values()])


def trainer_of(*handlers, lr=1e-3, **options):
    trainer = make_trainer([*handlers, EpochSeed(3)], **options)
    torch.manual_seed(1)
    trainer.network = Deep()
    trainer.optimizer = torch.optim.Adam(metalr_monai.param_groups(trainer.network, BLOCKS, lr))
    return trainer


def equal(ours, theirs):
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def sortedness(scheme):
    return [(entry["accepted_epochs"], entry["accepted"]) for entry in scheme.record]


def test_variations_are_those_of_the_convolutions_between_first_and_last():
    scheme = AutoLR(threshold=1e-9)  # anything passes
    trainer = trainer_of(scheme, epochs=1)
    before = {name: t.clone() for name, t in trainer.network.state_dict().items()}
    trainer.run()
    after, found = trainer.network.state_dict(), scheme.record[0]["variations"]
    assert tuple(found) == ORDERED
    for block in ORDERED:
        moved = after[f"{block}.0.weight"] - before[f"{block}.0.weight"]
        assert found[block] == pytest.approx(1e6 * moved.norm().item() / moved.numel(), rel=1e-5)
    assert sortedness(scheme) == [(0, True)] and trainer.state.epoch == 1


def test_an_epoch_is_repeated_with_the_rates_of_the_equations_until_the_last_trial():
    scheme, watch = AutoLR(threshold=1.0, relaxation=1.0, trials=3), Watch()
    trainer = trainer_of(watch, scheme, epochs=1, lr=0.01)
    trainer.run()
    assert [entry["accepted"] for entry in scheme.record][:-1] == [False] * (len(scheme.record) - 1)
    assert trainer.state.epoch == trainer.state.max_epochs == len(scheme.record) > 1
    assert watch.rates[0] == {**dict.fromkeys(BLOCKS, 0.01)}
    targets = first_targets(list(scheme.record[0]["variations"].values()), 2.0, 0.4)  # of both retunings
    for trial, entry in enumerate(scheme.record[:-1]):
        present, following = watch.rates[trial], watch.rates[trial + 1]
        wanted = new_rates([present[b] for b in ORDERED], list(entry["variations"].values()), targets)
        assert [following[b] for b in ORDERED] == wanted
        assert following["stem"] == 0.5 * following["one"]
        assert following["head"] == 0.01 and following["plain"] == 0.01


def test_later_epochs_have_targets_from_the_middle_outwards():
    scheme, watch = AutoLR(threshold=1.0, relaxation=1.0, trials=2), Watch()
    trainer_of(watch, scheme, epochs=4).run()
    later = [i for i, entry in enumerate(scheme.record) if not entry["accepted"] and entry["accepted_epochs"]]
    assert later
    for i in later:
        variations = list(scheme.record[i]["variations"].values())
        wanted = new_rates([watch.rates[i][b] for b in ORDERED], variations, later_targets(variations))
        assert [watch.rates[i + 1][b] for b in ORDERED] == wanted


def test_the_head_has_its_own_rate_from_the_start():
    watch = Watch()
    trainer_of(watch, AutoLR(head_rate=0.02), epochs=1).run()
    assert {rates["head"] for rates in watch.rates} == {0.02} and watch.rates[0]["stem"] == 1e-3


def test_a_rejected_trial_has_gone_before_any_other_handler_looks():
    scheme, watch = AutoLR(threshold=1.0, relaxation=1.0, trials=3), Watch()
    trainer = trainer_of(watch, scheme, epochs=3)
    start = {name: t.clone() for name, t in trainer.network.state_dict().items()}
    trainer.run()
    rejected = [i for i, entry in enumerate(scheme.record) if not entry["accepted"]]
    assert rejected and any(scheme.record[i]["accepted_epochs"] for i in rejected)
    for i in rejected:
        assert equal(watch.states[i], watch.states[i - 1] if i else start)
        previous = watch.momenta[i - 1] if i else []
        assert len(watch.momenta[i]) == len(previous)
        assert all(map(torch.equal, watch.momenta[i], previous))
    for i in set(range(len(scheme.record))) - set(rejected):
        assert not equal(watch.states[i], watch.states[i - 1])


def test_the_accepted_trial_is_plain_training_with_its_rates():
    scheme, watch = AutoLR(threshold=1.0, trials=2), Watch()
    tuned = trainer_of(watch, scheme, epochs=1, lr=0.01)
    tuned.run()
    assert sortedness(scheme) == [(0, False), (0, True)]
    plain = trainer_of(epochs=2)
    plain.state.epoch, plain.state.iteration = 1, 5  # the second epoch's random numbers
    for group in plain.optimizer.param_groups:
        group["lr"] = watch.rates[1][group["name"]]
    plain.run()
    assert equal(tuned.network.state_dict(), plain.network.state_dict())


def test_accepted_epochs_are_as_many_as_were_asked_for():
    scheme = AutoLR(trials=3)
    trainer = trainer_of(scheme, epochs=3)
    trainer.run()
    assert sum(entry["accepted"] for entry in scheme.record) == 3
    assert [entry["epoch"] for entry in scheme.record] == list(range(1, trainer.state.max_epochs + 1))
    thresholds = {entry["accepted_epochs"]: entry["threshold"] for entry in scheme.record}
    assert thresholds == pytest.approx({0: 0.94, 1: 0.94 * 0.99, 2: 0.94 * 0.99**2})


def test_a_trial_that_diverges_is_taken_back_and_repeated_at_a_tenth_of_its_rates():
    class Poison:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), self._spoil)

        def _spoil(self, engine):
            engine.network.two[0].weight.data.fill_(math.nan)

    scheme, watch = AutoLR(threshold=1e-9), Watch()
    trainer = trainer_of(watch, scheme, Poison(), epochs=1)
    trainer.run()
    assert sortedness(scheme) == [(0, False), (0, True)]
    assert math.isnan(scheme.record[0]["sorting_quality"])
    assert watch.rates[1] == pytest.approx({**dict.fromkeys(BLOCKS, 1e-4), "head": 0.01})
    assert all(bool(t.isfinite().all()) for t in trainer.network.state_dict().values())


class Killed(Exception):
    pass


def resumable(folder, epochs, die_in_epoch=None):
    scheme, watch = AutoLR(threshold=1.0, relaxation=0.99, trials=3), Watch()
    trainer = trainer_of(watch, scheme, epochs=epochs)
    objects = {"network": trainer.network, "optimizer": trainer.optimizer, "scheme": scheme}
    RunCheckpoints(folder, objects, latest_checkpoint(folder)).attach(trainer)

    def die(engine):
        if engine.state.epoch == die_in_epoch:
            raise Killed

    trainer.add_event_handler(Events.ITERATION_COMPLETED, die)
    trainer.run()
    return trainer, scheme, watch


def test_a_run_killed_in_any_trial_ends_as_if_it_had_not_been(tmp_path):
    straight, scheme, watch = resumable(tmp_path / "straight", 2)
    assert [entry["accepted"] for entry in scheme.record].count(False) >= 2
    for epoch in range(2, straight.state.epoch + 1):
        folder = tmp_path / str(epoch)
        with pytest.raises(Killed):
            resumable(folder, 2, die_in_epoch=epoch)
        resumed, resumed_scheme, later = resumable(folder, 2)
        assert resumed.state.epoch == resumed.state.max_epochs == straight.state.epoch
        assert resumed_scheme.record == scheme.record
        assert later.rates == watch.rates[epoch - 1 :]
        assert equal(resumed.network.state_dict(), straight.network.state_dict())
        assert all(map(torch.equal, later.momenta[-1], watch.momenta[-1]))


def test_a_finished_run_goes_on_to_more_epochs_but_not_to_fewer(tmp_path):
    straight, scheme, _ = resumable(tmp_path / "straight", 3)
    resumable(tmp_path / "stopped", 2)
    with pytest.raises(StateError, match="Ask for at least 2 epochs"):
        resumable(tmp_path / "stopped", 1)
    resumed, resumed_scheme, _ = resumable(tmp_path / "stopped", 3)
    assert resumed_scheme.record == scheme.record
    assert equal(resumed.network.state_dict(), straight.network.state_dict())


def test_a_network_with_less_than_two_blocks_to_order_is_refused():
    with pytest.raises(BlockError, match="0 of body, head would be ordered"):
        make_trainer([AutoLR()]).run()
    trainer = trainer_of(AutoLR())
    for block in (trainer.network.two, trainer.network.three):
        block.requires_grad_(False)
    with pytest.raises(BlockError, match="and 1 of stem, one, plain"):
        trainer.run()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("threshold", 1.1, "at most 1"),
        ("threshold", 0, "above 0"),
        ("relaxation", 2.0, "at most 1"),
        ("lowest_threshold", True, "at most 1"),
        ("head_rate", -0.1, "a number above 0"),
        ("head_rate", math.inf, "a number above 0"),
        ("low_target", "2", "a number above 0"),
        ("high_target", 0.0, "a number above 0"),
        ("trials", 0, "whole number"),
        ("trials", 2.0, "whole number"),
    ],
)
def test_values_out_of_range_are_refused(name, value, expected):
    with pytest.raises(OptionError, match=f"{name} is {value!r}; expected .*{expected}"):
        AutoLR(**{name: value})
