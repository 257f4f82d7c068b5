"""What a classifier predicts for cases without labels: the table, and the pictures of what it looked at."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Activationsd
from torch import Tensor, nn

from metalr_monai import ActivationPictures, PredictionTable
from metalr_monai.errors import EngineError, OptionError

CLASSES = ["dark", "left", "right"]


class Halves(nn.Module):
    """Logits: 0, and the brightness of the left and of the right half."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.maps.weight, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.maps(x)[:, 0].chunk(2, dim=-1)
        return torch.stack([torch.zeros(len(x)), left.mean((1, 2)), right.mean((1, 2))], 1)


def item(name: str, left: float, right: float) -> dict[str, object]:
    image = torch.full((1, 4, 4), left)
    image[..., 2:] = right
    return {"image": MetaTensor(image), "case_id": name}


ITEMS = [item("ward/b", 2.0, 1.0), item("ward/a", -1.0, -3.0), item("c", 0.0, 5.0)]


def evaluate(handler: object, data: list[dict[str, object]] = ITEMS, **options: object) -> None:
    postprocessing = {"postprocessing": Activationsd("pred", softmax=True)}
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=Halves(),
        val_handlers=[handler],
        **{**postprocessing, **options},
    ).run()


def test_the_table_has_a_row_a_case_with_its_class_and_probabilities(tmp_path: Path) -> None:
    handler = PredictionTable(tmp_path / "new", CLASSES)
    evaluate(handler)
    with (tmp_path / "new/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["case_id", "predicted", "p_dark", "p_left", "p_right"]
    assert [row[:2] for row in rows[1:]] == [["c", "right"], ["ward/a", "dark"], ["ward/b", "left"]]
    found = np.array([row[2:] for row in rows[1:]], float)
    logits = torch.tensor([[0.0, 0, 5], [0, -1, -3], [0, 2, 1]])
    np.testing.assert_allclose(found, logits.softmax(1).numpy(), rtol=1e-6)


def test_a_second_run_replaces_the_table_and_one_that_fails_leaves_it(tmp_path: Path) -> None:
    handler, table = PredictionTable(tmp_path, CLASSES), tmp_path / "predictions.csv"
    evaluate(handler)
    evaluate(handler, ITEMS[:1])
    before = table.read_text(encoding="utf-8")
    assert len(before.splitlines()) == 2
    with pytest.raises(OptionError, match=r"Case ward/b: .* are not the probabilities"):
        evaluate(PredictionTable(tmp_path, CLASSES), postprocessing=None)
    assert table.read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_what_cannot_be_tabled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="for the classes dark, left"):
        evaluate(PredictionTable(tmp_path, CLASSES[:2]))
    with pytest.raises(OptionError, match="A case has no name"):
        evaluate(PredictionTable(tmp_path, CLASSES), [{"image": torch.zeros(1, 4, 4)}])
    with pytest.raises(EngineError, match="decollate"):
        evaluate(PredictionTable(tmp_path, CLASSES), decollate=False, postprocessing=None)
    assert not list(tmp_path.iterdir())


def test_pictures_keep_the_cases_folders_and_show_the_predicted_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'report'")
    from metalr_monai.handlers import activation_pictures

    original, texts = activation_pictures.draw_map, {}

    def noting(image: Tensor, map_: Tensor | None, title: str, text: str, path: Path) -> None:
        texts[title] = text
        original(image, map_, title, text, path)

    monkeypatch.setattr(activation_pictures, "draw_map", noting)
    evaluate(ActivationPictures(tmp_path, CLASSES))
    maps = tmp_path / "maps"
    assert sorted(path.relative_to(maps).as_posix() for path in maps.rglob("*.*")) == [
        "c.png",
        "ward/a.png",
        "ward/b.png",
    ]
    assert texts == {
        "c": "predicted right (0.99)",
        "ward/a": "predicted dark (0.71)",
        "ward/b": "predicted left (0.67)",
    }


def test_pictures_of_a_layer_that_is_not_there_are_refused_before_any_case(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'report'")
    with pytest.raises(OptionError, match=r"no layer 'map'\. Did you mean maps"):
        evaluate(ActivationPictures(tmp_path, CLASSES, layer="map"))
    assert not list(tmp_path.iterdir())
