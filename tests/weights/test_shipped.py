"""The network that comes with the package is the one that was shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metalr_monai import GenesisUNet3D, genesis_small_file, load_weights
from metalr_monai.errors import WeightsError
from metalr_monai.weights import shipped


def test_it_fills_the_small_network_but_for_the_head() -> None:
    network = GenesisUNet3D(out_channels=2, width=8, batch_statistics="always")
    assert load_weights(network, genesis_small_file()).coverage_without_head == 1
    assert genesis_small_file().stat().st_size <= 5_000_000


def test_it_restores_what_was_deformed() -> None:
    network = GenesisUNet3D(width=8, batch_statistics="always")
    load_weights(network, genesis_small_file())
    content = torch.load(genesis_small_file(), weights_only=True)
    assert content["epoch"] >= 1


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "genesis_small.pt"
    changed.write_bytes(shipped.GENESIS_SMALL.read_bytes()[:-1] + b"\0\0")
    monkeypatch.setattr(shipped, "GENESIS_SMALL", changed)
    with pytest.raises(WeightsError, match=r"has been changed: its SHA-256 is [0-9a-f]{64}, and was [0-9a-f]{64}"):
        genesis_small_file()
    monkeypatch.setattr(shipped, "GENESIS_SMALL", tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        genesis_small_file()
