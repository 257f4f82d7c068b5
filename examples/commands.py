"""The commands of a demo: each is one that a user would type, and is printed before it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
ALL_LAYERS = CONFIGS / "schemes/all_layers.json"
REMINDERS = (" - WARNING - Not all config files are in ", " - INFO - Setting logging properties ")  # MONAI's


@dataclass(frozen=True)
class Step:
    """A command of a demo."""

    title: str
    words: Sequence[str]


@dataclass(frozen=True)
class Task:
    """A demo: what it runs in its output folder, and what it found there."""

    steps: Callable[[Path], list[Step]]
    summary: Callable[[Path], str]


def metalr(*words: object) -> list[str]:
    return ["-m", "metalr_monai", *map(str, words)]


def bundle(name: str, *overlays: Path, root: Path, **keys: object) -> list[str]:
    """`monai.bundle run` of a bundle's train.json with overlays and keys."""
    configs = ROOT / "bundles" / name / "configs"
    files = [str(path.relative_to(ROOT)) for path in (configs / "train.json", *overlays)]
    fixed = {"meta_file": configs / "metadata.json", "logging_file": ROOT / "examples/logging.conf"}
    options = {"config_file": str(files).replace(" ", ""), **fixed, "bundle_root": root, **keys}
    return ["-m", "monai.bundle", "run", *(word for key, value in options.items() for word in (f"--{key}", str(value)))]


def evaluation(name: str) -> Path:
    """The overlay that scores what a training has written."""
    return ROOT / "bundles" / name / "configs/evaluate.json"


def run(step: Step, title: str) -> None:
    """Print the command as a user would type it, and run it; stop the demo if it fails."""
    words = (f'"{word}"' if set(word) & set(" '[") else word for word in ("python", *step.words))
    shown = " ".join(words).replace(f"{ROOT}/", "")
    print(f"\n━━ {title}\n   {shown}\n", flush=True)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore:parsing config_file:UserWarning", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *step.words], env=quiet, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8"
    )
    with process as running:
        for line in running.stdout or ():
            if not any(reminder in line for reminder in REMINDERS):
                print(line, end="", flush=True)
    if process.returncode:
        sys.exit(f"\nThe demo stopped: this step ended with exit code {process.returncode}.")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def rate_lines(report: dict[str, Any], digits: int = 4) -> Iterable[str]:
    """The learned rates out of a run's report, for people."""
    yield "\nLearning rate of each block, start → end:"
    for block in report["metalr"]["blocks"]:
        yield f"   {block['name']:<12}{block['start_rate']:.{digits}f} → {block['rate']:.{digits}f}"
