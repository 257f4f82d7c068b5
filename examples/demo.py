"""The main job from end to end, on generated scans: what `make demo` runs. A few minutes on two cores, no GPU.

    python examples/demo.py demo_output

Each step is a command that a user would type, and is printed before it runs. A network learns the liver on CT without
contrast medium (the source task); MetaLR then fine-tunes it for portal-venous CT, and it is scored, in the scans' own
space, on scans that no training saw. One seed of a generated task: it shows what a user types and sees, and not which
scheme is better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles/liver_ct_segmentation"
SMALL = ROOT / "configs/sizes/two_cores.json"
ALL_LAYERS = ROOT / "configs/schemes/all_layers.json"


@dataclass(frozen=True)
class Step:
    """A command of the demo."""

    title: str
    words: Sequence[str]


def metalr(*words: object) -> list[str]:
    return ["-m", "metalr_monai", *map(str, words)]


def bundle(*overlays: Path, root: Path, **keys: object) -> list[str]:
    """`monai.bundle run` of the bundle's train.json with overlays and keys."""
    files = [str(path.relative_to(ROOT)) for path in (BUNDLE / "configs/train.json", SMALL, *overlays)]
    fixed = {"meta_file": BUNDLE / "configs/metadata.json", "logging_file": ROOT / "examples/logging.conf"}
    options = {"config_file": str(files).replace(" ", ""), **fixed, "bundle_root": root, **keys}
    return ["-m", "monai.bundle", "run", *(word for key, value in options.items() for word in (f"--{key}", str(value)))]


def steps(output: Path) -> list[Step]:
    plain, venous, source, target = (output / name for name in ("plain", "venous", "source", "target"))
    return [
        Step("Generate CT without contrast medium", metalr("phantoms", "lits", plain, "--count=16", "--phase=plain")),
        Step(
            "Pre-train on it: the source task",
            bundle(ALL_LAYERS, root=source, dataset_dir=plain, split="fold 1 of 8", epochs=10, val_interval=10),
        ),
        Step(
            "Generate portal-venous CT, other patients",
            metalr("phantoms", "lits", venous, "--count=30", "--phase=venous", "--seed=1"),
        ),
        Step("Look through it", metalr("check-data", "lits", venous, "--voxels")),
        Step(
            "Fine-tune with MetaLR: the target task",
            bundle(root=target, dataset_dir=venous, split="fold 1 of 5", checkpoint=source / "models/model.pt"),
        ),
        Step(
            "Score on the 6 scans that were kept apart, in their own space",
            bundle(BUNDLE / "configs/evaluate.json", root=target, dataset_dir=venous),
        ),
    ]


def run(step: Step, title: str) -> None:
    """Print the command as a user would type it, and run it; stop the demo if it fails."""
    words = (f'"{word}"' if set(word) & set(" '[") else word for word in ("python", *step.words))
    shown = " ".join(words).replace(f"{ROOT}/", "")
    print(f"\n━━ {title}\n   {shown}\n", flush=True)
    quiet = {**os.environ, "PYTHONWARNINGS": "ignore:parsing config_file:UserWarning"}
    if code := subprocess.run([sys.executable, *step.words], env=quiet, cwd=ROOT, check=False).returncode:
        sys.exit(f"\nThe demo stopped: this step ended with exit code {code}.")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def summary(output: Path) -> str:
    run_folder = output / "target/runs"
    report = read(run_folder / "train/run_report.json")
    before = report["validation"][0]["metrics"]["liver_dice"]
    after = report["validation"][-1]["metrics"]["liver_dice"]
    scores = read(run_folder / "evaluate/metrics.json")["summary"]["liver"]
    rates = [
        f"   {block['name']:<12}{block['start_rate']:.4f} → {block['rate']:.4f}" for block in report["metalr"]["blocks"]
    ]
    return "\n".join(
        [
            f"Liver Dice on 6 unseen scans: {before:.3f} before fine-tuning, {after:.3f} after it (6 mm voxels);",
            "in the scans' own space: "
            + ", ".join(f"{name} {scores[name]['mean']:.3f}" for name in ("dice", "ppv", "sensitivity")),
            "\nLearning rate of each block, start → end:",
            *rates,
            f"\nReport: {run_folder / 'train/report.html'}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder that is made")
    output = parser.parse_args().output.absolute()
    if output.exists():
        sys.exit(f"{output} exists; name a new folder, or remove this one first.")
    began = time.monotonic()
    todo = steps(output)
    for number, step in enumerate(todo, 1):
        run(step, f"{number} of {len(todo)} · {step.title}")
    print(f"\n━━ Done in {time.monotonic() - began:.0f} s\n\n{summary(output)}")


if __name__ == "__main__":
    main()
