"""What a network that restores deformed images is trained by."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RestorationLoss(nn.Module):
    """Mean squared error between the restored and the original images (Zhou et al., Models Genesis, MedIA 2021).

    Args of `forward`: logits of any shape, whose sigmoid is the restored image; the original, in [0, 1], of the same
    shape.

    Example:
        >>> RestorationLoss()(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
        tensor(0.)
    """

    def forward(self, logits: Tensor, original: Tensor) -> Tensor:
        """A scalar."""
        return nn.functional.mse_loss(torch.sigmoid(logits), original)
