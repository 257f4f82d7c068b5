"""Networks of nnU-Net itself, converted: the same logits as nnU-Net's own code gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet
from nnunet_command import plans_and_dataset

from metalr_monai.errors import WeightsError
from metalr_monai.weights.from_nnunet import convert_nnunet

pytestmark = pytest.mark.filterwarnings("default")  # nnU-Net's own warnings are not ours
CONFIGURATION = "3d_fullres"


def built(plans: dict[str, Any], outputs: int) -> torch.nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    network: torch.nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        outputs,
        deep_supervision=False,
    )
    return network.eval()


def assert_equal_logits(nnunet: torch.nn.Module, converted: Path, settings: dict[str, Any], forward: list[int]) -> None:
    network = DynUNet(**settings["network_options"]).eval()
    network.load_state_dict(torch.load(converted, weights_only=True))
    volume = torch.randn(settings["patch_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = nnunet(volume.permute(2, 1, 0).permute(forward)[None, None])[0]
        found = network(volume[None, None])[0]
    back = [1 + forward.index(axis) for axis in (2, 1, 0)]
    torch.testing.assert_close(found, expected.permute(0, *back), rtol=1e-4, atol=1e-4)


def test_a_trained_network_gives_nnunets_logits(trained: Path, tmp_path: Path) -> None:
    settings = convert_nnunet(trained, tmp_path / "dynunet.pt", trust_pickle=True)
    content = torch.load(trained / "checkpoint_final.pth", weights_only=False)
    plans = content["init_args"]["plans"]
    network = built(plans, outputs=3)
    network.load_state_dict(content["network_weights"])
    assert_equal_logits(network, tmp_path / "dynunet.pt", settings, plans["transpose_forward"])
    assert settings["channels"] == ["background", "liver", "tumour"]
    assert settings["hu_window"][0] < settings["hu_window"][1]


@pytest.mark.parametrize("bias", [True, False])
def test_random_weights_in_an_anisotropic_network_do_too(nnunet: Path, tmp_path: Path, bias: bool) -> None:
    plans, dataset = plans_and_dataset(nnunet)
    configuration = plans["configurations"][CONFIGURATION]
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=4,
        features_per_stage=[4, 6, 8, 10],
        kernel_sizes=[[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[2, 2, 2, 2],
        n_conv_per_stage_decoder=[2, 2, 2],
        conv_bias=bias,
    )
    configuration["patch_size"] = [8, 32, 24]
    torch.manual_seed(0)
    network = built(plans, outputs=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    init_args = {"plans": plans, "configuration": CONFIGURATION, "dataset_json": dataset}
    checkpoint = {"network_weights": network.state_dict(), "init_args": init_args}
    torch.save(checkpoint, tmp_path / "checkpoint_final.pth")

    settings = convert_nnunet(tmp_path, tmp_path / "dynunet.pt", trust_pickle=True)
    assert_equal_logits(network, tmp_path / "dynunet.pt", settings, plans["transpose_forward"])
    assert settings["network_options"]["trans_bias"] == bias


def test_nnunets_checkpoint_is_not_read_without_trust(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="trust_pickle=True"):
        convert_nnunet(trained, tmp_path / "dynunet.pt")
