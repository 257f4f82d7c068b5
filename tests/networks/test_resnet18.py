"""MONAI's ResNet-18, with dropout."""

from __future__ import annotations

import pytest
import torch
from monai.networks import nets

from metalr_monai import resnet18
from metalr_monai.errors import OptionError

SMALL = {"spatial_dims": 2, "n_input_channels": 1, "num_classes": 3, "widen_factor": 0.125}


def test_without_training_it_is_monais_network_key_for_key():
    torch.manual_seed(0)
    theirs = nets.resnet18(**SMALL).eval()
    ours = resnet18(dropout=0.5, **SMALL).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 1, 40, 40)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_dropout_acts_in_training_mode_of_its_own_module_alone():
    network = resnet18(dropout=0.5, **SMALL).eval()
    x = torch.randn(2, 1, 40, 40)
    assert torch.equal(network(x), network(x))
    network.fc.dropout.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("dropout", [-0.1, 1, "much", True])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(OptionError, match="0 ≤ dropout < 1"):
        resnet18(dropout=dropout, **SMALL)
