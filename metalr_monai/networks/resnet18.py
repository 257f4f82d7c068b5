"""MONAI's ResNet-18 with dropout before its last layer, under the same parameter names."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from monai.networks import nets
from torch import Tensor, nn

from ..errors import OptionError


class DropoutLinear(nn.Linear):
    """A linear layer whose input passes a dropout; its parameters are called as those of `nn.Linear`."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__(in_features, out_features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, in_features) to (B, out_features)."""
        return F.linear(self.dropout(input), self.weight, self.bias)  # super() is no TorchScript


def resnet18(dropout: float = 0.0, **options: Any) -> nn.Module:  # noqa: ANN401 - MONAI's own
    """`monai.networks.nets.resnet18(**options)` with dropout before the last layer, as Monte Carlo dropout needs it.

    Args:
        dropout: probability, in [0, 1), with which each feature that enters the last layer is zeroed in training mode.

    Raises:
        OptionError: `dropout` is outside its range.

    Example:
        >>> network = resnet18(dropout=0.2, spatial_dims=2, n_input_channels=1, num_classes=3)
        >>> sorted(name for name in network.state_dict() if name.startswith("fc"))
        ['fc.bias', 'fc.weight']
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise OptionError(f"dropout is {dropout!r}; expected a probability, 0 ≤ dropout < 1: use 0.0 for none.")
    network: nn.Module = nets.resnet18(**options)
    plain = network.fc
    if not isinstance(plain, nn.Linear):
        raise OptionError("dropout goes before the last layer, and this network has none; drop feed_forward=False.")
    network.fc = DropoutLinear(plain.in_features, plain.out_features, dropout)
    network.fc.load_state_dict(plain.state_dict())
    return network
