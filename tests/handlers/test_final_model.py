"""The trained network's file, and the settings beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from metalr_monai import FinalModel, trained_settings
from metalr_monai.errors import StateError

SETTINGS = {"classes": ["a", "b"], "mean": 0.25, "epochs": 3}


def finished(folder: Path, settings: dict[str, object] | None = None) -> Path:
    engine = Engine(lambda _engine, _batch: None)
    FinalModel(nn.Linear(2, 1), folder / "models/model.pt", settings).attach(engine)
    engine.run([0], max_epochs=1)
    return folder / "models/model.pt"


def test_the_network_is_written_alone_or_with_its_settings(tmp_path: Path) -> None:
    alone, both = finished(tmp_path / "alone"), finished(tmp_path / "both", SETTINGS)
    assert set(torch.load(alone, weights_only=True)) == {"weight", "bias"}
    assert [path.name for path in alone.parent.iterdir()] == ["model.pt"]
    assert json.loads(both.with_suffix(".json").read_text(encoding="utf-8")) == SETTINGS


def test_a_run_that_fails_leaves_the_old_settings(tmp_path: Path) -> None:
    path = finished(tmp_path, SETTINGS)

    def fail(_engine: Engine, _batch: object) -> None:
        raise ZeroDivisionError

    engine = Engine(fail)
    FinalModel(nn.Linear(2, 1), path, {"classes": ["c"]}).attach(engine)
    with pytest.raises(ZeroDivisionError):
        engine.run([0], max_epochs=1)
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == SETTINGS


def test_what_was_asked_for_comes_from_the_file_else_from_the_defaults(tmp_path: Path) -> None:
    path, defaults = finished(tmp_path, SETTINGS), {"classes": ["x"], "mean": 0.5, "std": 2.0}
    assert trained_settings(path, **defaults) == {"classes": ["a", "b"], "mean": 0.25, "std": 2.0}
    assert trained_settings(tmp_path / "other.pt", **defaults) == defaults


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_holds_no_settings_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(content, encoding="utf-8")
    with pytest.raises(StateError, match=r"model\.json"):
        trained_settings(tmp_path / "model.pt", mean=0.5)
