"""EfficientNet-Lite0: the published network, from the published names."""

from __future__ import annotations

import efficientnet_lite0_file
import pytest
import torch
from monai.networks.nets.efficientnet import MBConvBlock
from torch import nn

import metalr_monai
from metalr_monai.errors import OptionError
from metalr_monai.networks.efficientnet_lite0 import EfficientNetLite0
from metalr_monai.networks.registry import NETWORKS


@pytest.mark.parametrize("size", [64, (96, 32)])
def test_it_computes_what_the_published_network_is_written_to_compute(size):
    state = efficientnet_lite0_file.state()
    network = EfficientNetLite0().eval()
    metalr_monai.load_weights(network, state)
    x = torch.rand(2, 3, *([size] * 2 if isinstance(size, int) else size), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(x)
    expected = efficientnet_lite0_file.logits(state, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_has_as_many_parameters_as_the_published_file():
    assert sum(p.numel() for p in EfficientNetLite0().parameters()) == 4_652_008


def test_nothing_of_b0_is_left_in_it():
    network = EfficientNetLite0(width=8)
    assert not any("_se_" in name for name in network.state_dict())
    activations = [network._swish, *(block._swish for block in network.modules() if isinstance(block, MBConvBlock))]
    assert len(activations) == 17 and all(isinstance(activation, nn.ReLU6) for activation in activations)


@pytest.mark.parametrize("width", [0, 4, 12, -8])
def test_a_width_that_would_be_rounded_is_refused(width):
    with pytest.raises(OptionError, match=f"width is {width}; expected a multiple of 8"):
        EfficientNetLite0(width=width)


def test_its_blocks_are_stem_seven_stacks_last_convolution_and_classifier():
    blocks = metalr_monai.blocks(EfficientNetLite0(1, 3, 8), "efficientnet_lite0")
    assert blocks.names == ("conv_stem", *(f"blocks.{i}" for i in range(7)), "conv_head", "fc")
    assert blocks.parameter_names["conv_stem"] == ("_conv_stem.weight", "_bn0.weight", "_bn0.bias")
    assert blocks.parameter_names["fc"] == ("_fc.weight", "_fc.bias")


def test_it_trains():
    torch.manual_seed(0)
    network = EfficientNetLite0(1, 3, 8)
    optimizer = torch.optim.Adam(metalr_monai.param_groups(network, "efficientnet_lite0", 1e-3, {"fc": 10}))
    x, y = torch.rand(6, 1, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_it_can_be_scripted():
    network, x = EfficientNetLite0(1, 3, 8).eval(), torch.rand(2, 1, 64, 64)
    scripted = torch.jit.script(network)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), network(x))


def test_its_contract_is_that_of_the_original_code():
    contract = NETWORKS["efficientnet_lite0"].contract
    assert (contract.channels, contract.patch, contract.divisibility) == (3, (224, 224), 32)
    assert contract.mean == pytest.approx([0.498, 0.498, 0.498], abs=5e-4)
    assert contract.std == pytest.approx([0.502, 0.502, 0.502], abs=5e-4)
