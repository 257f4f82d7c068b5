"""Segmentation: the liver in CT.

MetaLR fine-tunes a small network that was pre-trained on CT without labels (Models Genesis) and comes with the package;
it is scored, in the scans' own space, on scans that no training saw.
"""

from __future__ import annotations

from pathlib import Path

from commands import CONFIGS, Step, Task, bundle, evaluation, metalr, rate_lines, read

BUNDLE = "liver_ct_segmentation"
SMALL = CONFIGS / "sizes/two_cores.json"
GENESIS = CONFIGS / "networks/genesis_small.json"


def steps(output: Path) -> list[Step]:
    scans, root = output / "scans", output / "target"
    return [
        Step(
            "Generate portal-venous CT of 30 patients",
            metalr("phantoms", "lits", scans, "--count=30", "--phase=venous", "--seed=1"),
        ),
        Step("Look through it", metalr("check-data", "lits", scans, "--voxels")),
        Step(
            "Fine-tune the network that comes with the package, with MetaLR",
            bundle(*(BUNDLE, SMALL, GENESIS), root=root, dataset_dir=scans, split="fold 1 of 5"),
        ),
        Step(
            "Score on the 6 scans that were kept apart, in their own space",
            bundle(BUNDLE, SMALL, evaluation(BUNDLE), root=root, dataset_dir=scans),
        ),
    ]


def summary(output: Path) -> str:
    run_folder = output / "target/runs"
    report = read(run_folder / "train/run_report.json")
    before = report["validation"][0]["metrics"]["liver_dice"]
    after = report["validation"][-1]["metrics"]["liver_dice"]
    scores = read(run_folder / "evaluate/metrics.json")["summary"]["liver"]
    return "\n".join(
        [
            f"Liver Dice on 6 unseen scans: {before:.3f} before fine-tuning, {after:.3f} after it (6 mm voxels);",
            "in the scans' own space: "
            + ", ".join(f"{name} {scores[name]['mean']:.3f}" for name in ("dice", "ppv", "sensitivity")),
            *rate_lines(report),
            f"\nReport: {run_folder / 'train/report.html'}",
        ]
    )


LIVER = Task(steps, summary)
