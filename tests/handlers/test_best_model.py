"""The network of the best validation is what is kept, and a run without progress ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanSquaredError, ValidationHandler, from_engine
from torch import nn

from metalr_monai import BestModel
from metalr_monai.errors import EngineError, OptionError

LEVELS = [5.0, 3.0, 4.0, 2.0, 6.0, 6.0, 6.0]  # of the weight after each epoch; the target is 0


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(9.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def training(
    folder: Path, levels: list[float] = LEVELS, patience: int | None = None, key_metric: bool = True
) -> tuple[SupervisedTrainer, BestModel, Weight]:
    """A real trainer whose weight is set to a level after each epoch, and validated."""
    network = Weight()
    optimizer = torch.optim.SGD(network.parameters(), 0.0)
    data = DataLoader([{"image": torch.ones(1, 2), "label": torch.zeros(1, 2)}], batch_size=1)
    cpu = torch.device("cpu")
    metric = {"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))} if key_metric else None
    evaluator = SupervisedEvaluator(
        cpu, data, network, key_val_metric=metric, metric_cmp_fn=lambda new, best: new < best
    )
    best = BestModel(network, optimizer, folder / "models/model.pt", evaluator, patience=patience, settings={"a": 1})
    trainer = SupervisedTrainer(cpu, len(levels), data, network, optimizer, nn.MSELoss())

    @trainer.on(Events.EPOCH_COMPLETED)
    def _(engine: Engine) -> None:
        network.weight.data.fill_(levels[engine.state.epoch - 1])

    best.attach(trainer)
    ValidationHandler(1, evaluator, exec_at_start=True).attach(trainer)
    return trainer, best, network


def test_the_best_epochs_network_is_kept(tmp_path: Path) -> None:
    trainer, _, _ = training(tmp_path)
    trainer.run()
    content = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert (content["epoch"], content["state_dict"]) == (4, {"module.weight": torch.tensor(2.0)})
    assert trainer.state.epoch == len(LEVELS)
    assert (tmp_path / "models/model.json").exists()


def test_the_run_ends_after_as_many_validations_without_progress(tmp_path: Path) -> None:
    trainer, _, _ = training(tmp_path, patience=2)
    trainer.run()
    assert trainer.state.epoch == 6


def test_a_resumed_run_knows_what_was_best(tmp_path: Path) -> None:
    trainer, best, _ = training(tmp_path, [2.0])
    trainer.run()
    trainer, again, _ = training(tmp_path, [5.0, 3.0], patience=2)
    again.load_state_dict(best.state_dict())
    trainer.run()
    assert torch.load(tmp_path / "models/model.pt", weights_only=True)["epoch"] == 1
    assert again.state_dict() == {"best": 4.0, "best_epoch": 1, "since": 2}


def test_the_validation_before_training_keeps_nothing(tmp_path: Path) -> None:
    trainer, best, _ = training(tmp_path, [99.0])
    trainer.run()
    assert torch.load(tmp_path / "models/model.pt", weights_only=True)["epoch"] == 1
    assert best.state_dict()["best"] == 99.0**2


def test_misuse_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="patience is 0"):
        training(tmp_path, patience=0)
    trainer, _, _ = training(tmp_path, key_metric=False)
    with pytest.raises(EngineError, match="key metric"):
        trainer.run()


def test_a_score_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    trainer, best, _ = training(tmp_path, [float("nan"), 3.0, float("inf")])
    trainer.run()
    assert best.state_dict() == {"best": 9.0, "best_epoch": 2, "since": 1}
