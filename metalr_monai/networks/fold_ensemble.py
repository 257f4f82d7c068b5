"""Several networks, and mirrored images, as one network: the mean of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import torch
from torch import Tensor, nn

from ..errors import OptionError


class FoldEnsemble(nn.Module):
    """The mean logits of networks, such as those of the folds, over an image and its mirror images.

    The mean is linear, so a sliding window over the ensemble is the mean of sliding windows over each. Every network
    is given every mirror image in a pass of its own: one in memory at a time, and none in another's batch statistics.
    Logits are summed in float32 at least.

    Args:
        networks: images (B, C, H, W[, D]) to logits (B, C', H, W[, D]), all of the same shape.
        mirror_axes: spatial axes, 0 … 2; the image is mirrored along each set of them, so n axes cost 2^n passes.

    Raises:
        OptionError: there are no networks, or the axes are no such numbers, or one is named twice.

    References:
        Isensee et al., nnU-Net, Nature Methods 2021, which mirrors and averages so.
    """

    def __init__(self, networks: Sequence[nn.Module], mirror_axes: Sequence[int] = ()) -> None:
        super().__init__()
        if not len(networks):
            raise OptionError("networks is empty; expected at least one to average over.")
        if len(set(mirror_axes)) != len(mirror_axes) or not set(mirror_axes) <= {0, 1, 2}:
            raise OptionError(f"mirror_axes is {list(mirror_axes)}; expected some of 0, 1 and 2, each once at most.")
        self.networks = nn.ModuleList(networks)
        axes = [axis + 2 for axis in mirror_axes]  # after batch and channels
        self._mirrors = [list(some) for count in range(len(axes) + 1) for some in combinations(axes, count)]

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, H, W[, D]) to mean logits (B, C', H, W[, D])."""
        passes = [(network, dims) for dims in self._mirrors for network in self.networks]
        total: Tensor = reduce(torch.add, (_logits(network, image, dims) for network, dims in passes))
        return total / len(passes)


def _logits(network: nn.Module, image: Tensor, dims: list[int]) -> Tensor:
    """Of the mirror image, mirrored back."""
    logits: Tensor = network(image.flip(dims)).flip(dims) if dims else network(image)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
