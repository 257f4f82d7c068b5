"""The 2D bundle refuses bad input before it trains."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import MetaLRError, own_error, refusal
from lesion_2d_bundle import LESION, SMALL, TRAINING, WARNINGS

from metalr_monai.errors import DataError, OptionError

pytestmark = WARNINGS


def refused(root: Path, **options: object) -> MetaLRError:
    return refusal(LESION, root, **{**TRAINING, **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dataset_kind": "busy"}, "dataset_kind is 'busy'; expected one of lits, msd, nnunet, pairs, pocus, busi"),
        ({"dataset_kind": "busy"}, "Did you mean busi?"),
        (
            {"dataset_kind": "busi"},
            "classes is ['covid19', 'pneumonia', 'regular']; expected ['benign', 'malignant', 'normal'] in this order, "
            "the classes of dataset_kind 'busi'",
        ),
        ({"classes": ["covid19", "regular", "pneumonia"]}, "in this order"),
        ({"classes": "covid19"}, "classes is 'covid19'; expected"),
        ({"channels": 2}, "channels is 2; expected 1 (grey) or 3 (RGB)"),
        ({"image_size": [64]}, "image_size is [64]; expected two whole numbers above 32"),
        ({"image_size": [64, 32]}, "image_size is [64, 32];"),
        ({"crop_scale": 1.5}, "crop_scale is 1.5;"),
        ({"std": 0}, "std is 0; expected a number above 0"),
        ({"mean": "grey"}, "mean is 'grey'; expected a number"),
        ({"validation": 1.0}, "validation is 1.0;"),
        ({"head_lr": 0.5}, "head_lr is 0.5, outside of bounds [1e-06, 0.01]"),
    ],
)
def test_a_setting_is_refused_by_its_name_before_data_are_looked_for(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    error = refused(tmp_path, dataset_dir=str(tmp_path / "nowhere"), **options)
    assert isinstance(error, OptionError)
    assert says in str(error)


def test_evaluation_refuses_the_classes_of_another_data_set(frames: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        LESION.run(
            *("train.json", "evaluate.json"), root=tmp_path, dataset_dir=str(frames), **{**SMALL, "classes": ["a", "b"]}
        )
    assert "the classes of dataset_kind 'pocus'" in str(own_error(caught.value))


def test_a_layout_without_phantoms_needs_a_folder(tmp_path: Path) -> None:
    error = refused(tmp_path, dataset_kind="chest_xray", classes=["NORMAL", "PNEUMONIA"], split="published")
    assert "There are no phantoms of kind 'chest_xray'; give dataset_dir" in str(error)


def test_a_folder_of_another_layout_is_told_with_what_was_expected(frames: Path, tmp_path: Path) -> None:
    error = refused(tmp_path, dataset_dir=str(frames), dataset_kind="busi", classes=["benign", "malignant", "normal"])
    assert isinstance(error, DataError)
    assert str(frames) in str(error) and "benign/benign (1).png" in str(error)


@pytest.fixture
def spoilt(frames: Path, tmp_path: Path) -> Path:
    """A copy whose first frame is cut off."""
    folder = Path(shutil.copytree(frames, tmp_path / "frames"))
    first = folder / "covid19/Cov-Phantom+(1).gif_frame0.jpg"
    first.write_bytes(first.read_bytes()[:200])
    return folder


@pytest.mark.parametrize("fold", [1, 2, 3])  # among the images to train on, or to score
def test_an_unreadable_image_is_named(fold: int, spoilt: Path, tmp_path: Path) -> None:
    error = refused(tmp_path, dataset_dir=str(spoilt), split=f"fold {fold} of 3")
    assert isinstance(error, DataError)
    assert "Cov-Phantom+(1).gif_frame0.jpg cannot be read as a picture" in str(error)


def test_a_video_in_two_parts_is_named(frames: Path, tmp_path: Path) -> None:
    cases = [path.relative_to(frames).with_suffix("").as_posix() for path in sorted(frames.rglob("*.jpg"))]
    test = [cases[0], *(case for case in cases if "(2)" in case)]
    split = tmp_path / "mine.json"
    split.write_text(json.dumps({"train": [case for case in cases if case not in test], "test": test}))
    error = refused(tmp_path, dataset_dir=str(frames), split=str(split))
    assert isinstance(error, DataError)
    assert "mine.json parts 1 group(s): Cov-Phantom+(1)" in str(error)
