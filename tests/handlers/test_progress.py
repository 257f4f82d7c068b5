"""The bar: one over the whole run, and lines where there is no terminal."""

import io
import re

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from small_trainer import Net, items, make_trainer

from metalr_monai.handlers.progress import Progress


class Screen(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def screen(monkeypatch):
    def make(terminal):
        found = Screen(terminal)
        monkeypatch.setattr("sys.stderr", found)
        return found

    return make


def evaluator():
    scores = iter([0.25, 0.5, 0.75])
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items(2)), batch_size=2),
        network=Net(),
        key_val_metric={"dice": Average(lambda output: next(scores))},
    )


def test_a_log_file_gets_one_line_an_epoch_with_loss_metric_and_time_left(screen):
    text, validator = screen(terminal=False), evaluator()
    losses = []
    trainer = make_trainer([Progress("liver", validator), ValidationHandler(1, validator)], epochs=3)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: losses.append(f"{e.state.output[0]['loss']:.4g}"))
    trainer.run()
    lines = text.getvalue().splitlines()
    for line, epoch, loss, dice in zip(lines, (1, 2, 3), losses, ("0.2500", "0.5000", "0.7500"), strict=True):
        assert re.fullmatch(rf"liver: epoch {epoch}/3, loss {loss}, dice {dice} \[\d\d:\d\d<\d\d:\d\d\]", line)
    assert lines[-1].endswith("<00:00]")


def test_a_terminal_gets_one_bar_over_all_epochs(screen):
    text, validator = screen(terminal=True), evaluator()
    make_trainer([Progress("liver", validator), ValidationHandler(1, validator)], epochs=3).run()
    written = text.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n")
    assert re.match(r"\rliver:   0%\|", written) and " 0/15 [" in written
    last = written.rstrip("\n").split("\r")[-1]
    assert "15/15" in last and re.search(r"epoch 3/3, loss [\d.]+, dice 0\.7500", last)


def test_a_resumed_run_counts_from_where_it_was(screen):
    text = screen(terminal=True)
    trainer = make_trainer([Progress()], epochs=3)
    trainer.load_state_dict({"epoch_length": 5, "max_epochs": 3, "iteration": 10})
    trainer.run()
    assert "10/15" in text.getvalue().split("\r")[1] and "15/15" in text.getvalue()
