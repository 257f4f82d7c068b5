"""What the phantom generators are asked for: numbers in their range, and an empty folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import OptionError


def check_int(name: str, value: object, least: int, meaning: str) -> None:
    """Raises OptionError unless `value` is an int of `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name} is {value!r}; expected {meaning}, an int of {least} or more.")


def empty_folder(folder: str | os.PathLike[str], parts: Sequence[str] = ()) -> Path:
    """The folder, made with its subfolders `parts`. Raises OptionError if it holds anything."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; phantoms are written into a folder of their own. Name a new folder.")
    if folder.is_dir() and any(folder.iterdir()):
        raise OptionError(
            f"The folder {folder} is not empty, and phantoms would mix with what it holds. Name a new folder, or empty "
            f"this one first."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        (folder / part).mkdir()
    return folder
