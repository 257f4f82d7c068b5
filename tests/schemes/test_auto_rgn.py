"""Auto-RGN in a real trainer, against a slow measurement."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.transforms import EnsureTyped
from small_trainer import items, make_trainer, record_cases
from torch import nn
from torch.utils.data import IterableDataset

import metalr_monai
from metalr_monai import AutoRGN, EpochSeed, RunCheckpoints, latest_checkpoint
from metalr_monai.errors import BlockError, MetaDataError, OptionError
from metalr_monai.schemes.auto_rgn import relative_gradient_norms

BLOCKS = {"first": ["body.0", "body.1"], "head": ["head"]}


class EpochRates:
    """The rates of each epoch's steps."""

    def attach(self, engine):
        self.rates = []
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)

    def _note(self, engine):
        self.rates.append({group["name"]: group["lr"] for group in engine.optimizer.param_groups})


def without_randomness(handlers, batch_size=10, network=None, **options):
    """All ten images in one batch, as they are, without dropout: what is measured can be computed anew."""
    trainer = make_trainer(handlers, **options)
    trainer.data_loader = DataLoader(Dataset(items(), EnsureTyped(("image", "label"))), batch_size=batch_size)
    trainer.state.epoch_length = 1
    trainer.network = network or trainer.network
    trainer.network.body[3].p = 0.0
    trainer.optimizer = torch.optim.SGD(metalr_monai.param_groups(trainer.network, BLOCKS, 0.1, {"head": 2.0}))
    return trainer


def literal_weights(network):
    """‖g‖/‖θ‖ by block on all images, tensor by tensor; batch norm's own two tensors are left out."""
    images = torch.stack([torch.as_tensor(item["image"]) for item in items()])
    labels = torch.tensor([int(item["label"]) for item in items()])
    network.train()
    network.zero_grad()
    nn.functional.cross_entropy(network(images), labels).backward()
    found = {}
    for block, layers in {"first": [network.body[0]], "head": [network.head]}.items():
        tensors = [p for layer in layers for p in (layer.weight, layer.bias)]
        gradient = torch.cat([p.grad.flatten() for p in tensors])
        found[block] = (gradient.norm() / torch.cat([p.detach().flatten() for p in tensors]).norm()).item()
    return found


def test_rates_are_relative_gradient_norms_of_the_blocks():
    rates = EpochRates()
    trainer = without_randomness([AutoRGN(batches=3), rates], epochs=1)
    weights = literal_weights(without_randomness([]).network)
    trainer.run()
    largest = max(weights.values())
    expected = {"first": 0.1 * weights["first"] / largest, "head": 0.2 * weights["head"] / largest}
    assert rates.rates[0] == pytest.approx(expected, rel=1e-5)
    assert min(weights.values()) < 0.9 * largest


def test_rates_are_measured_anew_each_epoch():
    rates = EpochRates()
    make_trainer([AutoRGN(), rates], epochs=3).run()
    assert len({tuple(epoch.values()) for epoch in rates.rates}) == 3
    assert all(max(epoch.values()) == 1e-3 for epoch in rates.rates)


@pytest.mark.parametrize(
    ("gradients", "weights", "expected"),
    [
        ([1.0, 4.0], [2.0, 2.0], [0.25, 1.0]),  # ½ and 2
        ([3.0, 3.0, 0.0], [1.0, 3.0, 1.0], [1.0, 1 / 3, 0.0]),
        ([1.0, 4.0, 1.0], [4.0, 2.0, 0.0], [0.125, 1.0, 1.0]),  # a block of zeros trains in full, and sets no scale
        ([1.0, 1.0], [0.0, 0.0], [1.0, 1.0]),
    ],
)
def test_weights_by_hand(gradients, weights, expected):
    assert relative_gradient_norms(torch.tensor(gradients), torch.tensor(weights)) == pytest.approx(expected)


class SameRates(AutoRGN):
    """Measures, and sets nothing."""

    def set_rates(self, rates):
        assert rates


def test_measuring_leaves_no_trace_in_training():
    def run(*schemes):
        trainer = make_trainer(list(schemes), epochs=2)
        cases = record_cases(trainer)
        torch.manual_seed(3)
        trainer.run()
        return trainer, cases, torch.get_rng_state()

    plain, plain_cases, plain_random = run()
    measured, cases, random = run(SameRates(batches=3))
    assert torch.equal(random, plain_random)
    assert cases[3:8] + cases[11:] == plain_cases  # three batches are measured before the five of an epoch
    for ours, theirs in zip(measured.network.state_dict().values(), plain.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(measured.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path):
    def run(folder, epochs):
        scheme, rates = AutoRGN(batches=2, seed=4), EpochRates()
        trainer = make_trainer([scheme, EpochSeed(3), rates], epochs=epochs)
        objects = {"network": trainer.network, "optimizer": trainer.optimizer, "scheme": scheme}
        RunCheckpoints(folder, objects, latest_checkpoint(folder)).attach(trainer)
        trainer.run()
        return trainer, rates.rates

    straight, rates = run(tmp_path / "straight", 4)
    run(tmp_path / "stopped", 2)
    resumed, later_rates = run(tmp_path / "stopped", 4)
    assert later_rates == rates[2:]
    for ours, theirs in zip(resumed.network.state_dict().values(), straight.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_frozen_block_is_not_measured_and_keeps_its_rate():
    rates = EpochRates()
    trainer = without_randomness([AutoRGN(batches=1), rates], epochs=1)
    for p in trainer.network.body.parameters():
        p.requires_grad_(False)
    trainer.run()
    assert rates.rates == [{"first": 0.1, "head": 0.2}]


def test_a_network_that_is_frozen_altogether_is_refused():
    trainer = make_trainer([AutoRGN()])
    trainer.network.requires_grad_(False)
    with pytest.raises(BlockError, match="all parameters are frozen"):
        trainer.run()


def test_rates_stay_where_no_gradient_is_finite(caplog):
    rates = EpochRates()
    trainer = make_trainer([AutoRGN(), rates], epochs=1)
    with torch.no_grad():
        trainer.network.head.bias.fill_(float("nan"))
    trainer.run()
    assert set(rates.rates[0].values()) == {1e-3}
    assert "no gradient was finite and above 0 in epoch 1" in caplog.text


def test_fewer_images_than_a_batch_are_measured_as_they_are_trained():
    rates = EpochRates()
    without_randomness([AutoRGN(batches=1), rates], batch_size=64, epochs=1).run()
    assert min(rates.rates[0].values()) < 0.1


@pytest.mark.filterwarnings("ignore:Will convert to PyTorch Tensor:UserWarning")  # MONAI says so at every iteration
def test_a_compiled_network_has_the_same_rates():
    found = []
    for compiled in (False, True):
        rates = EpochRates()
        make_trainer([AutoRGN(batches=1), rates], compile=compiled, compile_kwargs={"backend": "eager"}).run()
        found.append(rates.rates[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("batches", [0, -1, 2.0, True, None])
def test_a_wrong_number_of_batches_is_refused(batches):
    with pytest.raises(OptionError, match=f"batches is {batches}; expected a whole number"):
        AutoRGN(batches=batches)


def test_data_without_items_by_number_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(items())

    trainer = make_trainer([AutoRGN()])
    trainer.data_loader = torch.utils.data.DataLoader(Stream(), batch_size=2)
    with pytest.raises(MetaDataError, match="cannot be indexed in batches"):
        trainer.run()
    trainer = make_trainer([AutoRGN()])
    trainer.data_loader = list(trainer.data_loader)
    with pytest.raises(MetaDataError, match="is a list, not a DataLoader"):
        trainer.run()
