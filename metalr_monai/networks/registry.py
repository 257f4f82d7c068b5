"""Checkpoint kind → how to build its network, what its input must look like, and its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from monai.networks.nets import resnet18
from torch import Tensor, nn

from ..errors import OptionError, near_misses
from .efficientnet_lite0 import DIVISIBILITY, STEM_WIDTH, EfficientNetLite0
from .genesis_unet3d import STRIDE, BatchStatistics, GenesisUNet3D


@dataclass(frozen=True)
class InputContract:
    """What the weights were trained on, and so what they expect.

    Attributes:
        channels: channels of the image.
        hu_window: HU clipped to this range and then scaled linearly to `value_range`; None where there are no HU.
        value_range: lowest and highest value after scaling.
        mean: subtracted after scaling, a value per channel; None where nothing is.
        std: divided by after that; None where nothing is.
        patch: size in voxels or pixels.
        spacing: mm per axis, or None; then `spacing_note` says why.
        divisibility: each side of the input must be a multiple of it.
    """

    channels: int
    hu_window: tuple[float, float] | None
    value_range: tuple[float, float]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    patch: tuple[int, ...]
    spacing: tuple[float, ...] | None
    spacing_note: str
    divisibility: int


@dataclass(frozen=True)
class NetworkEntry:
    """One kind of checkpoint.

    Attributes:
        title: what it is called in reports.
        build: the network, `build(in_channels, classes, width, **options)`.
        width: of the published weights.
        blocks: name of the preset that `metalr_monai.blocks` takes.
        contract: input of the published weights.
        stem: name of the first convolution's weight, (C_out, C_in, k…).
        head: name of the last layer's weight, (classes, C_in, …).
        signature: names that tell the kind, with the number of dimensions.
        absent: names that would tell a deeper network of the same family.
        width_per_stem: width ÷ output channels of the first convolution.
    """

    title: str
    build: Callable[..., nn.Module]
    width: int
    blocks: str
    contract: InputContract
    stem: str
    head: str
    signature: Mapping[str, int]
    absent: tuple[str, ...]
    width_per_stem: int


@dataclass(frozen=True)
class NetworkKind:
    """What a state dict's names and shapes say of its network.

    Attributes:
        name: key in `NETWORKS`.
        width: channels, as the builder counts them.
        in_channels: channels of the image.
        classes: channels of the output; None where the state dict has no head.
        prefix: what begins the names of this network's tensors, such as `"module."`.
    """

    name: str
    width: int
    in_channels: int
    classes: int | None
    prefix: str

    def __str__(self) -> str:
        head = "no head" if self.classes is None else f"{self.classes} class{'' if self.classes == 1 else 'es'}"
        inputs = f"{self.in_channels} input channel{'' if self.in_channels == 1 else 's'}"
        return f"{NETWORKS[self.name].title}, width {self.width}, {inputs}, {head}"


def _genesis_unet3d(
    in_channels: int, classes: int, width: int, *, batch_statistics: BatchStatistics, dropout: float = 0.0
) -> nn.Module:
    return GenesisUNet3D(in_channels, classes, width, dropout, batch_statistics=batch_statistics)


def _resnet18(in_channels: int, classes: int, width: int) -> nn.Module:
    """As in torchvision: MONAI's own defaults are a first stride of 1 and biases in the shortcuts."""
    network: nn.Module = resnet18(
        spatial_dims=2,
        n_input_channels=in_channels,
        num_classes=classes,
        widen_factor=width / 64,
        conv1_t_stride=2,
        bias_downsample=False,
    )
    return network


def _efficientnet_lite0(in_channels: int, classes: int, width: int) -> nn.Module:
    network: nn.Module = EfficientNetLite0(in_channels, classes, width)
    return network


NETWORKS: Final[dict[str, NetworkEntry]] = {
    "genesis_unet3d": NetworkEntry(
        title="Models Genesis 3D U-Net",
        build=_genesis_unet3d,
        width=64,
        blocks="genesis_unet3d",
        contract=InputContract(
            channels=1,
            hu_window=(-1000.0, 1000.0),
            value_range=(0.0, 1.0),
            mean=None,
            std=None,
            patch=(64, 64, 32),
            spacing=None,
            spacing_note="not given with the published weights",
            divisibility=STRIDE,
        ),
        stem="down_tr64.ops.0.conv1.weight",
        head="out_tr.final_conv.weight",
        signature={"down_tr64.ops.0.conv1.weight": 5, "down_tr512.ops.1.conv1.weight": 5, "up_tr64.up_conv.weight": 5},
        absent=(),
        width_per_stem=2,
    ),
    "resnet18": NetworkEntry(
        title="2D ResNet-18",
        build=_resnet18,
        width=64,
        blocks="resnet18",
        contract=InputContract(
            channels=3,
            hu_window=None,
            value_range=(0.0, 1.0),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            patch=(224, 224),
            spacing=None,
            spacing_note="pre-trained on photographs (ImageNet), which have none",
            divisibility=1,
        ),
        stem="conv1.weight",
        head="fc.weight",
        signature={"conv1.weight": 4, "layer1.1.conv2.weight": 4, "layer4.1.conv2.weight": 4},
        absent=("layer1.2.conv1.weight", "layer3.2.conv1.weight", "layer1.0.conv3.weight"),
        width_per_stem=1,
    ),
    "efficientnet_lite0": NetworkEntry(
        title="EfficientNet-Lite0",
        build=_efficientnet_lite0,
        width=STEM_WIDTH,
        blocks="efficientnet_lite0",
        contract=InputContract(
            channels=3,
            hu_window=None,
            value_range=(0.0, 1.0),
            # 127 and 128 of 255, in efficientnet_lite_builder.py of tensorflow/tpu
            mean=(127 / 255, 127 / 255, 127 / 255),
            std=(128 / 255, 128 / 255, 128 / 255),
            patch=(224, 224),
            spacing=None,
            spacing_note="pre-trained on photographs (ImageNet), which have none",
            divisibility=DIVISIBILITY,
        ),
        stem="_conv_stem.weight",
        head="_fc.weight",
        signature={"_conv_stem.weight": 4, "_blocks.6.15._project_conv.weight": 4, "_conv_head.weight": 4},
        absent=("_blocks.0.0._se_reduce.weight",),
        width_per_stem=1,
    ),
}


def network_entry(name: str) -> NetworkEntry:
    """The entry of one kind of checkpoint.

    Raises:
        OptionError: there is no such kind.

    Example:
        >>> entry = network_entry("genesis_unet3d")
        >>> network = entry.build(entry.contract.channels, 2, 8, batch_statistics="always")
        >>> entry.contract.hu_window, entry.contract.patch
        ((-1000.0, 1000.0), (64, 64, 32))
    """
    if name not in NETWORKS:
        raise OptionError(
            f"There is no network {name!r}.{near_misses(name, NETWORKS)} Kinds are {', '.join(NETWORKS)}."
        )
    return NETWORKS[name]


def network_kind(state_dict: Mapping[str, Tensor]) -> NetworkKind | None:
    """The kind of network a state dict is of, behind whatever prefix; None where it is none in `NETWORKS`.

    Example:
        >>> entry = network_entry("genesis_unet3d")
        >>> state = entry.build(1, 3, 4, batch_statistics="always").state_dict()
        >>> print(network_kind({f"module.{name}": tensor for name, tensor in state.items()}))
        Models Genesis 3D U-Net, width 4, 1 input channel, 3 classes
    """
    for name, entry in NETWORKS.items():
        for key in state_dict:
            if f".{key}".endswith(f".{entry.stem}"):
                prefix = key.removesuffix(entry.stem)
                if _fits(entry, prefix, state_dict):
                    return _kind(name, entry, prefix, state_dict)
    return None


def _fits(entry: NetworkEntry, prefix: str, state_dict: Mapping[str, Tensor]) -> bool:
    present = all(
        prefix + key in state_dict and state_dict[prefix + key].dim() == dimensions
        for key, dimensions in entry.signature.items()
    )
    return present and not any(prefix + key in state_dict for key in entry.absent)


def _kind(name: str, entry: NetworkEntry, prefix: str, state_dict: Mapping[str, Tensor]) -> NetworkKind:
    stem, head = state_dict[prefix + entry.stem], state_dict.get(prefix + entry.head)
    return NetworkKind(
        name=name,
        width=stem.shape[0] * entry.width_per_stem,
        in_channels=stem.shape[1],
        classes=None if head is None else head.shape[0],
        prefix=prefix,
    )
