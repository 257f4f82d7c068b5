"""Parameter names as the network's author knows them, behind the wrappers of `torch.compile` and DDP."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..errors import BlockError, first_few


def named_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under their canonical names, shared ones once."""
    tensors = dict(network.named_parameters())
    if not tensors:
        raise BlockError(f"{type(network).__name__} has no parameters; expected a network that can be trained.")
    lazy = [name for name, parameter in tensors.items() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise BlockError(
            f"{first_few(lazy)} of {type(network).__name__} have no shape yet (lazy modules); "
            "run one batch through the network first, then make the blocks."
        )
    wrappers = wrapper_depth(tensors)
    return {canonical(name, wrappers): parameter for name, parameter in tensors.items()}


def wrapper_depth(names: Iterable[str]) -> int:
    """Number of ``module`` components that begin every name."""
    paths = [_components(name)[:-1] for name in names]  # the last component is the parameter's own name
    depth = 0
    while all(path[depth : depth + 1] == ["module"] for path in paths):
        depth += 1
    return depth


def _components(name: str) -> list[str]:
    return [component for component in name.split(".") if component not in ("", "_orig_mod")]


def canonical(name: str, wrappers: int) -> str:
    return ".".join(_components(name)[wrappers:])
