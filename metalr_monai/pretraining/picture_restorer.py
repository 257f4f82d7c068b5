"""A classification network that learns to restore images: its layers as encoder, with a light decoder on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.nets import EfficientNet, ResNet
from monai.networks.nets.basic_unet import UpCat
from torch import Tensor, nn

from ..errors import OptionError

MOST_DOUBLINGS = 3  # of the decoder's channels
EXAMPLE = 64  # pixels a side, of a picture that shows how large the encoder's maps are


@dataclass(frozen=True)
class _Encoder:
    """The stages of a network up to its last map, and what lies behind them."""

    stages: Callable[[Any], Sequence[Callable[[Tensor], Tensor]]]
    unused: str


ENCODERS: dict[type[nn.Module], _Encoder] = {
    ResNet: _Encoder(
        lambda net: [
            lambda x: net.act(net.bn1(net.conv1(x))),
            nn.Identity() if net.no_max_pool else net.maxpool,
            *(net.layer1, net.layer2, net.layer3, net.layer4),
        ],
        "fc",
    ),
    EfficientNet: _Encoder(
        lambda net: [
            lambda x: net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(x)))),
            *net._blocks,
            lambda x: net._swish(net._bn1(net._conv_head(net._conv_head_padding(x)))),
        ],
        "_fc",
    ),
}


class PictureRestorer(nn.Module):
    """Pictures (B, C, H, W) in [0, 1] to the logits of the restored ones, of the same shape.

    The encoder's last map of each resolution goes into the decoder of a U-Net with few channels, as in the 2D form of
    Models Genesis (Zhou et al., MedIA 2021). `encoder` stays the network that it is: its state dict is what the
    fine-tuning loads. Its classifier is not used, and frozen.

    Args:
        encoder: MONAI's 2D `ResNet` or `EfficientNet`.
        channels: C.
        mean, std: what the fine-tuning normalises pictures by: the encoder is given (x − mean) / std.
        width: channels of the decoder's last map; they double with each level, up to 8 times as many.

    Raises:
        OptionError: another kind of network, or (in `forward`) sides that are no multiples of the encoder's stride.

    Example:
        >>> from monai.networks.nets import resnet18
        >>> encoder = resnet18(spatial_dims=2, n_input_channels=1, num_classes=3, conv1_t_stride=2)
        >>> PictureRestorer(encoder)(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(
        self, encoder: nn.Module, channels: int = 1, *, mean: float = 0.0, std: float = 1.0, width: int = 16
    ) -> None:
        super().__init__()
        known = next((kind for kind in ENCODERS if isinstance(encoder, kind)), None)
        if known is None:
            names = " or ".join(kind.__name__ for kind in ENCODERS)
            raise OptionError(f"The encoder is a {type(encoder).__name__}; expected MONAI's {names}.")
        self.encoder, self._kind, self._mean, self._std = encoder, ENCODERS[known], mean, std
        getattr(encoder, self._kind.unused).requires_grad_(False)  # or DistributedDataParallel waits for its gradient
        maps = _example_maps(self, channels)
        self._stride = EXAMPLE // maps[-1].shape[-1]
        skips = [found.shape[1] for found in reversed(maps[:-1])] + [0] * (maps[0].shape[-1] < EXAMPLE)
        outs = [width * 2 ** min(level, MOST_DOUBLINGS) for level in reversed(range(len(skips)))]
        self.decoder = nn.ModuleList(
            UpCat(2, given, skip, out, "relu", "batch", bias=False, upsample="nontrainable")
            for given, skip, out in zip([maps[-1].shape[1], *outs[:-1]], skips, outs, strict=True)
        )
        self.restored = nn.Conv2d(width, channels, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to logits (B, C, H, W)."""
        if any(side % self._stride for side in images.shape[2:]):
            sides = "×".join(map(str, images.shape[2:]))
            raise OptionError(f"The pictures have {sides} pixels; expected multiples of {self._stride}.")
        *skips, x = self.maps((images - self._mean) / self._std)
        for block in self.decoder:
            x = block(x, skips.pop() if skips else None)
        logits: Tensor = self.restored(x)
        return logits

    def maps(self, x: Tensor) -> list[Tensor]:
        """The encoder's last map of each resolution, the largest first."""
        first, *stages = self._kind.stages(self.encoder)
        x, found = first(x), []
        for stage in stages:
            after = stage(x)
            if after.shape[-1] < x.shape[-1]:
                found.append(x)
            x = after
        return [*found, x]


def _example_maps(restorer: PictureRestorer, channels: int) -> list[Tensor]:
    """The encoder's maps of a black picture; its batch statistics stay as they are."""
    was_training = restorer.encoder.training
    restorer.encoder.eval()
    with torch.no_grad():
        found = restorer.maps(torch.zeros(1, channels, EXAMPLE, EXAMPLE))
    restorer.encoder.train(was_training)
    return found
