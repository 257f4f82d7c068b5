"""Runs that go on where their last whole epoch ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from ignite.engine import Events
from small_trainer import make_trainer

from metalr_monai import EpochSeed, FinalModel, MetaLRHandler, RunCheckpoints, each_case_once, latest_checkpoint
from metalr_monai.errors import DataError, StateError
from metalr_monai.files import atomic_path


class Killed(Exception):
    pass


def run(folder, epochs, die_at=None, settings=None, resume=True, num_workers=0):
    metalr = MetaLRHandler()
    trainer = make_trainer([metalr, EpochSeed(3)], epochs=epochs, num_workers=num_workers)
    objects = {"network": trainer.network, "optimizer": trainer.optimizer, "metalr": metalr}
    start = latest_checkpoint(folder, settings) if resume else None
    RunCheckpoints(folder, {**objects, "nothing": None}, start, settings=settings).attach(trainer)

    class Die:
        def attach(self, engine):
            @engine.on(Events.ITERATION_COMPLETED(once=die_at or 10**6))
            def die():
                raise Killed

    Die().attach(trainer)
    trainer.run()
    return trainer, metalr


def test_a_run_that_died_amid_an_epoch_ends_as_if_it_had_not(tmp_path):
    straight, straight_metalr = run(tmp_path / "straight", 4, num_workers=2)
    with pytest.raises(Killed):
        run(tmp_path / "broken", 4, die_at=13, num_workers=2)
    assert latest_checkpoint(tmp_path / "broken").endswith("resume_checkpoint_2.pt")
    resumed, metalr = run(tmp_path / "broken", 4, num_workers=2)
    for ours, theirs in zip(resumed.network.state_dict().values(), straight.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert metalr.tuner.lrs == straight_metalr.tuner.lrs
    assert torch.equal(metalr.tuner.history.rates, straight_metalr.tuner.history.rates)


class Scaling:
    """A GradScaler as MONAI's trainer makes one when it runs on a GPU, and its growth."""

    def attach(self, engine):
        engine.add_event_handler(Events.STARTED, self._make)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._grow)

    def _make(self, engine):
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        self._weight = torch.nn.Parameter(torch.ones(()))
        self._optimizer = torch.optim.SGD([self._weight], lr=0.0)

    def _grow(self, engine):
        engine.scaler.scale(self._weight * 1).backward()
        engine.scaler.step(self._optimizer)
        engine.scaler.update()


def test_the_loss_scale_goes_on_where_it_was(tmp_path):
    def scale(folder, epochs):
        trainer = make_trainer([Scaling()], epochs=epochs)
        RunCheckpoints(folder, {"network": trainer.network}, latest_checkpoint(folder)).attach(trainer)
        trainer.run()
        return trainer.scaler.state_dict()

    straight = scale(tmp_path / "straight", 4)
    early = scale(tmp_path / "broken", 2)
    assert scale(tmp_path / "broken", 4) == straight != early


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


def test_other_settings_are_refused_with_both_values(tmp_path):
    run(tmp_path, 2, settings={"lr": 0.1, "bounds": (1e-6, 1), "epochs": 2, "device": torch.device("cpu")})
    now = {"lr": 0.2, "bounds": [1e-6, 1], "epochs": 5, "seed": 1, "device": "cuda:0"}
    with pytest.raises(StateError) as caught:
        latest_checkpoint(tmp_path, now)
    says = "lr was 0.1 and is 0.2; seed was 'not set' and is 1. Give the old ones to go on, start anew with"
    assert f"{tmp_path / 'resume_checkpoint_2.pt'} was made with other settings: {says}" in str(caught.value)
    del now["seed"]
    assert latest_checkpoint(tmp_path, {**now, "lr": 0.1}).endswith("_2.pt")


def test_fewer_epochs_than_were_made_are_refused(tmp_path):
    run(tmp_path, 3)
    with pytest.raises(StateError, match=r"resume_checkpoint_3\.pt was made after epoch 3.* at least 3 epochs"):
        run(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"resume_checkpoint_{n}.pt" for n in (2, 3)]


def test_a_resumed_run_removes_the_checkpoints_of_the_run_before(tmp_path):
    run(tmp_path, 3)
    run(tmp_path, 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"resume_checkpoint_{n}.pt" for n in (3, 4)]


def test_a_run_that_starts_anew_is_not_resumed_from_the_one_before(tmp_path):
    run(tmp_path, 4)
    with pytest.raises(Killed):
        run(tmp_path, 4, die_at=2, resume=False)
    assert latest_checkpoint(tmp_path) is None


DISK_FULL_IN_EPOCH_2 = """
import resource, sys
import torch
from ignite.engine import Engine, Events
from metalr_monai import FinalModel, RunCheckpoints
network = torch.nn.Linear(100, 100)
engine = Engine(lambda e, b: None)
handlers = {"model": FinalModel(network, sys.argv[2]), "run": RunCheckpoints(sys.argv[2], {"network": network})}
handlers[sys.argv[1]].attach(engine)
limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
engine.add_event_handler(Events.EPOCH_STARTED(once=2), limit)
engine.run([0], max_epochs=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize(("kind", "file"), [("model", "model.pt"), ("run", "resume_checkpoint_1.pt")])
def test_a_file_that_could_not_be_written_whole_leaves_the_last_whole_one(kind, file, tmp_path):
    if kind == "model":
        torch.save({"old": torch.zeros(1)}, tmp_path / file)
    target = tmp_path / file if kind == "model" else tmp_path
    arguments = [sys.executable, "-c", DISK_FULL_IN_EPOCH_2, kind, str(target)]
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "File too large" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [file]
    assert set(torch.load(tmp_path / file, weights_only=True)) >= {"old" if kind == "model" else "network"}


def test_the_final_model_is_a_plain_state_dict_with_the_same_bytes_each_time(tmp_path):
    trainer = make_trainer([], epochs=1)
    for name in ("a", "b"):
        FinalModel(trainer.network, tmp_path / name / "model.pt").attach(trainer)
    trainer.run()
    saved = torch.load(tmp_path / "a/model.pt", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in trainer.network.state_dict().items())
    assert (tmp_path / "a/model.pt").read_bytes() == (tmp_path / "b/model.pt").read_bytes()


def test_a_run_that_failed_leaves_the_final_model_of_the_run_before(tmp_path):
    trainer = make_trainer([], epochs=1)
    FinalModel(trainer.network, tmp_path / "model.pt").attach(trainer)
    (tmp_path / "model.pt").write_bytes(b"the old one")

    @trainer.on(Events.ITERATION_COMPLETED)
    def die():
        raise Killed

    with pytest.raises(Killed):
        trainer.run()
    assert (tmp_path / "model.pt").read_bytes() == b"the old one"


def test_what_a_killed_process_left_of_a_file_goes_when_it_is_written_anew(tmp_path):
    stale, working, other = (tmp_path / name for name in (".a.csv.123", ".a.csv.456", ".b.a.csv.123"))
    for file in (stale, working, other):
        file.touch()
    for file in (stale, other):
        os.utime(file, (1, 1))
    with atomic_path(tmp_path / "a.csv") as temporary:
        temporary.touch()
    assert {p.name for p in tmp_path.iterdir()} == {"a.csv", working.name, other.name}


def test_more_processes_than_cases_are_refused_with_both_numbers():
    with pytest.raises(DataError, match=r"1 process\(es\) are to score 0 case\(s\), at least one each"):
        each_case_once([])
    assert list(each_case_once(["a", "b", "c"])) == [0, 1, 2]
