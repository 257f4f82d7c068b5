"""EfficientNet-Lite0 as its published file has it: names and shapes, and the forward pass written out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

# Repeats, kernel, stride of the first, expansion, channels: tensorflow/tpu, efficientnet_lite_builder.py
STACKS = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]
BLOCKS = [
    (kernel, stride if repeat == 0 else 1, expansion, channels)
    for repeats, kernel, stride, expansion, channels in STACKS
    for repeat in range(repeats)
]


def state(classes: int = 1000) -> dict[str, Tensor]:
    """All tensors but the counters, with random values of a size that keeps the signal alive."""
    shapes = {"_conv_stem.weight": (32, 3, 3, 3), **_norm("_bn0", 32)}
    before = 32
    for i, (kernel, _, expansion, channels) in enumerate(BLOCKS):
        block, inner = f"_blocks.{i}", before * expansion
        if expansion > 1:
            shapes |= {f"{block}._expand_conv.weight": (inner, before, 1, 1), **_norm(f"{block}._bn0", inner)}
        shapes |= {f"{block}._depthwise_conv.weight": (inner, 1, kernel, kernel), **_norm(f"{block}._bn1", inner)}
        shapes |= {f"{block}._project_conv.weight": (channels, inner, 1, 1), **_norm(f"{block}._bn2", channels)}
        before = channels
    shapes |= {"_conv_head.weight": (1280, before, 1, 1), **_norm("_bn1", 1280)}
    shapes |= {"_fc.weight": (classes, 1280), "_fc.bias": (classes,)}
    generator = torch.Generator().manual_seed(0)
    return {name: _random(name, shape, generator) for name, shape in shapes.items()}


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    fan_in = math.prod(shape[1:])
    return torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def logits(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, classes), in eval mode: the oracle."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = state[f"{name}.weight"].shape[-1]
        padding = []
        for size in (x.shape[-1], x.shape[-2]):  # TensorFlow's "SAME": the odd one goes to the right and below
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, padding), state[f"{name}.weight"], stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(norm(conv(x, "_conv_stem", stride=2), "_bn0"))
    for i, (_, stride, expansion, channels) in enumerate(BLOCKS):
        block, y = f"_blocks.{i}", x
        if expansion > 1:
            y = F.relu6(norm(conv(y, f"{block}._expand_conv"), f"{block}._bn0"))
        y = F.relu6(norm(conv(y, f"{block}._depthwise_conv", stride, groups=y.shape[1]), f"{block}._bn1"))
        y = norm(conv(y, f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if stride == 1 and x.shape[1] == channels else y
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    return F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
