"""Pictures of what was restored: as many scans as there is room for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from torch import nn

from metalr_monai import RestoredPictures
from metalr_monai.pretraining import restored_pictures


def drawn(folder: Path, cases: list[str], monkeypatch: pytest.MonkeyPatch, count: int = 3) -> list[str]:
    """Which cases a real evaluator's run leaves in the picture, from the top."""
    items = [
        {"image": torch.full((1, 8, 6, 4), 0.5), "label": torch.ones(1, 8, 6, 4), "case_id": case} for case in cases
    ]
    evaluator = SupervisedEvaluator(torch.device("cpu"), DataLoader(items, batch_size=2), nn.Identity())
    RestoredPictures(folder, count).attach(evaluator)
    told: list[str] = []
    draw = restored_pictures.draw_rows
    monkeypatch.setattr(
        restored_pictures, "draw_rows", lambda rows, path: (told.extend(row.case for row in rows), draw(rows, path))
    )
    evaluator.run()
    return told


def test_each_scan_comes_first_and_more_of_one_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert drawn(tmp_path, ["a", "a", "a", "b"], monkeypatch) == ["a", "b", "a"]
    assert imread(tmp_path / "restored/restored.png").shape[0] > 300
    assert drawn(tmp_path, ["a", "b", "c", "d"], monkeypatch, 2) == ["a", "b"]


def test_a_volume_is_seen_from_the_feet_with_the_front_up() -> None:
    volume = torch.zeros(1, 5, 4, 3)  # to the right, to the front, upwards
    volume[0, 4, 3, 1] = 1
    picture = restored_pictures._middle(volume)
    assert picture.shape == (4, 5)
    assert np.argwhere(picture).tolist() == [[0, 0]]  # the patient's right front: above on the left
