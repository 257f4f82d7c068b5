"""Classification: the class of an ultrasound image.

A ResNet-18 learns to tell breast lesions apart (the source task); MetaLR then fine-tunes it for lung ultrasound, on the
frames of 48 videos, and it is scored on those of 24 others.
"""

from __future__ import annotations

from pathlib import Path

from commands import ALL_LAYERS, CONFIGS, Step, Task, bundle, evaluation, metalr, rate_lines, read

BUNDLE = "lesion_2d_classification"
BREAST, LUNG = CONFIGS / "datasets/busi.yaml", CONFIGS / "datasets/pocus.yaml"


def steps(output: Path) -> list[Step]:
    breast, lung, source, target = (output / name for name in ("breast", "lung", "source", "target"))
    return [
        Step("Generate breast ultrasound", metalr("phantoms", "busi", breast, "--count=120")),
        Step(
            "Pre-train on it: the source task",
            bundle(
                *(BUNDLE, BREAST, ALL_LAYERS),
                **{"root": source, "dataset_dir": breast, "epochs": 10, "val_interval": 10, "batch_size": 24},
            ),
        ),
        Step("Generate lung ultrasound: frames of videos", metalr("phantoms", "pocus", lung, "--count=24", "--seed=1")),
        Step("Look through it", metalr("check-data", "pocus", lung)),
        Step(
            "Fine-tune with MetaLR: the target task",
            bundle(
                *(BUNDLE, LUNG),
                **{"root": target, "dataset_dir": lung, "split": "fold 1 of 3", "epochs": 8, "val_interval": 8},
                **{
                    "batch_size": 24,
                    "rule": "exponential",
                    "scale": "cosine",
                    "checkpoint": source / "models/model.pt",
                },
            ),
        ),
        Step(
            "Score on the 24 videos that were kept apart",
            bundle(BUNDLE, LUNG, evaluation(BUNDLE), root=target, dataset_dir=lung),
        ),
    ]


def summary(output: Path) -> str:
    run_folder = output / "target/runs"
    report = read(run_folder / "train/run_report.json")
    scores = read(run_folder / "evaluate/metrics.json")
    before, after = report["validation"][0]["metrics"]["accuracy"], scores["accuracy"]["value"]
    found = [f"{name} {score['sensitivity']['value']:.3f}" for name, score in scores["by_class"].items()]
    frames = f"{scores['cases']} frames of {scores['groups']} unseen videos"
    return "\n".join(
        [
            f"Accuracy on {frames}: {before:.3f} before fine-tuning, {after:.3f} after it",
            f"Sensitivity: {', '.join(found)}",
            *rate_lines(report, digits=6),
            f"\nReport: {run_folder / 'train/report.html'}",
        ]
    )


LESION = Task(steps, summary)
