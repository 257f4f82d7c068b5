"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6, small enough for a CPU."""

from __future__ import annotations

from typing import Final

from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from torch import nn

from ..errors import OptionError

STEM_WIDTH: Final = 32
DIVISIBILITY: Final = 32  # five convolutions of stride 2

_STACKS: Final = [
    "r1_k3_s11_e1_i32_o16",
    "r2_k3_s22_e6_i16_o24",
    "r2_k5_s22_e6_i24_o40",
    "r3_k3_s22_e6_i40_o80",
    "r3_k5_s11_e6_i80_o112",
    "r4_k5_s22_e6_i112_o192",
    "r1_k3_s11_e6_i192_o320",
]
"""Repeats, kernel, stride, expansion, input and output channels of each stack, in MONAI's notation."""

# torch.jit.script wants them to be there, although no forward pass comes to them.
_SQUEEZE_AND_EXCITATION: Final = (
    "_se_adaptpool",
    "_se_reduce",
    "_se_reduce_padding",
    "_se_expand",
    "_se_expand_padding",
)


class EfficientNetLite0(EfficientNet):  # type: ignore[misc]  # MONAI is untyped
    """MONAI's EfficientNet with the settings of Lite0; (B, in_channels, H, W) → logits (B, num_classes).

    Convolutions are padded as TensorFlow's "SAME" pads them where H and W are multiples of 32. Dropout before the
    last layer is 0.2, and each residual branch is dropped with a probability that rises with depth to 0.2.

    Args:
        in_channels: channels of the image; 3 in the published weights.
        num_classes: channels of the output; 1000 in the published weights.
        width: channels of the first convolution, a multiple of 8; 32 in the published weights. All others scale
            with it, rounded to multiples of 8.

    Raises:
        OptionError: `width` is not a multiple of 8.

    Sources: Tan & Le 2019 (arXiv 1905.11946); tensorflow/tpu, models/official/efficientnet/lite.

    Example:
        >>> import torch
        >>> network = EfficientNetLite0(in_channels=1, num_classes=3, width=8).eval()
        >>> network(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 3])
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 1000, width: int = STEM_WIDTH) -> None:
        if width < 8 or width % 8:
            raise OptionError(f"width is {width!r}; expected a multiple of 8, such as {STEM_WIDTH}.")
        super().__init__(
            _STACKS, in_channels=in_channels, num_classes=num_classes, width_coefficient=width / STEM_WIDTH
        )
        self._swish = nn.ReLU6(inplace=True)
        for block in self.modules():
            if isinstance(block, MBConvBlock):
                block._swish = nn.ReLU6(inplace=True)
                for name in _SQUEEZE_AND_EXCITATION:
                    setattr(block, name, nn.Identity())
