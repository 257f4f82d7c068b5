"""Layers in front of a normalisation, brought back to the norm that they were built with: the same function.

What a normalisation follows may be multiplied by any positive number: the output stays what it was. The steps do not:
where the weight is c times as large the gradient is 1/c of what it was, so that a step turns the weight by 1/c² (SGD;
1/c with Adam) of what it did. Pre-training lets these norms grow, and a rate that suits random weights then barely
moves the pre-trained ones.

References:
    van Laarhoven, L2 Regularization versus Batch and Weight Normalization, 2017.
    Hoffer et al., Norm matters: efficient and accurate normalization schemes in deep networks, NeurIPS 2018.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ..errors import WeightsError
from ..rates.lookahead import frozen_statistics

# LayerNorm and GroupNorm: one number for the whole layer leaves their output as it is, too.
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
TOLERANCE = 0.02  # of the output's mean size: the norms' epsilon is not scaled, so the outputs are not quite equal


def normalized_layers(network: nn.Module, input_shape: Sequence[int]) -> dict[str, str]:
    """{layer: norm}: the convolutions and linear layers whose output goes into a normalisation, found by one pass.

    A layer or norm that the pass uses more than once is left out.

    Args:
        network: any module; its mode, buffers and random streams are left as they were.
        input_shape: of an input, (B, C, *spatial).
    """
    uses: Counter[str] = Counter()
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, or another might get its id
    found: dict[str, str] = {}

    def made(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            uses[name] += 1
            outputs[id(output)] = (name, output)

        return hook

    def taken(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            uses[name] += 1
            if id(inputs[0]) in outputs:
                found[outputs.pop(id(inputs[0]))[0]] = name

        return hook

    hooks = []
    try:
        for name, module in network.named_modules():
            if isinstance(module, (_ConvNd, nn.Linear)):
                hooks.append(module.register_forward_hook(made(name)))
            elif isinstance(module, NORMS):
                hooks.append(module.register_forward_pre_hook(taken(name)))
        _outputs(network, {}, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return {layer: norm for layer, norm in found.items() if uses[layer] == uses[norm] == 1}


def weight_norms(network: nn.Module, layers: Mapping[str, str]) -> dict[str, float]:
    """{layer: ‖w‖} of the layers that `normalized_layers` found."""
    return {layer: float(network.get_submodule(layer).weight.detach().norm()) for layer in layers}  # type: ignore[operator]


@torch.no_grad()
def match_norms(
    network: nn.Module, layers: Mapping[str, str], norms: Mapping[str, float], input_shape: Sequence[int]
) -> dict[str, float]:
    """Scale `layers` to `norms`, in place, and the running statistics behind them: the network computes what it did.

    Args:
        network: any module; its mode and random streams are left as they were.
        layers: as from `normalized_layers`.
        norms: {layer: ‖w‖} to have; a layer whose weights are or were built as 0 stays as it is.
        input_shape: of an input, (B, C, *spatial).

    Returns:
        {layer: factor}.

    Raises:
        WeightsError: the network uses such a layer's output for something else, too, or its own output is 0 and tells
            nothing; the network is left as it was.
    """
    now = weight_norms(network, layers)
    factors = {layer: norms[layer] / norm for layer, norm in now.items() if norm > 0 and norms[layer] > 0}
    own = network.state_dict()
    scaled: dict[str, Tensor] = {}
    for layer, factor in factors.items():
        of_layer = (f"{layer}.weight", 1), (f"{layer}.bias", 1)
        of_norm = (f"{layers[layer]}.running_mean", 1), (f"{layers[layer]}.running_var", 2)
        scaled |= {name: own[name] * factor**power for name, power in (*of_layer, *of_norm) if name in own}
    _refuse_another_function(network, scaled, input_shape)
    for name, value in scaled.items():
        own[name].copy_(value)
    return factors


def _refuse_another_function(network: nn.Module, scaled: Mapping[str, Tensor], input_shape: Sequence[int]) -> None:
    before, after = _outputs(network, {}, input_shape), _outputs(network, scaled, input_shape)
    size = float(sum(old.abs().sum() for old in before))
    if not 0 < size < math.inf:
        raise WeightsError(
            f"The norms of {type(network).__name__} cannot be matched: of noise it makes nothing but 0, or no numbers, "
            f"so that a difference would not be seen. Load the weights without match_norms."
        )
    apart = float(sum((new - old).abs().sum() for old, new in zip(before, after, strict=True))) / size
    if not apart <= TOLERANCE:
        raise WeightsError(
            f"match_norms would change what {type(network).__name__} computes, by {apart:.0%} on average: it uses "
            f"the output of a layer in front of a normalisation elsewhere, too. Load the weights without it."
        )


@torch.no_grad()
def _outputs(network: nn.Module, tensors: Mapping[str, Tensor], input_shape: Sequence[int]) -> list[Tensor]:
    """What the network makes of noise in eval mode, with `tensors` in place of its own."""
    parameter = next(network.parameters())
    noise = torch.randn(tuple(input_shape), generator=torch.Generator().manual_seed(0)).to(parameter)
    modes = {module: module.training for module in network.modules()}
    try:
        with frozen_statistics(network):
            found = functional_call(network.eval(), dict(tensors), (noise,))
    finally:
        for module, training in modes.items():
            module.training = training
    return list(_tensors(found))


def _tensors(found: object) -> Iterator[Tensor]:
    """Those of an output, which may be a tensor, or lists and dictionaries of them."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, (tuple, list, Mapping)):
        for part in found.values() if isinstance(found, Mapping) else found:
            yield from _tensors(part)
