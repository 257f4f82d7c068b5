"""The study files name bundles, overlays and keys that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))


def runs(study: dict[str, Any]) -> list[tuple[list[str], dict[str, Any]]]:
    """Overlays and keys of the source's run and of every scheme's."""
    found = [(study["source"]["overlays"], study["source"]["keys"])]
    for scheme in study["schemes"].values():
        found.append((study["overlays"] + scheme.get("overlays", []), study["keys"] | scheme.get("keys", {})))
    return found


def test_there_are_studies() -> None:
    assert STUDIES


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_overlays_are_there_and_keys_are_known(file: Path) -> None:
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    bundle = ROOT / "bundles" / study["bundle"] / "configs/train.json"
    for overlays, keys in runs(study):
        config = ConfigParser.load_config_files([str(bundle), *(str(ROOT / "configs" / name) for name in overlays)])
        assert set(keys) <= set(config)
        assert "all layers" in study["schemes"]  # what the others' times are compared with
