"""A network that nnU-Net trained, as MONAI's `DynUNet` and a file that holds tensors alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from monai.networks.nets import DynUNet
from torch import Tensor
from torch.nn import functional as F

from ..errors import WeightsError, first_few
from ..files import atomic_path
from .read import UNREADABLE

CHECKPOINT: Final = "checkpoint_final.pth"
_CONVOLUTIONS: Final = 2  # in each block of DynUNet

# what DynUNet can be: keys of nnU-Net's architecture → expected, where None stands for "not given" as well
_SAME: Final[Mapping[str, tuple[object, ...]]] = {
    "conv_op": ("torch.nn.modules.conv.Conv3d",),
    "norm_op": ("torch.nn.modules.instancenorm.InstanceNorm3d",),
    "dropout_op": (None,),
    "nonlin": ("torch.nn.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
    "nonlin_first": (None, False),
}


@dataclass(frozen=True)
class _Trained:
    """What is needed of a checkpoint of nnU-Net: its tensors, and the plan that they were trained by."""

    source: str
    tensors: Mapping[str, Tensor]
    plans: Mapping[str, Any]
    configuration: Mapping[str, Any]
    architecture: Mapping[str, Any]
    dataset: Mapping[str, Any]
    mirrored: Sequence[int]  # nnU-Net's axes


def convert_nnunet(
    source: str | os.PathLike[str], output: str | os.PathLike[str], *, trust_pickle: bool = False
) -> dict[str, Any]:
    """Write a `PlainConvUNet` of nnU-Net 2.4 to 2.8 as a state dict of MONAI's `DynUNet`, which is the same function.

    nnU-Net's arrays have the axes z, y, x (after its `transpose_forward`), MONAI's x, y, z: kernels, strides and every
    weight are turned accordingly. Biases of convolutions in front of an instance norm, which subtracts them, are
    dropped, and so are the segmentation layers of lower resolutions (deep supervision). DynUNet's decoder has at each
    resolution the kernel of the encoder's next lower one, nnU-Net's that of the same: where those differ, nnU-Net's
    stands in the middle of the larger one, with zeros around it.

    nnU-Net reads its images in the orientation of their files, unless its reader is `NibabelIOWithReorient`; then
    `axcodes` is "RAS". Else it is None, and images must come in the orientation of the training data.

    Args:
        source: `checkpoint_final.pth`, or the folder of a training with one trained fold.
        output: the file to write, loadable with `weights_only=True`; the settings stand beside it, ending in `.json`.
        trust_pickle: nnU-Net's checkpoints are pickles, which can run any code while they are read: set it for files
            whose author you trust.

    Returns:
        The settings: `network` ("dynunet"), `network_options` (those of `DynUNet`), `spacing` (mm) and `patch_size`
        (voxels; both x, y, z), `hu_window` (HU, clipped to it), `value_range` (what it is scaled to, linearly),
        `channels` (names of the network's outputs, in order), `activation` ("softmax", or "sigmoid" where regions were
        trained), `regions` (name → label values), `output_values` (the label value of each region, in order),
        `mirror_axes` (x, y, z as 0, 1, 2), `axcodes`, `notes` (what was left out).

    Raises:
        WeightsError: the file is not trusted, cannot be read, is no checkpoint of nnU-Net, or of a network that
            `DynUNet` cannot be. Nothing is written then.
    """
    trained = _read(_checkpoint_file(Path(source)), trust_pickle)
    _refuse(trained)
    axes = _axes(trained.plans)
    options = _network_options(trained, axes)
    state, notes = _state_dict(trained, options, axes)
    settings = {
        "network": "dynunet",
        "network_options": options,
        **_input_settings(trained, axes),
        **_output_settings(trained.dataset),
        "notes": notes,
    }
    _write(Path(output), state, settings)
    return settings


# ---------------------------------------------------------------------- reading


def _checkpoint_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    found = [file for file in (source / CHECKPOINT, *sorted(source.glob(f"fold_*/{CHECKPOINT}"))) if file.is_file()]
    if len(found) != 1:
        there = f"{len(found)}: {first_few([str(file.relative_to(source)) for file in found])}" if found else "none"
        raise WeightsError(f"{source} holds {there}; expected one {CHECKPOINT}. Name the file of one fold.")
    return found[0]


def _read(file: Path, trust_pickle: bool) -> _Trained:
    if not file.is_file():
        raise WeightsError(f"There is no file {file}. Give {CHECKPOINT} of nnU-Net, or the folder that it is in.")
    if not trust_pickle:
        raise WeightsError(
            f"{file} was not read: a checkpoint of nnU-Net is a pickle, which can run any code while it is read. "
            f"Set trust_pickle=True if you trained it yourself, or trust the people who did."
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=False)
    except (*UNREADABLE, ImportError) as error:
        raise WeightsError(f"{file} cannot be read ({type(error).__name__}: {error}). Fetch it again.") from error
    try:
        init = content["init_args"]
        configuration = _configuration(init["plans"], init["configuration"])
        return _Trained(
            source=str(file),
            tensors=content["network_weights"],
            plans=init["plans"],
            configuration=configuration,
            architecture=configuration.get("architecture", {}),
            dataset=init["dataset_json"],
            mirrored=content.get("inference_allowed_mirroring_axes") or (),
        )
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{file} is no checkpoint of nnU-Net 2: it has no {error}. Expected what nnUNetv2_train writes."
        ) from error


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans on top of those that it inherits from."""
    own = plans["configurations"][name]
    parent = own.get("inherits_from")
    return {**(_configuration(plans, parent) if parent else {}), **own}


# ---------------------------------------------------------------------- what cannot be converted


def _refuse(trained: _Trained) -> None:
    faults = list(_faults(trained))
    if faults:
        raise WeightsError(
            f"{trained.source} cannot become a DynUNet of MONAI for CT: {'; '.join(faults)}. "
            f"Train a plain U-Net (nnUNetPlans, 3d_fullres) on one CT channel, or keep to nnU-Net for this network."
        )


def _faults(trained: _Trained) -> Iterator[str]:
    architecture = trained.architecture.get("arch_kwargs")
    if architecture is None:
        yield "its plans are of nnU-Net before 2.4 and do not describe the network"
        return
    network = str(trained.architecture.get("network_class_name")).rpartition(".")[2]
    if network != "PlainConvUNet":
        yield f"the network is {network}, of another topology than PlainConvUNet"
        return
    for name, allowed in _SAME.items():
        if architecture.get(name) not in allowed:
            yield f"{name} is {architecture.get(name)}, not {allowed[0]}"
    for name in ("n_conv_per_stage", "n_conv_per_stage_decoder"):
        if set(architecture[name]) != {_CONVOLUTIONS}:
            yield f"{name} is {architecture[name]}, not {_CONVOLUTIONS} everywhere"
    if len(architecture["strides"]) < 3:
        yield f"it has {len(architecture['strides'])} stages, not 3 or more"
    for kernel, stride in zip(architecture["kernel_sizes"], architecture["strides"], strict=True):
        if any((k - 1) // 2 != (k - s + 1) // 2 for k, s in zip(kernel, stride, strict=True)):
            yield f"kernel {kernel} with stride {stride} is padded otherwise there"
    for kernel, below in pairwise(architecture["kernel_sizes"]):
        if any(k > b for k, b in zip(kernel, below, strict=True)):
            yield f"kernel {kernel} is larger than {below} at the next lower resolution, which the decoder has there"
    if (channels := trained.dataset.get("channel_names", {})) and len(channels) != 1:
        yield f"it has {len(channels)} channels ({', '.join(map(str, channels.values()))}), not one"
    if trained.configuration.get("previous_stage"):
        yield "it is the second stage of a cascade, which takes the first one's segmentation as well"
    if trained.configuration["normalization_schemes"] != ["CTNormalization"]:
        yield f"the normalisation is {', '.join(trained.configuration['normalization_schemes'])}, not CTNormalization"


def _listed(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


# ---------------------------------------------------------------------- network


def _axes(plans: Mapping[str, Any]) -> list[int]:
    """The network's axis that is x, that is y, that is z: files have z, y, x, which `transpose_forward` permutes."""
    forward = list(plans["transpose_forward"])
    return [forward.index(axis) for axis in (2, 1, 0)]


def _turned(values: Any, axes: Sequence[int]) -> list[Any]:  # noqa: ANN401 - numbers of any kind
    return [values[axis] for axis in axes]


def _network_options(trained: _Trained, axes: Sequence[int]) -> dict[str, Any]:
    architecture = trained.architecture["arch_kwargs"]
    strides = [_turned(stride, axes) for stride in architecture["strides"]]
    return {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(_channels(trained.dataset)),
        "kernel_size": [_turned(kernel, axes) for kernel in architecture["kernel_sizes"]],
        "strides": strides,
        "upsample_kernel_size": strides[1:],
        "filters": list(architecture["features_per_stage"]),
        "norm_name": ["INSTANCE", dict(architecture.get("norm_op_kwargs") or {})],
        "act_name": ["leakyrelu", {"negative_slope": 0.01, **(architecture.get("nonlin_kwargs") or {})}],
        "trans_bias": bool(architecture.get("conv_bias", False)),
    }


def _state_dict(
    trained: _Trained, options: Mapping[str, Any], axes: Sequence[int]
) -> tuple[dict[str, Tensor], list[str]]:
    """DynUNet's state dict with every tensor filled, and what differs from nnU-Net's, in words."""
    network = DynUNet(**options)
    own = network.state_dict()
    unfilled, padded = {name for name, _ in network.named_parameters()}, 0
    for name, nnunet_name in _names(len(options["strides"])).items():
        if name not in own:  # the bias of a transposed convolution that has none
            continue
        tensor = _turned_tensor(trained, nnunet_name, axes)
        whole = _in_larger_kernel(tensor, own[name].shape) if ".conv_block.conv" in name else tensor
        if whole.shape != own[name].shape:
            raise WeightsError(
                f"{trained.source}: {nnunet_name} is of shape {tuple(tensor.shape)}, and its plans expect "
                f"{tuple(own[name].shape)} (x, y, z). Weights and plans are not of one training."
            )
        own[name].copy_(whole)
        unfilled.discard(name)
        padded += whole.shape != tensor.shape
    if unfilled:
        raise WeightsError(f"{first_few(sorted(unfilled))} of DynUNet have no counterpart in {trained.source}.")
    notes = list(_left_out(trained.tensors, f"decoder.seg_layers.{len(options['strides']) - 2}."))
    if padded:
        notes.append(f"{padded} kernels of the decoder stand in larger ones of DynUNet, with zeros around them")
    return own, notes


def _turned_tensor(trained: _Trained, name: str, axes: Sequence[int]) -> Tensor:
    tensor = trained.tensors.get(name)
    if tensor is None:
        raise WeightsError(f"{trained.source} has no {name}, which its plans ask for. It is not of one training.")
    return tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.dim() > 2 else tensor


def _in_larger_kernel(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """A kernel of odd sides in the middle of one of `shape`, (C_out, C_in, kx, ky, kz): the same convolution."""
    margins = [(larger - side) // 2 for side, larger in zip(kernel.shape[2:], shape[2:], strict=True)]
    return F.pad(kernel, [margin for side in reversed(margins) for margin in (side, side)])


def _left_out(tensors: Mapping[str, Tensor], head: str) -> Iterator[str]:
    """What has no place in DynUNet; nnU-Net's state dicts name most tensors twice or more."""
    if biases := [n for n in tensors if n.endswith(".conv.bias") and not n.startswith("decoder.encoder.")]:
        yield f"{len(biases)} biases of convolutions in front of an instance norm, which subtracts them"
    if lower := [n for n in tensors if n.startswith("decoder.seg_layers.") and not n.startswith(head)]:
        yield f"{len(lower)} tensors of segmentation layers at lower resolutions (deep supervision)"


def _names(stages: int) -> dict[str, str]:
    """DynUNet's names → nnU-Net's."""
    encoder = ["input_block", *(f"downsamples.{i}" for i in range(stages - 2)), "bottleneck"]
    blocks = {block: f"encoder.stages.{i}.0" for i, block in enumerate(encoder)}
    blocks |= {f"upsamples.{i}.conv_block": f"decoder.stages.{i}" for i in range(stages - 1)}
    names = {}
    for block, nnunet_block in blocks.items():
        for i in range(_CONVOLUTIONS):
            names[f"{block}.conv{i + 1}.conv.weight"] = f"{nnunet_block}.convs.{i}.conv.weight"
            for kind in ("weight", "bias"):
                names[f"{block}.norm{i + 1}.{kind}"] = f"{nnunet_block}.convs.{i}.norm.{kind}"
    for kind in ("weight", "bias"):
        for i in range(stages - 1):
            names[f"upsamples.{i}.transp_conv.conv.{kind}"] = f"decoder.transpconvs.{i}.{kind}"
        names[f"output_block.conv.conv.{kind}"] = f"decoder.seg_layers.{stages - 2}.{kind}"
    return names


# ---------------------------------------------------------------------- what goes in and comes out


def _input_settings(trained: _Trained, axes: Sequence[int]) -> dict[str, Any]:
    """Spacing, patch and intensities, as nnU-Net's plan has them; its CT normalisation is clip, − mean, ÷ sd."""
    intensities = trained.plans["foreground_intensity_properties_per_channel"]["0"]
    window = [float(intensities[name]) for name in ("percentile_00_5", "percentile_99_5")]
    mean, sd = float(intensities["mean"]), max(float(intensities["std"]), 1e-8)
    reorients = trained.plans.get("image_reader_writer") == "NibabelIOWithReorient"
    return {
        "spacing": [float(mm) for mm in _turned(trained.configuration["spacing"], axes)],
        "patch_size": [int(side) for side in _turned(trained.configuration["patch_size"], axes)],
        "hu_window": window,
        "value_range": [(hu - mean) / sd for hu in window],
        "mirror_axes": sorted(axes.index(axis) for axis in trained.mirrored),
        "axcodes": "RAS" if reorients else None,
    }


def _regions(dataset: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name → label values, without background and what is to be ignored."""
    labels = {name: _listed(values) for name, values in dataset["labels"].items() if name != "ignore"}
    return {name: values for name, values in labels.items() if set(values) != {0}}


def _is_of_regions(dataset: Mapping[str, Any]) -> bool:
    return any(len(values) > 1 for values in _regions(dataset).values())


def _channels(dataset: Mapping[str, Any]) -> list[str]:
    """What each output channel of the network is: regions as they are listed, or labels by value."""
    regions = _regions(dataset)
    return list(regions) if _is_of_regions(dataset) else ["background", *sorted(regions, key=_first(regions))]


def _first(regions: Mapping[str, Sequence[int]]) -> Callable[[str], int]:
    return lambda name: regions[name][0]


def _output_settings(dataset: Mapping[str, Any]) -> dict[str, Any]:
    regions, channels = _regions(dataset), _channels(dataset)
    ordered = {name: regions[name] for name in channels if name in regions}
    of_regions = _is_of_regions(dataset)
    values = dataset["regions_class_order"] if of_regions else [values[0] for values in ordered.values()]
    return {
        "channels": channels,
        "activation": "sigmoid" if of_regions else "softmax",
        "regions": ordered,
        "output_values": [int(value) for value in values],
    }


def _write(output: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)
    with atomic_path(output.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
