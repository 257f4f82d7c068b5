"""What a run's report says of its surroundings: versions, machine, memory; and values made plain, without folders."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Mapping
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import ignite.distributed as idist
import torch

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "metalr_monai")

_END = r"\s/'\"`,;:()\[\]{}<>|"  # what a path in a sentence does not go beyond
_QUOTED = re.compile(r"(?P<quote>['\"])(?P<path>/[^'\"\n]+)(?P=quote)")
_ABSOLUTE = re.compile(rf"(?<![\w/.~])(?:/[^{_END}]+){{2,}}/?")
_WINDOWS = re.compile(rf"\b[A-Za-z]:\\(?:[^\\{_END}]+\\)*[^\\{_END}]+")


def versions() -> dict[str, str]:
    """Python and the packages that decide what a run computes."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # used from a checkout, without being installed
        return "not installed"


def machine(device: torch.device) -> dict[str, Any]:
    """Kind of machine and device, without the names of host and user."""
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processes": idist.get_world_size(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def peak_memory(device: torch.device) -> dict[str, int]:
    """Most memory so far in bytes: `gpu`, what torch allocated there; `process`, resident (not known on Windows)."""
    found = {"gpu": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    if sys.platform != "win32":
        import resource  # there is none on Windows

        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return found


def plain(value: Any, folder: Path) -> Any:  # noqa: ANN401 - whatever settings hold, and whatever JSON can hold
    """`value` in JSON's types: tensors as lists, paths without their folders, NaN as None, other objects by name.

    Args:
        folder: the run's; paths below it are shown relative to it, others by their last name.
    """
    if isinstance(value, Mapping):
        return {_text(str(key), folder): plain(inner, folder) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, folder) for inner in value]
    if isinstance(value, Enum):
        return plain(value.value, folder)
    if isinstance(value, (str, PurePath, torch.device, torch.dtype)):
        return _text(str(value), folder)
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if hasattr(value, "tolist"):  # tensors, arrays and NumPy's numbers
        return plain(value.tolist(), folder)
    return getattr(value, "__qualname__", type(value).__qualname__)


def without_folders(text: str, folder: Path) -> str:
    """A message in which absolute paths have become their last names, or relative ones below `folder`."""
    text = text.replace("file:///", "/")
    text = _QUOTED.sub(lambda m: m["quote"] + _short(m["path"], folder) + m["quote"], text)
    text = _ABSOLUTE.sub(lambda m: _short(m[0], folder), text)
    return _WINDOWS.sub(lambda m: PureWindowsPath(m[0]).name, text)


def _text(text: str, folder: Path) -> str:
    if text.startswith("/") and "\n" not in text and ": " not in text:
        return _short(text, folder)  # a value is a path as a whole, with its blanks
    return without_folders(text, folder)


def _short(path: str, folder: Path) -> str:
    found, root = Path(path), folder.absolute()
    return str(found.relative_to(root)) if found != root and found.is_relative_to(root) else found.name
