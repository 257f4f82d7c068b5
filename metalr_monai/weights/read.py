"""From a checkpoint file to its state dict: plain, or under a key of a dict that holds more. Tensors only."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..errors import WeightsError, first_few, near_misses

CONTAINER_KEYS: Final = (
    "state_dict",  # Models Genesis, MedicalNet, MoCo, Lightning
    "model_state_dict",
    "network_weights",  # nnU-Net
    "net",  # SuPreM
    "network",
    "model",  # MONAI bundles, MAE
    "module",
    "student",
    "teacher",  # DINO
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Keys under which training code keeps a state dict, first come, first served."""

# What torch.load was seen to raise on cut and on damaged files, in either format.
UNREADABLE: Final = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


@dataclass(frozen=True)
class StateDict:
    """The tensors of one network, as a checkpoint names them.

    Attributes:
        source: the file's path, or `"a state dict"`.
        container: the keys that lead to it, such as `"state_dict"` or `"ema.model"`; empty where it is plain.
        others: further keys of the same dict that hold a state dict as well, such as `("ema",)`.
        tensors: name → tensor.
    """

    source: str
    container: str
    others: tuple[str, ...]
    tensors: Mapping[str, Tensor]


def read_checkpoint(path: str | os.PathLike[str]) -> object:
    """What a file written by `torch.save` holds, on the CPU; nothing but tensors and plain containers is ever loaded.

    An `argparse.Namespace` counts as such a container; its content is held to the same.

    Raises:
        WeightsError: there is no such file, it is damaged or of another format, or it holds more than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(_no_such_file(file))
    try:
        # Training scripts keep their options beside the weights (C2L, MAE): a plain container, which runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns of pickles that it then reads, or that we refuse below
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise WeightsError(_unreadable(file, error)) from error


def find_state_dict(content: object, source: str = "a state dict") -> StateDict:
    """The state dict in what a checkpoint holds.

    Raises:
        WeightsError: there is no tensor where one is looked for.
    """
    keys: list[str] = []
    others: tuple[str, ...] = ()
    inner = content
    while isinstance(inner, Mapping):
        found = list(_containers(inner))
        if not found:
            break
        others = (*found[1:], *others)
        keys.append(found[0])
        inner = inner[found[0]]
    tensors = _tensors(inner)
    if not tensors:
        raise WeightsError(_no_tensors(content, source))
    return StateDict(source, ".".join(keys), others, tensors)


def _containers(content: Mapping[str, object]) -> Iterator[str]:
    for key in CONTAINER_KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and (_tensors(inner) or any(_containers(inner))):
            yield key


def _tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _no_such_file(file: Path) -> str:
    if file.is_dir():
        return f"{file} is a folder; expected a checkpoint file. Name the file in it."
    beside = [str(other.name) for other in file.parent.iterdir()] if file.parent.is_dir() else []
    return f"There is no file {file}.{near_misses(file.name, beside)} Give the path of a checkpoint."


def _unreadable(file: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return (
            f"{file} holds more than tensors ({refused[1]}), and loading such a pickle can run any code, so it was "
            f"not loaded. If you trust its author, convert it once where that can do no harm: "
            f"content = torch.load(path, weights_only=False), then torch.save the state dict alone, and give that file."
        )
    if "TorchScript" in str(error):
        return (
            f"{file} is a TorchScript archive, which holds code; expected a state dict. Where you trust its author: "
            f"torch.save(torch.jit.load(path).state_dict(), new_path), and give the new file."
        )
    cause = (str(error).strip().splitlines() or ["it ends too early"])[0][:150]
    return (
        f"{file} ({file.stat().st_size:,} bytes) is damaged, cut short or not a checkpoint of torch.save "
        f"({type(error).__name__}: {cause}). Fetch it again and compare its size; read other formats, such as "
        f"safetensors, with their own library and give the state dict itself."
    )


def _no_tensors(content: object, source: str) -> str:
    if not isinstance(content, Mapping):
        return f"{source} holds a {type(content).__name__}; expected a dict from tensor names to tensors."
    elsewhere = [str(key) for key, value in content.items() if _tensors(value)]
    if elsewhere:
        advice = f"There are some under {first_few(elsewhere)}: give that dict itself instead of the path."
    else:
        keys = [f"{key} ({type(value).__name__})" for key, value in content.items()]
        advice = f"It has {f'the keys {first_few(keys)}' if keys else 'no keys at all'}. Give another file."
    return f"{source} holds no tensors, neither plain nor under {', '.join(CONTAINER_KEYS)}. {advice}"
