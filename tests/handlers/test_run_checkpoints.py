"""Runs that go on where their last whole epoch ended."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from small_trainer import make_trainer

from metalr_monai import EpochSeed, MetaLRHandler, RunCheckpoints, latest_checkpoint


class Killed(Exception):
    pass


def run(folder, epochs, die_at=None, **options):
    metalr = MetaLRHandler(**options)
    trainer = make_trainer([metalr, EpochSeed(3)], epochs=epochs, num_workers=2)
    objects = {"network": trainer.network, "optimizer": trainer.optimizer, "metalr": metalr}
    RunCheckpoints(folder, objects, latest_checkpoint(folder)).attach(trainer)

    class Die:
        def attach(self, engine):
            @engine.on(Events.ITERATION_COMPLETED(once=die_at or 10**6))
            def die():
                raise Killed

    Die().attach(trainer)
    trainer.run()
    return trainer, metalr


def test_a_run_that_died_amid_an_epoch_ends_as_if_it_had_not(tmp_path):
    straight, straight_metalr = run(tmp_path / "straight", 4)
    with pytest.raises(Killed):
        run(tmp_path / "broken", 4, die_at=13)
    assert latest_checkpoint(tmp_path / "broken").endswith("resume_checkpoint_2.pt")
    resumed, metalr = run(tmp_path / "broken", 4)
    for ours, theirs in zip(resumed.network.state_dict().values(), straight.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert metalr.tuner.lrs == straight_metalr.tuner.lrs
    assert torch.equal(metalr.tuner.history.rates, straight_metalr.tuner.history.rates)


def test_the_latest_checkpoint_is_the_one_of_the_highest_epoch(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "missing") is None
    for name in ("resume_checkpoint_9.pt", "resume_checkpoint_10.pt", "model.pt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path).endswith("_10.pt")


def test_old_checkpoints_are_removed(tmp_path):
    run(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"resume_checkpoint_{n}.pt" for n in (3, 4)]


def test_every_epoch_has_random_numbers_of_its_own():
    def images(seed):
        seen = []

        class Record:
            def attach(self, engine):
                engine.add_event_handler(
                    Events.ITERATION_STARTED, lambda e: seen.append(e.state.batch["image"].as_tensor().sum())
                )

        make_trainer([EpochSeed(seed), Record()], epochs=2).run()
        return torch.stack(seen)

    first, again, other = images(1), images(1), images(2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[:5], first[5:])


def test_a_checkpoint_that_could_not_be_written_leaves_the_last_whole_one(tmp_path, monkeypatch):
    run(tmp_path, 1)
    whole = (tmp_path / "resume_checkpoint_1.pt").read_bytes()
    original = torch.save

    def torn(content, file, *args, **kwargs):
        original(content, file, *args, **kwargs)
        file.flush()
        file.truncate(100)
        raise OSError("no space left on device")

    monkeypatch.setattr("torch.save", torn)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, 2)
    assert latest_checkpoint(tmp_path).endswith("_1.pt")
    assert (tmp_path / "resume_checkpoint_1.pt").read_bytes() == whole
