"""A small real study: three schemes of the lesion bundle, one of which searches, on generated pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from metalr_monai.study.definition import Study
from metalr_monai.study.study import run_study
from metalr_monai.study.study_file import read_study

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "title": "A small study",
    "bundle": "lesion_2d_classification",
    "baseline": "all layers",
    "scratch": "from scratch",
    "seeds": 1,
    "inner_validation": 0.3,
    "source": {
        "phantoms": {"kind": "busi", "count": 6},
        "overlays": ["datasets/busi.yaml", "sizes/smoke_pictures.json", "schemes/all_layers.json"],
        "keys": {"epochs": 1, "val_interval": 1},
    },
    "phantoms": {"kind": "pocus", "count": 4},
    "overlays": ["sizes/smoke_pictures.json"],
    "keys": {"epochs": 2, "val_interval": 1, "meta": 0.3, "split": "fold 1 of 3"},
    "scores": {"accuracy": "accuracy.value"},
    "schemes": {
        "from scratch": {"overlays": ["schemes/all_layers.json"], "pretrained": False},
        "all layers": {"overlays": ["schemes/all_layers.json"]},
        "tuned rate": {"overlays": ["schemes/all_layers.json"], "search": {"lr": [1e-6, 3e-3]}},
    },
}


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study as read from a file beside links to the repository's configs and bundles."""
    return study_in(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def finished(small_study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study after a run; tests that change it work on a copy."""
    output = tmp_path_factory.mktemp("finished")
    outcome = run_study(small_study, output, command="study", workers=2)
    assert list(outcome.failures) == []
    return output


def study_in(place: Path, **changes: object) -> Study:
    """`SMALL` with changes, without what they set to None, written and read."""
    studies = place / "configs/studies"
    studies.mkdir(parents=True)
    for name in ("schemes", "datasets", "sizes"):
        (place / "configs" / name).symlink_to(ROOT / "configs" / name)
    (place / "bundles").symlink_to(ROOT / "bundles")
    content = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    (studies / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_study(studies / "small.yaml")
