"""Load a checkpoint into a network, and say what became of every tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import OptionError, WeightsError, first_few, near_misses
from .adapt import Channels, Shape, adapt_stem, channels
from .likely_cause import likely_cause
from .match_norms import match_norms, normalized_layers, weight_norms
from .read import StateDict, find_state_dict, read_checkpoint
from .renaming import CONTRASTIVE_RULES, SEQUENTIAL_RESNET, Renaming, canonical_names, rename
from .report import LoadReport, Status, TensorReport, percent

AdaptInput = Literal["auto", "never"]


def load_weights(
    network: nn.Module,
    path_or_state: str | os.PathLike[str] | Mapping[str, object],
    *,
    minimum_coverage: float = 0.9,
    adapt_input: AdaptInput = "auto",
    match_norms_for: Sequence[int] | None = None,
) -> LoadReport:
    """Copy the weights of a checkpoint into `network`, in place, where names and shapes fit.

    Names are compared behind the wrappers of either side: prefixes such as `module.` are stripped from the file's
    where that makes more names fit, `module.` (DDP) and `_orig_mod.` (torch.compile) from the network's. A ResNet
    whose file counts its parts, as USCL's does (`features.4.0.conv1.weight` is `layer1.0.conv1.weight`), and an
    EfficientNet whose file counts its blocks through get the network's names. Three things may differ. A first
    convolution for another number of channels gets the sum over the file's channels, divided by the network's number
    of them. A head that is missing or for another number of classes is left as the network was built, and so is one
    where the file has the projection of contrastive training (MoCo, C2L, USCL). The bias of a layer that has a weight
    but no bias in the file becomes zero, which is the same layer.

    Args:
        network: any module, on any device.
        path_or_state: a file of `torch.save`, which is read with `weights_only=True`, or what such a file holds: a
            state dict, plain or under a key such as `state_dict`, `net` or `model`.
        minimum_coverage: share of the parameters, in elements, in [0, 1], that must come from the file, or it is an
            error. A head that is left as it was built is left out of it, and so are buffers.
        adapt_input: `"auto"`, or `"never"` to leave a first convolution of another number of channels as it was built.
        match_norms_for: the shape of an input, (B, C, *spatial), to scale each layer in front of a normalisation to the
            norm that it was built with: the network computes the same, and a rate moves it as far as random weights
            (see `weights/match_norms.py`). None leaves the norms as the file has them.

    Returns:
        The report.

    Raises:
        WeightsError: the file cannot be read, or covers too little of the network, which is then untouched; or norms
            cannot be matched in this network, which then has the file's weights as they are.
        OptionError: an argument outside its range.

    Example:
        >>> from collections import OrderedDict
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
        >>> pretrained = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
        >>> state = {f"module.{name}": tensor for name, tensor in pretrained.state_dict().items()}
        >>> print(load_weights(network, {"epoch": 7, "state_dict": state}))
        a state dict [state_dict] → Sequential
        coverage 72.7% of 55 parameters; without the head 100.0%
        renaming rules: strip module.
        part  parameters  loaded
        0             40  100.0%
        2             15    0.0%
        re-initialised (2): 2.weight (file 1×4×1×1, network 3×4×1×1; head), 2.bias (file 1, network 3; head)
    """
    _check_options(minimum_coverage, adapt_input, match_norms_for)
    state = _state(path_or_state)
    own = _network_tensors(network)
    names = canonical_names(own)
    renaming = rename(state.tensors, names.values())
    new = {renaming.names[name]: tensor for name, tensor in state.tensors.items()}
    targets = {names[name]: tensor for name, tensor in own.items()}
    ends = channels(network, names, _shapes(new))
    projection = {name: new.pop(name) for name in _projection(renaming, ends, _shapes(targets), _shapes(new))}
    parameters = {names[name] for name, _ in network.named_parameters()}
    report = LoadReport(
        source=state.source,
        container=state.container,
        others=state.others,
        rules=renaming.rules,
        network=type(network).__name__,
        tensors=(
            *_compared(_shapes(targets), _shapes(new), parameters, ends, adapt_input),
            *_unused(_shapes(projection), "projection head of contrastive training"),
        ),
    )
    if report.coverage_without_head < minimum_coverage:
        raise WeightsError(_too_little(report, minimum_coverage))
    if match_norms_for is None:
        _copy(report, new, targets)
        return report
    layers = normalized_layers(network, match_norms_for)
    norms = weight_norms(network, layers)
    _copy(report, new, targets)
    return replace(report, rescaled=match_norms(network, layers, norms, match_norms_for))


def _check_options(minimum_coverage: float, adapt_input: str, input_shape: Sequence[int] | None) -> None:
    is_number = isinstance(minimum_coverage, (int, float)) and not isinstance(minimum_coverage, bool)
    if not is_number or not 0 <= minimum_coverage <= 1:
        raise OptionError(f"minimum_coverage is {minimum_coverage!r}; expected a share between 0 and 1, such as 0.9.")
    if adapt_input not in get_args(AdaptInput):
        raise OptionError(f"adapt_input is {adapt_input!r}; expected {' or '.join(map(repr, get_args(AdaptInput)))}.")
    sides = input_shape if isinstance(input_shape, (tuple, list)) else []
    if input_shape is not None and not (len(sides) > 1 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise OptionError(f"match_norms_for is {input_shape!r}; expected an input's shape, (B, C, *spatial), or None.")


def _state(path_or_state: object) -> StateDict:
    if isinstance(path_or_state, (str, os.PathLike)):
        path = os.fspath(path_or_state)
        return find_state_dict(read_checkpoint(path), str(path))
    return find_state_dict(path_or_state)


def _network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and saved buffers by their own names; they share memory with the network."""
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise WeightsError(
            f"{first_few(lazy)} of {type(network).__name__} have no shape yet (lazy modules); "
            "run one batch through the network first, then load the weights."
        )
    if not any(True for _ in network.parameters()):
        raise WeightsError(f"{type(network).__name__} has no parameters; expected a network to load weights into.")
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _compared(
    own: Mapping[str, Shape], new: Mapping[str, Shape], parameters: set[str], ends: Channels, adapt_input: str
) -> tuple[TensorReport, ...]:
    """The verdict on each tensor of the network, by canonical name, and the file's surplus ones."""
    reports: dict[str, TensorReport] = {}
    for name, shape in own.items():
        status, note, head = _verdict(name, shape, new.get(name), ends, adapt_input)
        reports[name] = TensorReport(name, status, shape, new.get(name), name in parameters, prod(shape), note, head)
    for weight in ends.layers:
        bias = weight.removesuffix("weight") + "bias"
        if reports[weight].covered and bias in reports and bias not in new:
            # A random bias would change the function; batch norm behind it would not undo it in eval mode.
            note = "zero: the file's layer has no bias"
            reports[bias] = replace(reports[bias], status="adapted", note=note, head=False)
    return (*reports.values(), *_unused({name: shape for name, shape in new.items() if name not in own}))


def _unused(shapes: Mapping[str, Shape], note: str = "") -> list[TensorReport]:
    return [TensorReport(name, "unused", None, shape, False, prod(shape), note) for name, shape in shapes.items()]


def _projection(renaming: Renaming, ends: Channels, own: Mapping[str, Shape], new: Mapping[str, Shape]) -> list[str]:
    """Names of the head under which the file has a projection of contrastive training, which no classifier is."""
    in_both = [name for name in ends.head_layer if name in own and name in new]
    takes_other_features = any(own[name][1:] != new[name][1:] for name in in_both)
    is_projection = (
        takes_other_features if SEQUENTIAL_RESNET in renaming.rules else CONTRASTIVE_RULES.intersection(renaming.rules)
    )
    return in_both if is_projection else []


def _verdict(
    name: str, shape: Shape, file_shape: Shape | None, ends: Channels, adapt_input: str
) -> tuple[Status, str, bool]:
    """Status, note, and whether it is a head that stays as it was built."""
    if file_shape is None:
        is_head = name in ends.head_layer
        return "re-initialised", "head, missing in the file" if is_head else "missing in the file", is_head
    if file_shape == shape:
        return "loaded", "", False
    if adapt_input == "auto" and ends.is_stem(name, file_shape, shape):
        return "adapted", f"input channels: sum over {file_shape[1]}, divided by {shape[1]}", False
    if ends.is_head(file_shape, shape):
        return "re-initialised", "head", True
    return "shape mismatch", "", False


@torch.no_grad()
def _copy(report: LoadReport, new: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    for tensor in report.tensors:
        if not tensor.covered:
            continue
        target = targets[tensor.name]
        if tensor.name not in new:
            target.zero_()
        elif tensor.status == "adapted":
            target.copy_(adapt_stem(new[tensor.name], target.shape[1]))
        else:
            target.copy_(new[tensor.name])


def _too_little(report: LoadReport, minimum_coverage: float) -> str:
    """The gist of a report for an error message."""
    mismatched = [str(tensor) for tensor in report.with_status("shape mismatch")]
    unused = [tensor.name for tensor in report.with_status("unused")]
    parts = [
        f"{report.source} covers {percent(report.coverage_without_head)} of the parameters of {report.network}; "
        f"expected at least {percent(minimum_coverage)} (minimum_coverage). The network is left as it was."
    ]
    if mismatched:
        parts.append(f"Another shape: {first_few(mismatched, 3)}.")
    if report.missing:
        parts.append(f"Missing in the file: {first_few(report.missing, 3)}.{near_misses(report.missing[0], unused)}")
    if unused:
        parts.append(f"Only in the file: {first_few(unused, 3)}.")
    parts.append(f"Likely cause: {likely_cause(report)}")
    return " ".join(parts)
