"""Segmentation: the liver in CT.

A network learns the liver on CT without contrast medium (the source task); MetaLR then fine-tunes it for portal-venous
CT, and it is scored, in the scans' own space, on scans that no training saw.
"""

from __future__ import annotations

from pathlib import Path

from commands import ALL_LAYERS, CONFIGS, Step, Task, bundle, evaluation, metalr, rate_lines, read

BUNDLE = "liver_ct_segmentation"
SMALL = CONFIGS / "sizes/two_cores.json"


def steps(output: Path) -> list[Step]:
    plain, venous, source, target = (output / name for name in ("plain", "venous", "source", "target"))
    return [
        Step("Generate CT without contrast medium", metalr("phantoms", "lits", plain, "--count=16", "--phase=plain")),
        Step(
            "Pre-train on it: the source task",
            bundle(
                *(BUNDLE, SMALL, ALL_LAYERS),
                root=source,
                dataset_dir=plain,
                split="fold 1 of 8",
                epochs=10,
                val_interval=10,
            ),
        ),
        Step(
            "Generate portal-venous CT, other patients",
            metalr("phantoms", "lits", venous, "--count=30", "--phase=venous", "--seed=1"),
        ),
        Step("Look through it", metalr("check-data", "lits", venous, "--voxels")),
        Step(
            "Fine-tune with MetaLR: the target task",
            bundle(
                *(BUNDLE, SMALL),
                root=target,
                dataset_dir=venous,
                split="fold 1 of 5",
                checkpoint=source / "models/model.pt",
            ),
        ),
        Step(
            "Score on the 6 scans that were kept apart, in their own space",
            bundle(BUNDLE, SMALL, evaluation(BUNDLE), root=target, dataset_dir=venous),
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
