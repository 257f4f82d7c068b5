"""The liver CT bundle has what MONAI's tools ask for."""

from __future__ import annotations

from pathlib import Path

import monai.bundle
import pytest
import torch
from liver_ct_bundle import CONFIGS, METADATA, SCHEMA, TRAINING, WARNINGS, weights, workflow
from monai.utils import set_determinism

from metalr_monai import GenesisUNet3D

pytestmark = WARNINGS


@pytest.mark.parametrize("names", [["train.json"], ["train.json", "evaluate.json"], ["inference.json"]], ids="+".join)
def test_configs_have_all_properties(names: list[str], trained: Path, data: Path, tmp_path: Path) -> None:
    options = {"bundle_root": str(trained), "output_dir": str(tmp_path), "dataset_dir": str(data), **TRAINING}
    bundle = workflow(*names, kind="inference" if names == ["inference.json"] else "train", **options)
    try:
        bundle.initialize()
        assert bundle.check_properties() == []
    finally:
        set_determinism(None)


@pytest.mark.parametrize("name", ["train.json", "inference.json"])
def test_network_fits_the_metadata(name: str) -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def", meta_file=str(METADATA), config_file=str(CONFIGS / name), device="cpu", n=2, width=4
    )


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
def test_metadata_fits_monais_schema() -> None:
    pytest.importorskip("jsonschema")
    if not SCHEMA.is_file():
        pytest.skip(f"there is no {SCHEMA.name} beside the repository")
    monai.bundle.verify_metadata(meta_file=str(METADATA), filepath=str(SCHEMA))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the network's check of its input's shape
def test_checkpoint_exports_as_torchscript(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.ts"
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained / "models/model.pt"),
        meta_file=str(METADATA),
        config_file=str(CONFIGS / "inference.json"),
        use_trace=True,
        input_shape=[1, 1, 16, 16, 8],
        width=4,
    )
    network = GenesisUNet3D(width=4, batch_statistics="standard").eval()
    network.load_state_dict(weights(trained))
    patch = torch.randn(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.jit.load(file)(patch), network(patch))
