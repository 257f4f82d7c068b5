"""torchvision's resnet18 without torchvision: a file's names and shapes, and the forward pass written out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def state(classes: int = 1000) -> State:
    """Names and shapes of torchvision's file, without `num_batches_tracked` as in its oldest; random values."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    for stage, (old, new) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], start=1):
        for unit, first in ((0, old), (1, new)):
            name = f"layer{stage}.{unit}"
            shapes |= {f"{name}.conv1.weight": (new, first, 3, 3), **_norm(f"{name}.bn1", new)}
            shapes |= {f"{name}.conv2.weight": (new, new, 3, 3), **_norm(f"{name}.bn2", new)}
        if old != new:
            name = f"layer{stage}.0.downsample"
            shapes |= {f"{name}.0.weight": (new, old, 1, 1), **_norm(f"{name}.1", new)}
    shapes |= linear("fc", 512, classes)
    return random(shapes)


def linear(name: str, features: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, features), f"{name}.bias": (outputs,)}


def random(shapes: Mapping[str, tuple[int, ...]]) -> State:
    """Weights in ±0.05, everything else, variances among it, in 0.1 to 0.2."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) * 0.1 - (0.05 if len(shape) > 1 else -0.1)
        for name, shape in shapes.items()
    }


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def features(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, 512), in eval mode: the oracle."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = F.relu(norm(F.conv2d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for name in [f"layer{stage}.{unit}" for stage in (1, 2, 3, 4) for unit in (0, 1)]:
        shortcut, stride = x, 1
        if f"{name}.downsample.0.weight" in state:
            stride = 2
            shortcut = norm(F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=2), f"{name}.downsample.1")
        x = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
        x = F.relu(norm(F.conv2d(x, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2") + shortcut)
    return x.mean((2, 3))


def logits(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, classes), in eval mode."""
    return F.linear(features(state, x), state["fc.weight"], state["fc.bias"])
