"""Side by side with nnU-Net: fingerprint, preprocessing, training steps, Dice after equal time, prediction.

    make .venv-nnunet
    .venv-nnunet/bin/python benchmarks/nnunet.py        # two cores, half an hour; nothing else should run

Both get the same generated scans in nnU-Net's layout, and, with --images, the same images to predict besides. Every
figure is the time of a command of its own, as a user would type it, or what the command wrote of its steps. The network
that is trained is nnU-Net's own plan in both: patch, batch, levels, kernels and channels are read from its plans file.
Predictions are made with one and the same network, that of nnU-Net, converted.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about_run import cpu_model, given_options

from metalr_monai import data_list, write_lits_phantoms
from metalr_monai.planning.nnunet_files import write_nnunet_raw
from metalr_monai.planning.plan import Choice, write_plan
from metalr_monai.planning.stages import open_plan
from metalr_monai.weights.from_nnunet import convert_nnunet

HERE = Path(__file__).parent
ROOT = HERE.parent
LABELS = {"background": 0, "liver": 1, "tumour": 2}
PRECISIONS = ("float32", "bfloat16")
STEPS = 10  # an epoch of nnU-Net's trainer here
TRAINER = "nnUNetTrainerTimed"
CHECKPOINT = ROOT / "metalr_monai" / "weights" / "genesis_small.pt"


class Side:
    """The two tools' commands, in one folder of files, for one data set."""

    def __init__(self, folder: Path, threads: int, number: int = 1) -> None:
        self.folder, self.number = folder, number
        self.environment = {
            **os.environ,
            **{name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_def_n_proc": str(threads),
            "nnUNet_extTrainer": str(HERE / "nnunet_trainers"),
            "PYTHONPATH": str(ROOT / "tests" / "label" / "cpu_torchvision"),
        }

    def theirs(self, command: str, *words: object, **environment: object) -> float:
        """Seconds of one of nnU-Net's commands."""
        return self._timed([str(Path(sys.executable).with_name(command)), *map(str, words)], environment)

    def ours(self, *words: object) -> float:
        """Seconds of one of our verbs."""
        return self._timed([sys.executable, "-m", "metalr_monai", *map(str, words)], {})

    def _timed(self, words: list[str], environment: dict[str, object]) -> float:
        print("$", *words, flush=True)
        more = {key: str(value) for key, value in environment.items()}
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            began = time.perf_counter()
            subprocess.run(words, env=self.environment | more, cwd=ROOT, stdout=log, stderr=log, check=True)
            return time.perf_counter() - began

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / self.dataset

    @property
    def dataset(self) -> str:
        return f"Dataset{self.number:03}_CT"

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw" / self.dataset

    @property
    def model(self) -> Path:
        return self.folder / "nnUNet_results" / self.dataset / f"{TRAINER}__nnUNetPlans__3d_fullres"

    @property
    def work(self) -> Path:
        return self.folder / f"work_{self.number}"


def prepare(side: Side) -> dict[str, float]:
    """From the raw files to what training reads."""
    command = "nnUNetv2_plan_and_preprocess"
    theirs = side.theirs(command, "-d", side.number, "-c", "3d_fullres", "-npfp", 2, "-np", 2)
    ours = side.ours("plan", "nnunet", side.raw, "--output", side.work / "plan.json")
    ours += side.ours("preprocess", side.work / "plan.json")
    return {"nnU-Net, s": theirs, "here, s": ours, "nnU-Net ÷ here": theirs / ours}


def fingerprints(side: Side) -> dict[str, float]:
    """The largest difference of any value of the fingerprints, relative."""
    ours, theirs = (json.loads((f / "dataset_fingerprint.json").read_text()) for f in (side.work, side.preprocessed))
    key = "foreground_intensity_properties_per_channel"
    intensities = max(_apart(ours[key]["0"][name], value) for name, value in theirs[key]["0"].items())
    shapes = _apart(sorted(ours["shapes_after_crop"]), sorted(theirs["shapes_after_crop"]))
    spacings = _apart(sorted(ours["spacings"]), sorted(theirs["spacings"]))
    return {"intensities": intensities, "shapes": shapes, "spacings": spacings}


def _apart(one: Any, other: Any) -> float:  # noqa: ANN401 - numbers, nested
    one, other = np.asarray(one, float), np.asarray(other, float)
    return float((np.abs(one - other) / np.maximum(np.abs(other), 1e-9)).max())


def take_over(side: Side, plan: Path, iterations: int, precision: str) -> None:
    """A plan of ours with nnU-Net's network, patch and batch, for so many steps."""
    theirs = convert_nnunet(side.model, side.folder / "nnunet.pt", trust_pickle=True)
    batch = json.loads((side.preprocessed / "nnUNetPlans.json").read_text())["configurations"]["3d_fullres"][
        "batch_size"
    ]
    options = {k: v for k, v in theirs["network_options"].items() if k not in ("in_channels", "out_channels")}
    own = open_plan(side.work / "plan.json")
    steps = -(-len(own.folds[0]["train"]) // batch)
    passes = min(max(1, STEPS // steps), iterations)
    epochs = max(1, round(iterations / steps / passes))
    values = {
        "network_options": options,
        "spacing": theirs["spacing"],
        "patch_size": theirs["patch_size"],
        "batch_size": batch,
        "patches_per_volume": 1,
        "passes": passes,
        "epochs": epochs,
        "val_interval": epochs,
        "bfloat16": precision == "bfloat16",
    }
    changed = {name: Choice(value, "as in nnU-Net's plans file") for name, value in values.items()}
    plan.parent.mkdir(parents=True)
    shutil.copy(side.work / "splits_final.json", plan.parent)
    write_plan(dataclasses.replace(own.plan, choices={**own.plan.choices, **changed}), plan)
    side.ours("preprocess", plan)


def seconds_a_step(plan: Path) -> float:
    """Of a trained first fold; its first epoch warms up."""
    report = json.loads((plan.parent / "folds/fold_1/run_report.json").read_text())
    found = open_plan(plan)
    steps = -(-len(found.folds[0]["train"]) * found.plan["passes"] // found.plan["batch_size"])
    epochs = report["epochs"]
    return statistics.median(epoch["seconds"] / steps for epoch in epochs[len(epochs) > 1 :])


def step_seconds(side: Side) -> dict[str, float]:
    """A training step with its data: the same network, patch and batch."""
    side.theirs(
        "nnUNetv2_train", 1, "3d_fullres", 0, "-tr", TRAINER, "-device", "cpu", TIMED_EPOCHS=3, TIMED_STEPS=STEPS
    )
    theirs = statistics.median(_logged_steps(side)[1:])
    found = {"nnU-Net, s": theirs}
    for precision in PRECISIONS:
        plan = side.folder / f"timed_{precision}" / "plan.json"
        take_over(side, plan, 3 * STEPS, precision)
        side.ours("train", plan, "--fold", 1)
        ours = seconds_a_step(plan)
        found |= {f"here, {precision}, s": ours, f"nnU-Net ÷ here, {precision}": theirs / ours}
    return found


def _logged_steps(side: Side) -> list[float]:
    logs = sorted((side.model / "fold_0").glob("training_log_*.txt"), key=lambda file: file.stat().st_mtime)
    return [float(found) for found in re.findall(r"seconds a step: ([\d.]+)", logs[-1].read_text())]


def equal_time(side: Side, seconds: float, step: dict[str, float]) -> dict[str, dict[str, float]]:
    """Dice of the first fold's held-out scans after the same time of training, in the scans' own space."""
    epochs = max(1, round(seconds / step["nnU-Net, s"] / STEPS))
    found: dict[str, dict[str, float]] = {}
    time_of = side.theirs(
        "nnUNetv2_train", 1, "3d_fullres", 0, "-tr", TRAINER, "-device", "cpu", TIMED_EPOCHS=epochs, TIMED_STEPS=STEPS
    )
    found["nnU-Net"] = _dice(side.model / "fold_0/validation/summary.json", time_of)
    for precision in PRECISIONS:
        same = side.folder / f"same_network_{precision}" / "plan.json"
        take_over(side, same, round(seconds / step[f"here, {precision}, s"]), precision)
        found[f"here, nnU-Net's network from scratch, {precision}"] = _trained(side, same)
    found["here, the shipped small network fine-tuned with MetaLR"] = _trained(side, _small_network(side, seconds))
    return found


def _small_network(side: Side, seconds: float) -> Path:
    """A plan from the shipped checkpoint, for as many steps as take so long."""
    iterations = 3 * STEPS
    for name in ("probe", "tuned"):
        plan = side.folder / name / "plan.json"
        side.ours("plan", "nnunet", side.raw, "--output", plan, "--checkpoint", CHECKPOINT, "--iterations", iterations)
        side.ours("preprocess", plan)
        if name == "probe":
            side.ours("train", plan, "--fold", 1)
            iterations = round(seconds / seconds_a_step(plan))
    return plan


def _trained(side: Side, plan: Path) -> dict[str, float]:
    seconds = side.ours("train", plan, "--fold", 1)
    side.ours("evaluate", plan, "--fold", 1)
    return _dice(plan.parent / "folds/fold_1/validation/summary.json", seconds)


def _dice(summary: Path, seconds: float) -> dict[str, float]:
    mean = json.loads(summary.read_text())["mean"]
    return {"liver Dice": mean["1"]["Dice"], "tumour Dice": mean["2"]["Dice"], "command, s": seconds}


def prediction(side: Side, images: Path, name: str) -> dict[str, float]:
    """Networks of one architecture on the same images, with nnU-Net's mirroring and without."""
    common = ("-d", 1, "-c", "3d_fullres", "-f", 0, "-tr", TRAINER, "-device", "cpu", "-npp", 2, "-nps", 2)
    found: dict[str, float] = {"images": len(list(images.glob("*.nii.gz")))}
    for mirrored in ("plain", "mirrored"):
        words = ("--disable_tta",) if mirrored == "plain" else ()
        theirs = side.theirs(
            "nnUNetv2_predict", "-i", images, "-o", side.folder / f"{name}_{mirrored}", *common, *words
        )
        found[f"{mirrored}: nnU-Net, s"] = theirs
        for precision in PRECISIONS:
            plan = side.folder / f"same_network_{precision}" / "plan.json"
            output = side.folder / f"{name}_{mirrored}_{precision}"
            words = ("--no-mirroring",) if mirrored == "plain" else ()
            ours = side.ours("predict", plan, images, output, "--fold", 1, *words)
            found |= {
                f"{mirrored}: here, {precision}, s": ours,
                f"{mirrored}: nnU-Net ÷ here, {precision}": theirs / ours,
            }
    return found


def real_ct(side: Side, folder: Path) -> dict[str, Any]:
    """Fingerprint, preprocessing and prediction of real scans; the network is that of the generated ones."""
    real = Side(side.folder, os.cpu_count() or 1, 2)
    write_nnunet_raw(data_list("pairs", folder), real.raw, LABELS)
    prepared = prepare(real)
    return {
        "plan and preprocess, real CT": prepared,
        "fingerprints apart, real CT": fingerprints(real),
        "prediction, real CT": prediction(side, real.raw / "imagesTr", "real"),
    }


def write_results(found: dict[str, Any], args: argparse.Namespace, options: list[str]) -> None:
    """JSON, and a page of it."""
    about = {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, no GPU",
        "date": datetime.date.today().isoformat(),
        "versions": f"torch {torch.__version__}, nnunetv2 {importlib.metadata.version('nnunetv2')}",
        "command": " ".join([".venv-nnunet/bin/python benchmarks/nnunet.py --folder FOLDER", *options]),
    }
    args.output.with_suffix(".json").write_text(json.dumps({"about": about, **found}, indent=1) + "\n")
    lines = ["# Beside nnU-Net", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    for title, values in found.items():
        lines += [f"## {title[0].upper()}{title[1:]}", "", "| | |", "|---|---|"]
        for name, value in values.items():
            shown = ", ".join(f"{k} {v:.3g}" for k, v in value.items()) if isinstance(value, dict) else f"{value:.3g}"
            lines.append(f"| {name} | {shown} |")
        lines.append("")
    args.output.with_suffix(".md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a new folder for all files")
    parser.add_argument("--count", type=int, default=20, help="generated scans")
    parser.add_argument("--size", type=int, nargs=3, default=[64, 64, 32], help="their voxels")
    parser.add_argument("--seconds", type=float, default=240, help="of training, in the comparison at equal time")
    parser.add_argument("--real", type=Path, help="a data set of CT in the layout pairs, with labels")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "nnunet_cpu")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    side = Side(args.folder.absolute(), os.cpu_count() or 1)
    write_lits_phantoms(side.folder / "lits", args.count, size=tuple(args.size))
    write_nnunet_raw(data_list("lits", side.folder / "lits"), side.raw, LABELS)
    found: dict[str, Any] = {"plan and preprocess": prepare(side), "fingerprints apart": fingerprints(side)}
    found["training step"] = step_seconds(side)
    found["Dice after equal time"] = equal_time(side, args.seconds, found["training step"])
    unseen = side.folder / "unseen"
    write_lits_phantoms(side.folder / "others", 5, seed=7, size=tuple(args.size))
    unseen.mkdir()
    for file in (side.folder / "others").glob("volume-*"):
        file.rename(unseen / file.name.replace(".nii", "_0000.nii"))
    found["prediction"] = prediction(side, unseen, "phantoms")
    if args.real:
        found |= real_ct(side, args.real)
    own = {"folder": None, "real": Path("DATA") if args.real else None}
    write_results(found, args, given_options(parser, argparse.Namespace(**{**vars(args), **own})))


if __name__ == "__main__":
    main()
