"""What is wrong with a bundle's config files as files, told before anything is made of what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from monai.bundle import ConfigParser


def unreadable(file: Path) -> str:
    """Why a file is no config, in words; "" where it is one."""
    try:
        content = ConfigParser.load_config_file(str(file))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:  # JSON's error is a ValueError
        return f"cannot be read: {error}"
    if not isinstance(content, dict):
        return f"holds {'nothing' if content is None else f'a {type(content).__name__}'}; expected keys with values."
    if other := [key for key in content if not isinstance(key, str)]:
        return f"has the key {other[0]!r}, which is no text; put it in quotes."
    return ""


def unmergeable(files: Sequence[Path]) -> str:
    """Why readable files cannot be read as one config, in words; "" where they can."""
    try:
        ConfigParser.load_config_files([str(file) for file in files])
    except (ValueError, LookupError) as error:  # of "+key", "key#0#other"
        return f"cannot be read on top of each other: {error}"
    return ""
