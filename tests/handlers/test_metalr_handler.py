"""The handler in a real MONAI trainer."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import LinearCyclicalScheduler
from monai.data import CacheDataset, DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler
from monai.transforms import EnsureTyped
from small_trainer import Net, items, make_trainer, record_cases
from torch import nn
from torch.utils.data import WeightedRandomSampler

import metalr_monai
from metalr_monai import MetaLRHandler
from metalr_monai.errors import ConflictError, EngineError, MetaDataError, OptionError, StateError
from metalr_monai.handlers.rate_history import RateHistoryHandler


def meta_loader(count=6, batch_size=2, **settings):
    return DataLoader(Dataset(items(count), EnsureTyped(("image", "label"))), batch_size=batch_size, **settings)


class Batches:
    """Records which cases training sees, in order, with the augmented images."""

    def attach(self, engine):
        self.cases, self.images = [], []
        engine.add_event_handler(Events.ITERATION_STARTED, self._record)

    def _record(self, engine):
        self.cases += list(engine.state.batch["case_id"])
        self.images.append(engine.state.batch["image"].as_tensor().clone())


SOURCES = {
    "training": {"meta": "training"},
    "count": {"meta": 4},
    "share": {"meta": 0.3},
    "loader": {"meta": meta_loader(shuffle=True)},
    "one pass": {"one_pass": True},
}


@pytest.mark.parametrize("name", SOURCES)
def test_rates_are_learned_from_every_source_of_meta_batches(name):
    handler = MetaLRHandler(**SOURCES[name])
    trainer = make_trainer([handler])
    trainer.run()
    held = {"count": 4, "share": 3}.get(name, 0)
    steps = 2 * -(-(10 - held) // 2)
    assert len(handler.tuner.history) == trainer.state.iteration == steps
    assert handler.tuner.counts["meta_steps"] == steps - (name == "one pass")
    assert all(rate != 1e-3 for rate in handler.tuner.lrs.values())
    assert handler.tuner.epoch == 2


@pytest.mark.parametrize("name", ["training", "loader", "one pass"])
@pytest.mark.parametrize("set_to_none", [False, True])
def test_with_beta_zero_training_is_what_it_is_without_the_handler_bit_for_bit(name, set_to_none):
    plain_batches, batches = Batches(), Batches()
    plain = make_trainer([plain_batches], optim_set_to_none=set_to_none)
    torch.manual_seed(3)
    plain.run()
    plain_random = torch.get_rng_state()

    handler = MetaLRHandler(**SOURCES[name], beta=0.0)
    tuned = make_trainer([handler, batches], optim_set_to_none=set_to_none)
    torch.manual_seed(3)
    tuned.run()

    assert batches.cases == plain_batches.cases
    assert all(torch.equal(a, b) for a, b in zip(batches.images, plain_batches.images, strict=True))
    assert torch.equal(torch.get_rng_state(), plain_random)
    for ours, theirs in zip(tuned.network.state_dict().values(), plain.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(tuned.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert handler.tuner.history.hypergradients.nansum() != 0


def test_a_schedule_is_made_for_the_batches_that_a_hold_out_leaves():
    asked = []

    def schedule_for(batches):
        asked.append(batches)
        return lambda step: 1e-3 * (1 - step / (2 * batches))

    handler = MetaLRHandler(meta=4, schedule_for=schedule_for, renormalize=True)
    make_trainer([handler], epochs=2).run()
    assert asked == [3]  # six cases are left of ten, two a batch
    assert handler.tuner.steps == 6
    assert handler.tuner.history.rates[-1].log().mean().exp() == pytest.approx(1e-3 / 6, rel=1e-6)


def test_two_schedules_are_refused():
    with pytest.raises(OptionError, match="schedule and schedule_for are both given; expected one of them"):
        MetaLRHandler(schedule=lambda step: 1e-3, schedule_for=lambda batches: lambda step: 1e-3)


def test_a_hold_out_is_disjoint_from_training_and_logged_by_case_name(caplog):
    caplog.set_level(logging.INFO)
    batches = Batches()
    handler = MetaLRHandler(meta=4, seed=3)
    trainer = make_trainer([handler, batches], epochs=3)
    drawn = record_cases(trainer)
    trainer.run()
    train, meta = (set(handler.split[part]) for part in ("train", "meta"))
    assert len(meta) == 4 and not train & meta and train | meta == {f"case_{i:02d}" for i in range(10)}
    assert set(batches.cases) == train and len(batches.cases) == 3 * 6
    assert {case for batch in drawn[1::2] for case in batch} == meta  # each training batch is followed by a meta batch
    assert f"4 items held out of 10: {', '.join(handler.split['meta'])}\n" in caplog.text
    assert MetaLRHandler(meta=4, seed=3) and _split_of(seed=3) == handler.split != _split_of(seed=4)


def test_the_log_names_the_first_few_cases_of_a_hold_out(caplog):
    caplog.set_level(logging.INFO)
    handler = MetaLRHandler(meta=7, meta_batch_size=2)
    make_trainer([handler], epochs=1).run()
    assert f"7 items held out of 10: {', '.join(handler.split['meta'][:5])} and 2 more\n" in caplog.text


def _split_of(seed):
    handler = MetaLRHandler(meta=4, seed=seed)
    make_trainer([handler])
    return handler.split


def test_the_meta_stream_is_another_stream_over_the_same_data():
    handler = MetaLRHandler(meta="training")
    trainer = make_trainer([handler], epochs=4)
    order = record_cases(trainer)
    trainer.run()
    training, meta = order[::2], order[1::2]
    assert {c for b in meta for c in b} == {c for b in training for c in b}
    assert sum(a == b for a, b in zip(training, meta, strict=True)) <= 2
    assert len(set(meta[:5])) == 5  # no stuck first batch


def test_the_start_says_what_will_be_tuned(caplog):
    caplog.set_level(logging.INFO)
    make_trainer([MetaLRHandler()], epochs=1).run()
    assert "MetaLR tunes:" in caplog.text
    for word in ("body", "head", "parameters", "0.001", "Meta batch: training data", "MetaLR learned:"):
        assert word in caplog.text


def test_gradient_accumulation_learns_once_an_optimizer_step():
    handler = MetaLRHandler()
    trainer = make_trainer([handler], accumulation_steps=2)
    trainer.run()
    assert trainer.state.iteration == 10
    assert handler.tuner.counts["meta_steps"] == 6  # 5 batches an epoch: two pairs and a flush


def test_gradient_clipping_is_in_the_step_that_is_judged():
    def clip(engine):
        nn.utils.clip_grad_norm_(engine.network.parameters(), 1e-4)

    class Clip:
        def attach(self, engine):
            engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, clip)

    handler = MetaLRHandler(beta=0.0)
    trainer = make_trainer([Clip(), handler], optimizer=torch.optim.SGD, epochs=1)
    trainer.run()
    clipped = handler.tuner.history.hypergradients.abs().max()
    handler = MetaLRHandler(beta=0.0)
    make_trainer([handler], optimizer=torch.optim.SGD, epochs=1).run()
    assert clipped < 1e-3 * handler.tuner.history.hypergradients.abs().max()


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")  # MONAI 1.6 still calls it
@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")  # amp=True on a CPU is a no-op
def test_amp_without_a_gpu_is_plain_training():
    histories = []
    for amp in (False, True):
        handler = MetaLRHandler()
        make_trainer([handler], amp=amp).run()
        histories.append(handler.tuner.history)
    assert histories[0].rates.tolist() == histories[1].rates.tolist()


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.*:FutureWarning")  # MONAI 1.6 still calls it
@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")  # and autocasts to "cuda" everywhere
@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=str)
def test_a_scaled_loss_gives_the_same_rates_and_a_skipped_step_none(options):
    class Scaler:
        """A real scaler where MONAI's is disabled without a GPU; the loss overflows at one iteration."""

        def __init__(self, overflow):
            self.overflow = overflow

        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self.start)
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.spoil)

        def start(self, engine):
            engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

        def spoil(self, engine):
            if self.overflow == engine.state.iteration:
                engine.state.output["loss"] = engine.state.output["loss"] * float("inf")

    def run(amp, overflow=None):
        handler = MetaLRHandler(**options)
        scaling = [Scaler(overflow)] if amp else []
        make_trainer([*scaling, handler], amp=amp, lr=5e-4, epochs=1).run()
        return handler.tuner

    plain, scaled, skipped = run(amp=False), run(amp=True), run(amp=True, overflow=3)
    torch.testing.assert_close(scaled.history.rates, plain.history.rates, rtol=1e-4, atol=0)
    assert len(plain.history) == len(scaled.history) == 5
    assert len(skipped.history) == 4 and skipped.counts["nonfinite"] == 0


@pytest.mark.filterwarnings("ignore:Will convert to PyTorch Tensor:UserWarning")  # MONAI says so at every iteration
def test_a_compiled_network_learns_the_same_rates():
    histories = []
    for compiled in (False, True):
        handler = MetaLRHandler()
        trainer = make_trainer([handler], compile=compiled, compile_kwargs={"backend": "eager"})
        trainer.run()
        histories.append(handler.tuner.history)
    torch.testing.assert_close(histories[0].rates, histories[1].rates, rtol=1e-5, atol=0)
    assert handler.tuner.blocks.parameter_names["head"] == ("head.weight", "head.bias")  # no _orig_mod


def test_a_frozen_block_stays_and_is_shown_as_such(caplog):
    caplog.set_level(logging.INFO)
    handler = MetaLRHandler()
    trainer = make_trainer([handler])
    for p in trainer.network.body.parameters():
        p.requires_grad_(False)
    before = [p.clone() for p in trainer.network.body.parameters()]
    trainer.run()
    assert all(torch.equal(p, q) for p, q in zip(trainer.network.body.parameters(), before, strict=True))
    frozen = {name: rate for name, rate in handler.tuner.lrs.items() if name.startswith("body")}
    assert set(frozen.values()) == {1e-3} and handler.tuner.lrs["head"] != 1e-3


def _step(engine, batch):
    """As a user writes it: the output is what it returns, and nobody else has it before."""
    engine.optimizer.zero_grad()
    loss = engine.loss_function(engine.inferer(batch["image"], engine.network), batch["label"])
    loss.backward()
    engine.optimizer.step()
    return {"loss": loss}


@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=str)
def test_a_step_of_the_users_own_learns_the_same_rates(options):
    histories = []
    for settings in ({}, {"iteration_update": _step}):
        handler = MetaLRHandler(**options)
        make_trainer([handler], **settings).run()
        histories.append(handler.tuner.history)
    assert len(histories[0]) == 10 and torch.equal(histories[0].rates, histories[1].rates)


def test_an_epoch_length_that_was_set_stays_with_a_hold_out():
    trainer = make_trainer([MetaLRHandler(meta=4)], epoch_length=4)  # ten items are five batches, and the rest three
    trainer.run()
    assert (trainer.state.epoch_length, trainer.state.iteration) == (4, 8)


def test_workers_draw_the_same_meta_batches():
    seen = []
    for workers in (0, 2):
        loader = meta_loader(shuffle=True, num_workers=workers)
        handler = MetaLRHandler(meta=loader)
        make_trainer([handler]).run()
        seen.append(handler.tuner.history.rates)
    assert torch.equal(*seen)


def test_a_weighted_sampler_of_the_meta_loader_is_kept():
    sampler = WeightedRandomSampler([0, 0, 0, 0, 0, 1], num_samples=6)
    handler = MetaLRHandler(meta=meta_loader(sampler=sampler))
    trainer = make_trainer([handler], epochs=1)
    cases = record_cases(trainer)
    trainer.run()
    assert {case for batch in cases[1::2] for case in batch} == {"case_05"}


@pytest.mark.filterwarnings("ignore:No rate has moved:RuntimeWarning")  # rounding to six decimals, a quirk, holds them
def test_the_reference_preset_judges_on_the_first_batch_always():
    handler = MetaLRHandler(preset="reference")
    trainer = make_trainer([handler], epochs=2)
    cases = record_cases(trainer)
    trainer.run()
    assert cases.count(("case_00", "case_01")) >= 10


# Resume


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("loader_first", [True, False])
def test_resuming_through_monais_checkpoints_is_exact(name, loader_first, tmp_path):
    def run(epochs, load=None):
        handler = MetaLRHandler(**SOURCES[name])
        trainer = make_trainer([handler], epochs=epochs)
        trainer.add_event_handler(
            Events.EPOCH_STARTED, _reseed
        )  # the training stream's own resuming is Ignite's affair
        objects = {
            "net": trainer.network,
            "opt": trainer.optimizer,
            "metalr": handler,
            "trainer": trainer,
        }
        CheckpointSaver(str(tmp_path), objects, save_interval=1, epoch_level=True).attach(trainer)
        if load:
            loader = CheckpointLoader(str(load), objects, strict=True)
            loader.attach(trainer)
            if loader_first:
                started = trainer._event_handlers[Events.STARTED]
                started.insert(0, started.pop())
        trainer.run()
        return trainer, handler

    straight, straight_handler = run(4)
    for file in tmp_path.glob("*.pt"):
        file.unlink()
    run(2)
    (checkpoint,) = tmp_path.glob("*epoch=2.pt")
    resumed, handler = run(4, load=checkpoint)

    assert resumed.state.iteration == straight.state.iteration
    for ours, theirs in zip(resumed.network.state_dict().values(), straight.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert handler.tuner.lrs == straight_handler.tuner.lrs
    ours, theirs = (list(map(repr, h.tuner.history.rows())) for h in (handler, straight_handler))
    assert ours == theirs


def _reseed(engine):
    torch.manual_seed(engine.state.epoch)
    dataset = engine.data_loader.dataset
    getattr(dataset, "dataset", dataset).transform.set_random_state(engine.state.epoch)


def test_resuming_with_another_meta_set_is_refused():
    first, second = MetaLRHandler(meta=4, seed=0), MetaLRHandler(meta=4, seed=1)
    trainer = make_trainer([first], epochs=1)
    trainer.run()
    make_trainer([second])
    with pytest.raises(StateError, match=r"meta set has 4 cases .*this run's 4.*same data, meta= and seed="):
        second.load_state_dict(first.state_dict())


# Bad input


def test_a_monai_scheduler_handler_is_refused_by_name():
    trainer = make_trainer([MetaLRHandler()])
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, step_size=1)
    LrScheduleHandler(scheduler, print_lr=False).attach(trainer)
    with pytest.raises(ConflictError, match="LrScheduleHandler with StepLR would overwrite"):
        trainer.run()
    assert trainer.state.iteration == 0


def test_schedulers_of_something_else_are_let_be():
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    trainer = make_trainer([MetaLRHandler()], epochs=1)
    scheduler = torch.optim.lr_scheduler.StepLR(other, step_size=1)
    LrScheduleHandler(scheduler, print_lr=False).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_STARTED, LinearCyclicalScheduler(other, "lr", 1e-3, 1e-4, 10))
    decay = LinearCyclicalScheduler(trainer.optimizer, "weight_decay", 1e-3, 1e-4, 10)
    trainer.add_event_handler(Events.ITERATION_STARTED, decay)
    other.step()
    trainer.run()
    assert trainer.state.iteration == 5


def test_an_ignite_scheduler_is_refused_by_name():
    trainer = make_trainer([MetaLRHandler()])
    scheduler = LinearCyclicalScheduler(trainer.optimizer, "lr", 1e-3, 1e-4, 10)
    trainer.add_event_handler(Events.ITERATION_STARTED, scheduler)
    with pytest.raises(ConflictError, match="LinearCyclicalScheduler would overwrite"):
        trainer.run()


def test_a_scheduler_stepped_from_elsewhere_is_refused_by_name():
    trainer = make_trainer([MetaLRHandler()])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(trainer.optimizer, 5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: scheduler.step())
    with pytest.raises(ConflictError, match="CosineAnnealingLR would overwrite"):
        trainer.run()


def test_an_evaluator_is_refused():
    with pytest.raises(EngineError, match="SupervisedEvaluator; expected a SupervisedTrainer"):
        SupervisedEvaluator(
            device=torch.device("cpu"), val_data_loader=meta_loader(), network=Net(), val_handlers=[MetaLRHandler()]
        )


@pytest.mark.parametrize(
    ("meta", "says"),
    [
        (0, "would be empty: 0 of 10"),
        (0.01, "would be empty: 0.01 of 10"),
        (10, "would take 10 of 10 cases and leave nothing"),
        (23, "would take 23 of 10"),
        (1.5, "expected a float between 0 and 1"),
        (1, "has 1 items, which is shorter than one batch of 2"),
        (True, "size is True"),
        (meta_loader(count=1), "has 1 items, which is shorter than one batch of 2"),
        (DataLoader(CacheDataset([], progress=False), batch_size=2), "data set is empty"),
    ],
)
def test_a_meta_set_that_cannot_be_is_refused_before_anything_runs(meta, says):
    with pytest.raises(MetaDataError, match=says):
        make_trainer([MetaLRHandler(meta=meta)])


def test_a_refused_hold_out_leaves_the_trainer_as_it_was():
    trainer = make_trainer([])
    loader, length = trainer.data_loader, trainer.state.epoch_length
    handler = MetaLRHandler(meta=1)
    with pytest.raises(MetaDataError, match="shorter than one batch"):
        handler.attach(trainer)
    assert trainer.data_loader is loader and trainer.state.epoch_length == length and handler.split is None


@pytest.mark.parametrize("size", [-1, 0, 2.5])
def test_a_meta_batch_size_that_cannot_be_is_refused(size):
    with pytest.raises(MetaDataError, match="meta_batch_size is"):
        make_trainer([MetaLRHandler(meta_batch_size=size)])


def test_one_handler_serves_one_trainer():
    handler = MetaLRHandler()
    make_trainer([handler])
    with pytest.raises(EngineError, match="belongs to another trainer"):
        make_trainer([handler])


@pytest.mark.parametrize("saver_first", [True, False])
def test_epochs_are_counted_alike_whatever_the_order_of_handlers(saver_first, tmp_path):
    def run(epochs, load=None):
        handler = MetaLRHandler(hold={"head": 2})
        trainer = make_trainer([], epochs=epochs)
        objects = {"opt": trainer.optimizer, "metalr": handler, "trainer": trainer}
        saver = CheckpointSaver(str(tmp_path), objects, save_interval=1, epoch_level=True, n_saved=1)
        for part in (saver, handler) if saver_first else (handler, saver):
            part.attach(trainer)
        if load is not None:
            CheckpointLoader(str(load), objects, strict=True).attach(trainer)
        trainer.run()
        return handler.tuner

    run(1)
    (checkpoint,) = tmp_path.glob("*.pt")
    tuner = run(3, load=checkpoint)
    held = [row[1] for row in tuner.history.rows() if row[tuner.history.columns.index("lr/head")] == 1e-3]
    assert [row[1] for row in tuner.history.rows()] == [0] * 5 + [1] * 5 + [2] * 5
    assert sorted(set(held)) == [0, 1] and tuner.epoch == 3


def test_a_machine_without_matplotlib_gets_its_rates_and_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    metalr = MetaLRHandler()
    make_trainer([metalr, RateHistoryHandler(metalr, tmp_path)], epochs=1).run()
    assert (tmp_path / "rates.csv").exists() and not (tmp_path / "rates.png").exists()
    assert "pip install metalr_monai[report]" in caplog.text


def test_options_are_checked_when_the_handler_is_made():
    with pytest.raises(OptionError, match="Did you mean beta"):
        MetaLRHandler(bata=0.1)
    with pytest.raises(OptionError, match="drop meta='training'"):
        MetaLRHandler(meta="training", one_pass=True)
    with pytest.raises(OptionError, match="expected 'training', a count"):
        MetaLRHandler(meta="held out")


def test_a_training_loader_with_a_sampler_of_its_own_cannot_be_split():
    network = Net()
    loader = meta_loader(sampler=WeightedRandomSampler([1.0] * 6, 6))
    with pytest.raises(MetaDataError, match=r"WeightedRandomSampler.*metalr_monai\.hold_out"):
        SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=loader,
            network=network,
            optimizer=torch.optim.SGD(metalr_monai.param_groups(network, "auto", 1e-3)),
            loss_function=nn.CrossEntropyLoss(),
            train_handlers=[MetaLRHandler(meta=2)],
        )


def test_iterables_need_a_meta_loader():
    handler = MetaLRHandler()
    engine = make_trainer([], epochs=1)
    engine.data_loader = [next(iter(engine.data_loader))]
    with pytest.raises(MetaDataError, match="is a list, not a DataLoader"):
        handler.attach(engine)


# Files


def test_rates_are_written_after_each_epoch_and_drawn_at_the_end(output_dir):
    metalr = MetaLRHandler(meta_every=2)
    trainer = make_trainer([metalr, RateHistoryHandler(metalr, output_dir)], epochs=2)
    texts = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: texts.append((output_dir / "rates.csv").read_text()))
    trainer.run()
    lines = texts[-1].splitlines()
    assert [len(text.splitlines()) for text in texts] == [1 + 5, 1 + 10]
    assert lines[0].startswith("step,epoch,meta_loss,lr/body") and lines[1].startswith("0,0,0.")
    assert float(lines[-1].split(",")[3]) == metalr.tuner.history.rates[-1, 0].item()
    assert lines[2].endswith(",,")  # no hypergradient at the second step
    assert (output_dir / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in output_dir.iterdir()) == ["rates.csv", "rates.png"]


def test_tensorboard_gets_every_step_by_block_name_and_a_resumed_run_adds_only_its_own(output_dir):
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="needs the extra 'track'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(epochs, load=None):
        writer = tensorboard.SummaryWriter(str(output_dir))
        metalr = MetaLRHandler(meta_every=2)
        trainer = make_trainer([metalr, RateHistoryHandler(metalr, output_dir, writer)], epochs=epochs)
        if load is not None:
            trainer.state.epoch, trainer.state.iteration = 1, 5
            trainer.optimizer.load_state_dict(load["opt"])
            metalr.load_state_dict(load["metalr"])
        trainer.run()
        writer.close()
        return {"opt": trainer.optimizer.state_dict(), "metalr": metalr.state_dict()}

    run(2, load=run(1))
    events = EventAccumulator(str(output_dir)).Reload()
    assert [e.step for e in events.Scalars("metalr/lr/head")] == list(range(10))
    assert [e.step for e in events.Scalars("metalr/h/head")] == [0, 2, 4, 6, 8]
    assert len((output_dir / "rates.csv").read_text().splitlines()) == 11


def test_rates_are_written_as_json_lines_too(tmp_path):
    metalr = MetaLRHandler(meta_every=2)
    make_trainer([metalr], epochs=1).run()
    metalr_monai.save_rates(metalr.tuner.history, tmp_path / "rates.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rates.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[4]["lr/head"] == metalr.tuner.lrs["head"] and rows[1]["h/head"] is None
    with pytest.raises(OptionError, match=r"rates\.xlsx ends in '\.xlsx'"):
        metalr_monai.save_rates(metalr.tuner.history, tmp_path / "rates.xlsx")


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path):
    history = metalr_monai.RateHistory(["a"])
    history.add(0, 0, 0.5, [1e-3], [0.1])
    metalr_monai.save_rates(history, tmp_path / "rates.csv")
    before = (tmp_path / "rates.csv").read_text()
    history.add(1, 0, 0.5, ["not a number"], [0.1])
    with pytest.raises(TypeError):
        metalr_monai.save_rates(history, tmp_path / "rates.csv")
    assert (tmp_path / "rates.csv").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rates.csv"]


@pytest.fixture
def output_dir(tmp_path):
    return tmp_path / "run"
