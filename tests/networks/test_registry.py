"""Which network a state dict is of, read from names and shapes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from monai.networks.nets import UNet, resnet18, resnet34, resnet50

import metalr_monai
from metalr_monai.errors import OptionError
from metalr_monai.networks.registry import NETWORKS, network_entry, network_kind

OPTIONS = {"genesis_unet3d": {"batch_statistics": "always"}, "resnet18": {}, "efficientnet_lite0": {}}
CASES = [
    ("genesis_unet3d", 1, 1, 4),
    ("genesis_unet3d", 3, 2, 6),
    ("resnet18", 3, 5, 16),
    ("resnet18", 1, 2, 8),
    ("efficientnet_lite0", 1, 3, 8),
]


@pytest.mark.parametrize(("name", "channels", "classes", "width"), CASES)
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_a_state_dict_is_recognised_with_its_sizes_behind_any_prefix(name, channels, classes, width, prefix):
    network = NETWORKS[name].build(channels, classes, width, **OPTIONS[name])
    kind = network_kind({prefix + key: tensor for key, tensor in network.state_dict().items()})
    assert dataclasses.astuple(kind) == (name, width, channels, classes, prefix)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recognised_network_can_be_built_again_from_what_was_read(name):
    entry = network_entry(name)
    network = entry.build(entry.contract.channels, 3, 8, **OPTIONS[name])
    kind = network_kind(network.state_dict())
    again = entry.build(kind.in_channels, kind.classes, kind.width, **OPTIONS[name])
    again.load_state_dict(network.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_contracts_patch_goes_through_the_network_and_its_blocks_fit(name):
    entry = network_entry(name)
    contract = entry.contract
    network = entry.build(contract.channels, 2, 8, **OPTIONS[name]).eval()
    assert all(side % contract.divisibility == 0 for side in contract.patch)
    with torch.no_grad():
        output = network(torch.zeros(1, contract.channels, *contract.patch))
    assert output.shape[:2] == (1, 2)
    assert len(metalr_monai.blocks(network, entry.blocks)) > 1
    assert contract.spacing or contract.spacing_note


def test_a_state_dict_without_a_head_has_no_number_of_classes():
    state = NETWORKS["genesis_unet3d"].build(1, 1, 4, batch_statistics="always").state_dict()
    kind = network_kind({name: tensor for name, tensor in state.items() if not name.startswith("out_tr")})
    assert kind.classes is None
    assert str(kind) == "Models Genesis 3D U-Net, width 4, 1 input channel, no head"


@pytest.mark.parametrize(
    "network",
    [
        lambda: resnet34(spatial_dims=2, n_input_channels=1, num_classes=2, widen_factor=1 / 16),
        lambda: resnet50(spatial_dims=2, n_input_channels=1, num_classes=2, widen_factor=1 / 16),
        lambda: resnet18(spatial_dims=3, n_input_channels=1, num_classes=2, widen_factor=1 / 16),
        lambda: UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,)),
    ],
)
def test_other_networks_are_not_mistaken_for_a_known_one(network):
    assert network_kind(network().state_dict()) is None


def test_the_genesis_contract_is_the_published_one_and_frozen():
    contract = NETWORKS["genesis_unet3d"].contract
    assert (contract.hu_window, contract.value_range) == ((-1000, 1000), (0, 1))
    assert (contract.patch, contract.divisibility, contract.channels) == ((64, 64, 32), 8, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        contract.channels = 2


def test_an_unknown_kind_names_the_near_ones():
    with pytest.raises(OptionError, match="Did you mean resnet18"):
        network_entry("resnet")
