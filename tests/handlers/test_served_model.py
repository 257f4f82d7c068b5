"""The served model is replaced by a better one, and never lost. A network of one weight scores what it weighs."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from metalr_monai import ServedModel
from metalr_monai.errors import StateError

SERVED = 0.5


class Weight(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


def served(folder: Path, value: float = SERVED) -> Path:
    path = folder / "models/model.pt"
    path.parent.mkdir(exist_ok=True)
    torch.save(Weight(value).state_dict(), path)
    path.with_suffix(".json").write_text('{"width": 8}', encoding="utf-8")
    return path


def value_of(path: Path) -> float:
    return float(torch.load(path, weights_only=True)["value"])


def train(
    folder: Path, to: float, *, start: float = SERVED, validates: bool = True, done: bool = False, **options
) -> list[float]:
    """Two epochs that end at the weight `to`; the weights that the evaluator has seen.

    `done`: a checkpoint of their end is loaded, so that there is nothing to train any more.
    """
    network, seen = Weight(start), []
    evaluator = Engine(lambda _engine, _batch: None)

    def score(engine: Engine) -> None:
        seen.append(network.value.item())
        engine.state.metrics["dice"] = network.value.item()

    evaluator.add_event_handler(Events.COMPLETED, score)
    if validates:
        evaluator_run = evaluator.run
        evaluator.run = lambda: evaluator_run([0])

    def step(_engine: Engine, _batch: object) -> None:
        network.value.data += (to - start) / 2

    def load(engine: Engine) -> None:
        network.value.data.fill_(to)
        engine.state.epoch = engine.state.iteration = 2

    trainer = Engine(step)
    if done:
        trainer.add_event_handler(Events.STARTED, load)
    models, runs = folder / "models", folder / "runs"
    handler = ServedModel(
        network, models / "model.pt", evaluator if validates else None, "dice", runs, {"width": 8}, **options
    )
    handler.attach(trainer)
    trainer.run([0], max_epochs=2)
    return seen


@pytest.mark.parametrize("to", [0.75, SERVED])
def test_a_network_that_is_no_worse_takes_the_place_and_the_old_one_is_kept(tmp_path, to):
    path = served(tmp_path)
    assert train(tmp_path, to) == [SERVED, to]
    assert value_of(path) == to
    assert value_of(path.with_name("model_1.pt")) == SERVED
    assert path.with_name("model_1.json").read_text(encoding="utf-8") == '{"width": 8}'
    train(tmp_path, 0.875, start=to)
    assert value_of(path) == 0.875
    assert value_of(path.with_name("model_2.pt")) == to
    assert value_of(path.with_name("model_1.pt")) == SERVED


@pytest.mark.parametrize("to", [0.25, math.nan])
def test_a_worse_network_is_put_aside(tmp_path, to, caplog):
    path = served(tmp_path)
    train(tmp_path, to)
    assert value_of(path) == SERVED
    assert [file.name for file in path.parent.glob("*.pt")] == ["model.pt"]
    rejected = value_of(tmp_path / "runs/rejected_model.pt")
    assert rejected == to or math.isnan(to)
    assert "The served model stays" in caplog.text


def test_a_worse_network_takes_the_place_where_that_is_asked_for(tmp_path):
    path = served(tmp_path)
    train(tmp_path, 0.25, replace_if_worse=True)
    assert value_of(path) == 0.25
    assert value_of(path.with_name("model_1.pt")) == SERVED


def test_the_served_network_is_scored_also_where_training_begins_elsewhere(tmp_path):
    """Better than its own start, worse than what is served."""
    path = served(tmp_path)
    assert train(tmp_path, 0.375, start=0.125) == [SERVED, 0.375]
    assert value_of(path) == SERVED


def test_without_a_case_to_validate_the_new_network_takes_the_place(tmp_path, caplog):
    path = served(tmp_path)
    with caplog.at_level(logging.INFO):
        train(tmp_path, 0.25, validates=False)
    assert value_of(path) == 0.25
    assert value_of(path.with_name("model_1.pt")) == SERVED
    assert "unknown" in caplog.text


def test_the_first_network_is_just_written(tmp_path):
    train(tmp_path, 0.25)
    assert value_of(tmp_path / "models/model.pt") == 0.25
    assert not list((tmp_path / "models").glob("model_*.pt"))


def test_a_served_file_of_another_network_stops_the_training(tmp_path):
    path = served(tmp_path)
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(StateError, match="does not hold the weights of this network"):
        train(tmp_path, 0.75)
    assert set(torch.load(path, weights_only=True)) == {"conv.weight"}


@pytest.mark.parametrize(("to", "kept"), [(0.25, SERVED), (0.75, 0.75)])
def test_a_network_that_was_trained_already_is_scored_itself(tmp_path, to, kept):
    path = served(tmp_path)
    assert train(tmp_path, to, done=True) == [SERVED, to]
    assert value_of(path) == kept


@pytest.mark.parametrize("size", [0, 100])
def test_a_served_file_that_is_cut_short_stops_the_training_by_name(tmp_path, size):
    path = served(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StateError, match=r"model\.pt does not hold the weights of this network \(.*Put the right file"):
        train(tmp_path, 0.75)
    assert path.stat().st_size == size


@pytest.mark.parametrize("options", [{"validates": False}, {"replace_if_worse": True}])
def test_a_network_that_diverged_is_never_served(tmp_path, options):
    path = served(tmp_path)
    train(tmp_path, math.nan, **options)
    assert value_of(path) == SERVED
    assert math.isnan(value_of(tmp_path / "runs/rejected_model.pt"))
