"""The networks of a plan: from its values to the module, and to the keys of the bundle's config that name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from ..errors import OptionError
from ..networks.genesis_unet3d import GenesisUNet3D
from .topology import Topology, sides

if TYPE_CHECKING:
    from .plan import Plan

GENESIS: Final = "genesis_unet3d"
DYNUNET: Final = "dynunet"
CLASSES: Final[Mapping[str, tuple[str, type[nn.Module]]]] = {
    GENESIS: ("metalr_monai.GenesisUNet3D", GenesisUNet3D),
    DYNUNET: ("monai.networks.nets.DynUNet", DynUNet),
}
# What `blocks` makes of DynUNet by itself is a block for each level of encoder and decoder, and the head.
BLOCKS: Final = {GENESIS: "genesis_unet3d", DYNUNET: "auto"}
HEADS: Final = {GENESIS: "out_tr", DYNUNET: "output_block"}
OPTIONS: Final = {GENESIS: ("width", "batch_statistics"), DYNUNET: ("network_options",)}

FEATURES, MOST_FEATURES = 32, 320  # of nnU-Net's first level, doubled from level to level; of its deepest ones


def network_config(plan: Plan) -> dict[str, Any]:
    """The keys of the liver bundle's train.json that say what is trained: `network_def`, `blocks`, `head`, `width`, and
    those of `settings` by which the trained network's file is known for what it is."""
    network = str(plan["network"])
    options = {name: plan[name] for name in OPTIONS[network]}
    return {
        "network_def": network_definition(network, len(plan.regions), options),
        "blocks": BLOCKS[network],
        "head": HEADS[network],
        "width": options["width"] if network == GENESIS else options["network_options"]["filters"][0],
        **({"batch_statistics": options["batch_statistics"]} if network == GENESIS else {}),
        # Instance norm is slower with the channels last, in which the bundle puts its own network.
        **({"network": "$@network_def.to(@device)"} if network == DYNUNET else {}),
        "settings#network": network,
        **({"settings#network_options": options["network_options"]} if network == DYNUNET else {}),
    }


def network_definition(network: str, out_channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """A network as a MONAI config has it.

    Args:
        network: "genesis_unet3d" or "dynunet".
        out_channels: regions that it tells.
        options: `width` and `batch_statistics`, or `network_options`, those of DynUNet without its channels.

    Raises:
        OptionError: there is no such network.
    """
    if network not in CLASSES:
        raise OptionError(f"network is {network!r}; expected one of {', '.join(CLASSES)}.")
    own = options["network_options"] if network == DYNUNET else {"dropout": 0.0, **options}
    return {"_target_": CLASSES[network][0], "in_channels": 1, "out_channels": out_channels, **own}


def build(network: str, out_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """The network that `network_definition` describes.

    Raises:
        OptionError: there can be none with these options.
    """
    arguments = {k: v for k, v in network_definition(network, out_channels, options).items() if k != "_target_"}
    try:
        return CLASSES[network][1](**arguments)
    except OptionError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:  # DynUNet's, on faulty options
        raise OptionError(f"{CLASSES[network][0]} cannot be built with {arguments}: {error}.") from error


def divisors(network: str, options: Mapping[str, Any]) -> tuple[int, ...]:
    """What each side of a patch must be a multiple of."""
    strides = options["network_options"]["strides"] if network == DYNUNET else [[2, 2, 2]] * 3
    found = [1, 1, 1]
    for stride in strides:
        found = [product * step for product, step in zip(found, stride, strict=True)]
    return tuple(found)


def patch_fault(patch_size: Any, steps: Sequence[int]) -> str | None:  # noqa: ANN401 - what a file holds
    """What is wrong with a patch for a network whose sides are multiples of `steps`; None where nothing is."""
    is_whole = isinstance(patch_size, (list, tuple)) and all(type(side) is int and side > 0 for side in patch_size)
    if not is_whole or len(patch_size) != len(steps):
        return f"patch_size is {patch_size!r}; expected three whole numbers, multiples of {sides(steps)} voxels."
    if all(side % step == 0 for side, step in zip(patch_size, steps, strict=True)):
        return None
    near = [max(1, round(side / step)) * step for side, step in zip(patch_size, steps, strict=True)]
    return f"patch_size is {patch_size!r}; expected multiples of {sides(steps)} voxels, as {near}."


def dynunet_options(topology: Topology) -> dict[str, Any]:
    """The options of MONAI's DynUNet for nnU-Net's levels: plain blocks, instance norm, leaky ReLU, one output.

    Where a level is not halved along all axes the decoder differs in one thing from nnU-Net's own: DynUNet gives it the
    kernels of the level below.
    """
    strides = [list(stride) for stride in topology.strides]
    return {
        "spatial_dims": 3,
        "kernel_size": [list(kernel) for kernel in topology.kernel_size],
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": [min(MOST_FEATURES, FEATURES * 2**level) for level in range(len(strides))],
        "norm_name": ["INSTANCE", {"eps": 1e-5, "affine": True}],
        "act_name": ["leakyrelu", {"negative_slope": 0.01, "inplace": True}],
        "res_block": False,
        "deep_supervision": False,
        "trans_bias": True,
    }


def dynunet_options_of(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The options of a plain DynUNet by the names and shapes of its weights; None where they are of another network.

    Strides are told by the up-convolutions, whose kernels are as large. Norm and activation cannot be told; they are
    taken to be nnU-Net's.
    """
    stem = "input_block.conv1.conv.weight"
    prefixes = [name.removesuffix(stem) for name in tensors if f".{name}".endswith(f".{stem}")]
    if not prefixes:
        return None
    prefix = min(prefixes, key=len)  # DynUNet has all its levels twice, the others deeper down
    down = _numbered(tensors, prefix + "downsamples.{}.conv1.conv.weight")
    up = _numbered(tensors, prefix + "upsamples.{}.transp_conv.conv.weight")
    bottom, head = (tensors.get(f"{prefix}{name}.conv.weight") for name in ("bottleneck.conv1", "output_block.conv"))
    if (
        bottom is None
        or head is None
        or len(up) != len(down) + 1
        or f"{prefix}input_block.conv3.conv.weight" in tensors
    ):
        return None
    encoder = [tensors[prefix + stem], *down, bottom]
    if any(weight.dim() != 5 for weight in (*encoder, *up)):
        return None
    strides = [(1, 1, 1), *(tuple(weight.shape[2:]) for weight in reversed(up))]
    topology = Topology((1, 1, 1), tuple(strides), tuple(tuple(weight.shape[2:]) for weight in encoder))
    return {
        **dynunet_options(topology),
        "filters": [weight.shape[0] for weight in encoder],
        "trans_bias": f"{prefix}upsamples.0.transp_conv.conv.bias" in tensors,
    }


def _numbered(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    """The tensors of the names with 0, 1, 2, … in place of the braces."""
    found: list[Tensor] = []
    while (tensor := tensors.get(name.format(len(found)))) is not None:
        found.append(tensor)
    return found


def on_meta_device(network: str, out_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """As `build`, with shapes alone: a check of the options that takes no memory."""
    with torch.device("meta"):
        return build(network, out_channels, options)
