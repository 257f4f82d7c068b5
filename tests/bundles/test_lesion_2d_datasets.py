"""The overlays of the data sets and sizes fit the 2D bundle and the readers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundle_runs import ROOT, rows
from lesion_2d_bundle import DATASETS, LESION, SMALL, TRAINING, WARNINGS
from pictures import CHEST_NAMES, chest_folder

from metalr_monai import check_settings, image_list
from metalr_monai.data.breast_ultrasound_phantom import write_busi_phantoms
from metalr_monai.data.image_lists import IMAGE_READERS

pytestmark = WARNINGS


def test_every_data_set_has_an_overlay() -> None:
    assert {path.stem for path in DATASETS.iterdir()} == set(IMAGE_READERS)


@pytest.mark.parametrize("kind", IMAGE_READERS)
def test_an_overlay_has_its_readers_classes(kind: str) -> None:
    parser = LESION.workflow("train.json", DATASETS / f"{kind}.yaml", device="cpu").parser
    assert parser.get_parsed_content("dataset_kind") == kind
    assert tuple(parser.get_parsed_content("classes")) == IMAGE_READERS[kind].classes
    check_settings(parser.get_parsed_content("settings"))
    assert parser.get_parsed_content("network_def").fc.out_features == len(IMAGE_READERS[kind].classes)


@pytest.mark.parametrize(("kind", "images"), [("pocus", 3 * 12), ("busi", 3)])  # classes × frames
def test_phantoms_are_written_where_no_data_are_named(kind: str, images: int, tmp_path: Path) -> None:
    options = {"bundle_root": str(tmp_path), "phantoms": 1, "device": "cpu"}
    folder = LESION.workflow("train.json", DATASETS / f"{kind}.yaml", **options).parser.get_parsed_content(
        "dataset_dir"
    )
    assert Path(folder) == tmp_path / "phantoms"
    assert len(image_list(kind, folder)) == images


def test_pictures_of_224_pixels_reach_the_network_at_that_size(frames: Path) -> None:
    overlay = ROOT / "configs/sizes/pictures_224.yaml"
    parser = LESION.workflow("train.json", overlay, device="cpu").parser
    path = str(next(frames.rglob("*.jpg")))
    for part in ("train", "validate"):
        assert parser.get_parsed_content(f"{part}#preprocessing")({"image": path})["image"].shape == (1, 224, 224)


def test_breast_phantoms_train_with_their_overlay_and_balanced_loss(tmp_path: Path) -> None:
    write_busi_phantoms(tmp_path / "busi", 8, size=32, progress=False)
    options = {**TRAINING, "split": "fold 1 of 2", "epochs": 1, "val_interval": 2, "meta": 4}
    LESION.run(
        "train.json",
        DATASETS / "busi.yaml",
        root=tmp_path,
        dataset_dir=str(tmp_path / "busi"),
        balanced=True,
        validation=0.3,
        **options,
    )
    found = rows(tmp_path / "runs/train/metrics.csv")
    split = json.loads((tmp_path / "runs/train/split.json").read_text(encoding="utf-8"))
    assert {row["case_id"] for row in found} == set(split["validation"])
    assert list(found[0])[-3:] == ["p_benign", "p_malignant", "p_normal"]


def test_chest_x_rays_train_on_their_published_parts(tmp_path: Path) -> None:
    chest_folder(tmp_path / "chest")
    options = {name: value for name, value in TRAINING.items() if name != "split"}
    options |= {"epochs": 1, "val_interval": 2, "meta": "training"}
    LESION.run(
        "train.json", DATASETS / "chest_xray.yaml", root=tmp_path, dataset_dir=str(tmp_path / "chest"), **options
    )
    found = rows(tmp_path / "runs/train/metrics.csv")
    assert len(found) == sum(len(names) for folder, names in CHEST_NAMES.items() if folder.startswith("test"))
    LESION.run(
        *("train.json", DATASETS / "chest_xray.yaml", "evaluate.json"),
        root=tmp_path,
        dataset_dir=str(tmp_path / "chest"),
        **SMALL,
    )
    assert {row["true"] for row in rows(tmp_path / "runs/evaluate/metrics.csv")} == {"NORMAL", "PNEUMONIA"}
