"""Layers that may differ between a checkpoint and a network: the first convolution and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """How many channels the file's network and this one have at one end, where the two differ.

    Attributes:
        stem: input channels, (file's, network's), or None where they are equal.
        head: output channels such as classes, (file's, network's), or None where they are equal.
        head_layer: names of the head's tensors, weight and bias, or of none.
        convolutions: names of the weights that may take the network's input.
        layers: names of the weights of all convolutions and linear layers.
    """

    stem: tuple[int, int] | None
    head: tuple[int, int] | None
    head_layer: tuple[str, ...]
    convolutions: frozenset[str]
    layers: frozenset[str]

    def is_stem(self, name: str, old: Shape, new: Shape) -> bool:
        """Whether a weight differs in nothing but the image's channels (parallel first convolutions do likewise)."""
        return name in self.convolutions and len(old) == len(new) and _differences(old, new) == {1: self.stem}

    def is_head(self, old: Shape, new: Shape) -> bool:
        """Whether a tensor differs in nothing but the number of classes (a head may have several tensors)."""
        return len(old) == len(new) and set(_differences(old, new).values()) == {self.head}


def channels(network: nn.Module, names: Mapping[str, str], old: Mapping[str, Shape]) -> Channels:
    """Compare the ends of `network` with a file.

    The stem is the first convolution, the head the last convolution or linear layer, as the network registers them.

    Args:
        names: the network's own tensor names → canonical ones.
        old: shapes in the file, by canonical name.
    """
    layers = {
        names[f"{path}.weight"]: module
        for path, module in network.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear)) and f"{path}.weight" in names
    }
    convolutions = [
        name for name, layer in layers.items() if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd)
    ]
    stem, head = next(iter(convolutions), None), next(reversed(layers), None)
    return Channels(
        stem=_change(stem, layers, old, 1) if stem else None,
        head=_change(head, layers, old, int(isinstance(layers[head], _ConvTransposeNd))) if head else None,
        head_layer=(head, f"{head.removesuffix('weight')}bias") if head else (),
        convolutions=frozenset(convolutions),
        layers=frozenset(layers),
    )


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """A first convolution's weight, (C_out, C_old, k…), for another number of channels, (C_out, in_channels, k…).

    Every new channel gets the sum over the old ones, divided by `in_channels`: where all channels show the same
    image, the output stays what it was.
    """
    total = weight.sum(dim=1, keepdim=True) / in_channels
    return total.expand(-1, in_channels, *weight.shape[2:])


def _change(
    name: str, layers: Mapping[str, nn.Module], old: Mapping[str, Shape], dimension: int
) -> tuple[int, int] | None:
    weight = layers[name].weight
    if not isinstance(weight, Tensor) or name not in old or len(old[name]) != weight.dim():
        return None
    before, now = old[name][dimension], weight.shape[dimension]
    return (before, now) if before != now else None


def _differences(old: Shape, new: Shape) -> dict[int, tuple[int, int]]:
    return {i: (a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
