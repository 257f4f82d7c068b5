"""The liver CT bundle refuses bad input before it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from liver_ct_bundle import TRAINING, WARNINGS, own_error, run

from metalr_monai import GenesisUNet3D
from metalr_monai.errors import DataError, WeightsError

pytestmark = WARNINGS


def test_missing_data_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=tmp_path, dataset_dir=str(missing), **TRAINING)
    error = own_error(caught.value)
    assert isinstance(error, DataError)
    assert str(missing) in str(error)


def test_checkpoint_of_another_network_stops_before_training(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    torch.save(GenesisUNet3D(width=8, batch_statistics="standard").state_dict(), other)
    with pytest.raises(RuntimeError) as caught:
        run("train.json", root=tmp_path, dataset_dir=str(data), checkpoint=str(other), **TRAINING)
    error = own_error(caught.value)
    assert isinstance(error, WeightsError)
    assert "other.pt" in str(error)
    assert not (tmp_path / "runs").exists()
