"""What stands beside the figures of a benchmark: the machine, and what to type to measure again."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def given_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """What to type for this run again."""
    given = {key: value for key, value in vars(args).items() if value != parser.get_default(key) and key != "output"}
    words = {k: "" if v is True else " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in given.items()}
    return [f"--{key.replace('_', '-')} {word}".strip() for key, word in words.items()]
