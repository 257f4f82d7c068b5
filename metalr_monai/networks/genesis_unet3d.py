"""The 3D U-Net of Models Genesis, with its parameter names, so that the published weights load key for key."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metalr_monai.errors import OptionError

BatchStatistics = Literal["always", "standard"]

STRIDE: Final = 8  # three poolings by 2


class AlwaysBatchStatisticsNorm3d(nn.BatchNorm3d):
    """Batch norm that is in evaluation what `BatchNorm3d` is in training. Adds no state-dict keys.

    It normalises with the batch's statistics and updates the running ones, whatever the mode. Setting
    `track_running_stats = False` or `momentum = 0` holds the running statistics still, as in `BatchNorm3d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `input`, shape (B, C, H, W, D), each channel over (B, H, W, D)."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if torch.onnx.is_in_onnx_export():
                return self._spelled_out(input)
        momentum = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a plain average over all batches: torch.optim.swa_utils.update_bn asks for it
                momentum = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            input,
            self.running_mean if self.track_running_stats else None,
            self.running_var if self.track_running_stats else None,
            self.weight,
            self.bias,
            training=True,
            momentum=momentum or 0.0,
            eps=self.eps,
        )

    @torch.jit.unused
    def _spelled_out(self, input: Tensor) -> Tensor:
        """The same by its formula: the ONNX exporter would put the running statistics in place of the batch's."""
        variance, mean = torch.var_mean(input, dim=(0, 2, 3, 4), correction=0, keepdim=True)
        weight, bias = (tensor.view(1, -1, 1, 1, 1) for tensor in (self.weight, self.bias))
        return (input - mean) * torch.rsqrt(variance + self.eps) * weight + bias


_NORMS: Final[dict[str, type[nn.BatchNorm3d]]] = {"always": AlwaysBatchStatisticsNorm3d, "standard": nn.BatchNorm3d}


class UpBlock(nn.Module):
    """Up-convolution, concatenation with the skip, two convolution units."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, dropout: float, norm: type[nn.BatchNorm3d]
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout3d(dropout)
        self.up_conv = nn.ConvTranspose3d(in_channels, in_channels, kernel_size=2, stride=2)
        self.ops = _two_units(in_channels + skip_channels, out_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map `x`, (B, C_in, H/2, W/2, D/2), and `skip`, (B, C_skip, H, W, D), to (B, C_out, H, W, D)."""
        upsampled = self.up_conv(self.dropout(x))
        # Upsampled first: the published weights of the next convolution are in this order.
        features: Tensor = self.ops(torch.cat((upsampled, skip), dim=1))
        return features


class GenesisUNet3D(nn.Module):
    """The 3D U-Net of Models Genesis: images (B, C_in, H, W, D) to logits (B, C_out, H, W, D).

    State-dict keys are those of the published checkpoint without its `module.` prefix. The eight blocks are the
    children `down_tr64`, `down_tr128`, `down_tr256`, `down_tr512`, `up_tr256`, `up_tr128`, `up_tr64` and `out_tr`;
    they keep these names at any width. The original network ends in a sigmoid, this one in logits.

    With `batch_statistics="always"` the output for one image depends on the others in its batch, and each forward
    pass, in eval mode too, moves the running statistics. Between the two modes nothing but eval mode differs, and
    there they are different functions: say with each result which one was used.

    Args:
        in_channels: channels of the image, C_in; 1 in the published weights.
        out_channels: channels of the logits, C_out.
        width: channels of the first skip, a multiple of 2; all others are proportional. 64 is the original.
        dropout: probability, in [0, 1), with which each channel that enters an up-convolution is zeroed in training
            mode (`Dropout3d`). Encoder and skips, and so the pre-trained features, stay whole.
        batch_statistics: which statistics batch norm uses in eval mode. `"always"`: the batch's, as in the original
            network. `"standard"`: the running ones. Required, since neither is a safe guess.

    Raises:
        OptionError: an argument outside its range; in `forward`, an input of the wrong shape.

    References:
        Zhou et al., Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis, MICCAI 2019.
        Çiçek et al., 3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation, MICCAI 2016.

    Example:
        >>> import torch
        >>> network = GenesisUNet3D(out_channels=2, width=4, batch_statistics="always")
        >>> network(torch.zeros(1, 1, 16, 16, 8)).shape
        torch.Size([1, 2, 16, 16, 8])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 64,
        dropout: float = 0.0,
        *,
        batch_statistics: BatchStatistics,
    ) -> None:
        super().__init__()
        _check_count("in_channels", in_channels)
        _check_count("out_channels", out_channels)
        _check_width(width)
        _check_dropout(dropout)
        _check_batch_statistics(batch_statistics)
        self.in_channels = in_channels
        self.batch_statistics = batch_statistics
        norm = _NORMS[batch_statistics]
        w = width
        self.down_tr64 = _down_block(in_channels, w, norm)
        self.down_tr128 = _down_block(w, 2 * w, norm)
        self.down_tr256 = _down_block(2 * w, 4 * w, norm)
        self.down_tr512 = _down_block(4 * w, 8 * w, norm)
        self.up_tr256 = UpBlock(8 * w, 4 * w, 4 * w, dropout, norm)
        self.up_tr128 = UpBlock(4 * w, 2 * w, 2 * w, dropout, norm)
        self.up_tr64 = UpBlock(2 * w, w, w, dropout, norm)
        self.out_tr = nn.Sequential(OrderedDict(final_conv=nn.Conv3d(w, out_channels, kernel_size=1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `x`, shape (B, C_in, H, W, D) with H, W and D multiples of 8, to logits (B, C_out, H, W, D)."""
        # TorchScript has no types for the check; torch's stubs forget to export the function.
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            self._check_input(x)
        skip64 = self.down_tr64(x)
        skip128 = self.down_tr128(_halve(skip64))
        skip256 = self.down_tr256(_halve(skip128))
        bottom = self.down_tr512(_halve(skip256))
        features = self.up_tr256(bottom, skip256)
        features = self.up_tr128(features, skip128)
        features = self.up_tr64(features, skip64)
        logits: Tensor = self.out_tr(features)
        return logits

    def _check_input(self, x: Tensor) -> None:
        shape = tuple(x.shape)
        if len(shape) != 5:
            raise OptionError(
                f"the input has {len(shape)} dimensions, shape {shape}; GenesisUNet3D expects 5, (B, C, H, W, D): "
                "add a missing batch or channel dimension with unsqueeze"
            )
        if shape[1] != self.in_channels:
            raise OptionError(
                f"the input has {shape[1]} channels, shape {shape}; this GenesisUNet3D expects {self.in_channels}: "
                "select the image's channels, or build the network with the right in_channels"
            )
        size = shape[2:]
        if any(side < STRIDE or side % STRIDE for side in size):
            raise OptionError(
                f"the input has spatial size {size}; GenesisUNet3D expects positive multiples of {STRIDE}: "
                f"pad it to {tuple(_next_multiple(side) for side in size)}"
            )
        uses_batch = self.training or self.batch_statistics == "always"
        if uses_batch and shape[0] * prod(size) == STRIDE**3:
            # One value has no variance; torch would say so only deep inside, in terms of the bottleneck.
            raise OptionError(
                f"the input has shape {shape}, of which one voxel is left at the bottleneck; batch statistics expect "
                "at least two: use a larger patch or a larger batch"
            )


def _conv_unit(in_channels: int, out_channels: int, norm: type[nn.BatchNorm3d]) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
            bn1=norm(out_channels),
            relu=nn.ReLU(),
        )
    )


def _two_units(in_channels: int, between: int, out_channels: int, norm: type[nn.BatchNorm3d]) -> nn.Sequential:
    return nn.Sequential(_conv_unit(in_channels, between, norm), _conv_unit(between, out_channels, norm))


def _down_block(in_channels: int, out_channels: int, norm: type[nn.BatchNorm3d]) -> nn.Sequential:
    # The nesting is for the keys, `down_tr64.ops.0…`. Pooling is left to the network: skips are taken before it.
    return nn.Sequential(OrderedDict(ops=_two_units(in_channels, out_channels // 2, out_channels, norm)))


def _halve(x: Tensor) -> Tensor:
    return F.max_pool3d(x, kernel_size=2)


def _next_multiple(side: int) -> int:
    return max(STRIDE, -(-side // STRIDE) * STRIDE)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise OptionError(f"{name} is {value!r}; expected a positive integer: give the number of channels")


def _check_width(width: int) -> None:
    if not _is_count(width) or width % 2:
        raise OptionError(
            f"width is {width!r}; expected a positive multiple of 2, since the first convolution has width/2 channels: "
            "use 64 for the original network, a smaller even number for a narrower one"
        )


def _check_dropout(dropout: float) -> None:
    is_number = isinstance(dropout, (int, float)) and not isinstance(dropout, bool)
    if not is_number or not 0 <= dropout < 1:
        raise OptionError(f"dropout is {dropout!r}; expected a probability, 0 <= dropout < 1: use 0.0 for none")


def _check_batch_statistics(batch_statistics: object) -> None:
    if batch_statistics not in tuple(_NORMS):
        raise OptionError(
            f"batch_statistics is {batch_statistics!r}; expected 'always' (the batch's own in eval mode too, as the "
            "original network) or 'standard' (the running ones in eval mode): choose one, and use for a checkpoint "
            "the one it was evaluated with"
        )
