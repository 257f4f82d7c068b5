"""Side by side with nnU-Net: fingerprint, preprocessing, training steps, Dice after equal time, prediction.

    make .venv-nnunet
    .venv-nnunet/bin/python benchmarks/nnunet.py --folder FOLDER    # half an hour on two cores; nothing else should run

Both get the same generated scans in nnU-Net's layout, and, with --real, the same CT besides. Times are those of
commands as a user types them, with all that a command begins with, or what a command wrote of its training steps.
The network is that of nnU-Net's own plan in both: patch, batch, levels, kernels and channels, with weights that
each has trained. What differs stands on the page.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from about_run import cpu_model, given_options

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the code beside this file, as in the commands

from metalr_monai import data_list, write_lits_phantoms  # noqa: E402 - see above
from metalr_monai.planning.nnunet_files import write_nnunet_raw  # noqa: E402
from metalr_monai.planning.plan import Choice, write_plan  # noqa: E402
from metalr_monai.planning.stages import open_plan  # noqa: E402
from metalr_monai.weights.from_nnunet import convert_nnunet  # noqa: E402

HERE = ROOT / "benchmarks"
LABELS = {"background": 0, "liver": 1, "tumour": 2}
PRECISIONS = ("float32", "bfloat16")
STEPS = 8  # an epoch of nnU-Net's trainer here
TRAINER, BARE = "nnUNetTrainerTimed", "nnUNetTrainerTimedBare"
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
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests/label/cpu_torchvision", HERE / "nnunet_trainers"))),
            "CUDA_VISIBLE_DEVICES": "",
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
        return self.trained(TRAINER)

    def trained(self, trainer: str) -> Path:
        return self.folder / "nnUNet_results" / self.dataset / f"{trainer}__nnUNetPlans__3d_fullres"

    @property
    def work(self) -> Path:
        return self.folder / f"work_{self.number}"


def prepare(side: Side) -> dict[str, float]:
    """From the raw files to what training reads."""
    command = "nnUNetv2_plan_and_preprocess"
    theirs = side.theirs(
        command, "-d", side.number, "-c", "3d_fullres", "-npfp", 2, "-np", 2, "--verify_dataset_integrity"
    )
    regions = ("--regions", "liver=1+2") if side.number == 2 else ()  # few of the real scans have tumours
    ours = side.ours("plan", "nnunet", side.raw, "--output", side.work / "plan.json", "--and-preprocess", *regions)
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
    shutil.rmtree(plan.parent, ignore_errors=True)
    plan.parent.mkdir(parents=True)
    shutil.copy(side.work / "splits_final.json", plan.parent)
    write_plan(dataclasses.replace(own.plan, choices={**own.plan.choices, **changed}), plan)
    side.ours("preprocess", plan)


def seconds_a_step(plan: Path) -> float:
    """Of a trained first fold; its first epoch warms up."""
    epochs = json.loads((plan.parent / "folds/fold_1/run_report.json").read_text())["epochs"]
    return statistics.median(epoch["seconds"] / _steps(plan) for epoch in epochs[len(epochs) > 1 :])


def _steps(plan: Path) -> int:
    """Of an epoch."""
    found = open_plan(plan)
    return -(-len(found.folds[0]["train"]) * found.plan["passes"] // found.plan["batch_size"])


def step_seconds(side: Side) -> dict[str, float]:
    """A training step with its data: the same network, patch and batch."""
    found: dict[str, float] = {}
    for name, trainer in (("nnU-Net", TRAINER), ("nnU-Net without augmentation and deep supervision", BARE)):
        words = (side.number, "3d_fullres", 0, "-tr", trainer, "-device", "cpu")
        side.theirs("nnUNetv2_train", *words, TIMED_EPOCHS=3, TIMED_STEPS=STEPS)
        found[f"{name}, s"] = statistics.median(_logged_steps(side, trainer)[1:])
    for precision in PRECISIONS:
        plan = side.folder / f"timed_{precision}" / "plan.json"
        take_over(side, plan, 3 * STEPS, precision)
        side.ours("train", plan, "--fold", 1)
        found[f"here, {precision}, s"] = seconds_a_step(plan)
    theirs, bare = list(found.values())[:2]
    for precision in PRECISIONS:
        ours = found[f"here, {precision}, s"]
        found |= {f"nnU-Net ÷ here, {precision}": theirs / ours, f"nnU-Net without … ÷ here, {precision}": bare / ours}
    return found


def _logged_steps(side: Side, trainer: str) -> list[float]:
    logs = sorted((side.trained(trainer) / "fold_0").glob("training_log_*.txt"), key=lambda file: file.stat().st_mtime)
    return [float(found) for found in re.findall(r"seconds a step: ([\d.]+)", logs[-1].read_text())]


def equal_time(side: Side, seconds: float, step: dict[str, float]) -> dict[str, dict[str, float]]:
    """Dice of the first fold's held-out scans after the same time of training, in the scans' own space."""
    epochs = max(1, round(seconds / step["nnU-Net, s"] / STEPS))
    found: dict[str, dict[str, float]] = {}
    words = (side.number, "3d_fullres", 0, "-tr", TRAINER, "-device", "cpu")
    side.theirs("nnUNetv2_train", *words, TIMED_EPOCHS=epochs, TIMED_STEPS=STEPS)
    trained = STEPS * sum(_logged_steps(side, TRAINER))
    found["nnU-Net"] = _dice(side.model / "fold_0/validation/summary.json", epochs * STEPS, trained)
    same = side.folder / "same_network" / "plan.json"
    take_over(side, same, round(seconds / step["here, bfloat16, s"]), "bfloat16")
    found["here, nnU-Net's network from scratch, bfloat16"] = _trained(side, same)
    name = "here, the shipped small network (pre-trained without labels on ten such scans and five CT), MetaLR"
    found[name] = _trained(side, _small_network(side, seconds))
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
    side.ours("train", plan, "--fold", 1)
    side.ours("evaluate", plan, "--fold", 1)
    fold = plan.parent / "folds/fold_1"
    epochs = json.loads((fold / "run_report.json").read_text())["epochs"]
    seconds = sum(epoch["seconds"] for epoch in epochs)
    return _dice(fold / "validation/summary.json", len(epochs) * _steps(plan), seconds)


def _dice(summary: Path, steps: int, seconds: float) -> dict[str, float]:
    mean = json.loads(summary.read_text())["mean"]
    return {"liver Dice": mean["1"]["Dice"], "tumour Dice": mean["2"]["Dice"], "steps": steps, "training s": seconds}


def prediction(side: Side, images: Path, name: str) -> dict[str, float]:
    """Networks of one architecture on the same images, without nnU-Net's mirroring and with it."""
    common = ("-d", 1, "-c", "3d_fullres", "-f", 0, "-tr", TRAINER, "-device", "cpu")
    found: dict[str, float] = {"images": len(list(images.glob("*.nii.gz")))}
    for kind, theirs_without, ours_without in (
        ("plain", ("--disable_tta",), ("--no-mirroring",)),
        ("mirrored", (), ()),
    ):
        each = []
        for workers in (1, 2):  # processes that read, and that write
            output = side.folder / f"{name}_{kind}_{workers}"
            given = ("-i", images, "-o", output, "-npp", workers, "-nps", workers)
            each.append(side.theirs("nnUNetv2_predict", *given, *common, *theirs_without))
        found[f"{kind}: nnU-Net, the faster of 1 and 2 workers, s"] = min(each)
        for precision in PRECISIONS:
            plan, output = side.folder / f"timed_{precision}", side.folder / f"{name}_{kind}_{precision}"
            shutil.rmtree(output, ignore_errors=True)
            ours = side.ours("predict", plan, images, output, "--fold", 1, *ours_without)
            found |= {f"{kind}: here, {precision}, s": ours, f"{kind}: nnU-Net ÷ here, {precision}": min(each) / ours}
    theirs, *ours = (
        found[f"mirrored: {who}, s"] - found[f"plain: {who}, s"]
        for who in ("nnU-Net, the faster of 1 and 2 workers", *(f"here, {precision}" for precision in PRECISIONS))
    )
    for precision, seconds in zip(PRECISIONS, ours, strict=True):
        found[f"the 7 mirrored passes alone: nnU-Net ÷ here, {precision}"] = theirs / seconds
    return found


STAGES: dict[str, Callable[[Side, argparse.Namespace, dict[str, Any]], dict[str, Any]]] = {
    "Plan and preprocess": lambda side, args, found: prepare(side),
    "Plan and preprocess, scans 8 times as large": lambda side, args, found: prepare(larger(side, args)),
    "Fingerprints apart, relative": lambda side, args, found: fingerprints(side),
    "A training step": lambda side, args, found: step_seconds(side),
    "Dice after equal time of training": lambda side, args, found: equal_time(
        side, args.seconds, found["A training step"]
    ),
    "Prediction of generated scans": lambda side, args, found: prediction(side, side.folder / "unseen", "phantoms"),
    "Plan and preprocess, real CT": lambda side, args, found: prepare(real(side)),
    "Fingerprints apart, relative, real CT": lambda side, args, found: fingerprints(real(side)),
    "Prediction of real CT": lambda side, args, found: prediction(side, real(side).raw / "imagesTr", "real"),
}
PAGE = """\
Both train and predict on two cores with the same network, patch and batch. nnU-Net resamples by cubic splines and
compresses what it writes; here resampling is linear and arrays are plain. nnU-Net trains with deep supervision, and
with rotations, scalings and more in a process of its own; here there is one output, and crops, flips, brightness
and noise. Its network has biases in front of its norms. A command's time has its start in it, in both. One run, one
seed: of Dice nothing is claimed.
"""


def real(side: Side) -> Side:
    """Real scans; the network that predicts them is that of the generated ones."""
    return Side(side.folder, os.cpu_count() or 1, 2)


def larger(side: Side, args: argparse.Namespace) -> Side:
    """As many scans again, of twice the voxels along each axis, where less of the time is a command's start."""
    found = Side(side.folder, os.cpu_count() or 1, 3)
    shutil.rmtree(side.folder / "larger", ignore_errors=True)
    shutil.rmtree(found.raw, ignore_errors=True)
    write_lits_phantoms(side.folder / "larger", args.count, size=tuple(2 * length for length in args.size))
    write_nnunet_raw(data_list("lits", side.folder / "larger"), found.raw, LABELS)
    return found


def make_data(side: Side, args: argparse.Namespace) -> None:
    """Both tools' raw data, and scans that no training sees."""
    for name, count, seed in (("lits", args.count, 0), ("others", 5, 7)):
        write_lits_phantoms(side.folder / name, count, seed=seed, size=tuple(args.size))
    write_nnunet_raw(data_list("lits", side.folder / "lits"), side.raw, LABELS)
    (side.folder / "unseen").mkdir()
    for file in (side.folder / "others").glob("volume-*"):
        file.rename(side.folder / "unseen" / file.name.replace(".nii", "_0000.nii"))
    if args.real:
        write_nnunet_raw(data_list("pairs", args.real), real(side).raw, LABELS)


def write_results(found: dict[str, Any], args: argparse.Namespace, options: list[str]) -> None:
    """JSON, and a page of it."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    about = {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, no GPU",
        "date": datetime.date.today().isoformat(),
        "versions": f"torch {torch.__version__}, nnunetv2 {importlib.metadata.version('nnunetv2')}, {commit.strip()}",
        "command": " ".join([".venv-nnunet/bin/python benchmarks/nnunet.py --folder FOLDER", *options]),
    }
    args.output.with_suffix(".json").write_text(json.dumps({"about": about, "found": found}, indent=1) + "\n")
    lines = ["# Beside nnU-Net", "", PAGE, *(f"- {name}: {value}" for name, value in about.items()), ""]
    for title, values in found.items():
        lines += [f"## {title}", "", *_table(values), ""]
    args.output.with_suffix(".md").write_text("\n".join(lines))


def _table(values: dict[str, Any]) -> list[str]:
    rows = {name: value if isinstance(value, dict) else {"": value} for name, value in values.items()}
    columns = list(next(iter(rows.values())))
    body = [f"| {name} | {' | '.join(f'{value:.3g}' for value in row.values())} |" for name, row in rows.items()]
    return [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|", *body]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for all files; goes on with what is in it")
    parser.add_argument("--count", type=int, default=20, help="generated scans")
    parser.add_argument("--size", type=int, nargs=3, default=[64, 64, 32], help="their voxels")
    parser.add_argument("--seconds", type=float, default=240, help="of training, in the comparison at equal time")
    parser.add_argument("--real", type=Path, help="a data set of CT in the layout pairs, with labels")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "nnunet_cpu")
    args = parser.parse_args()
    side = Side(args.folder.absolute(), os.cpu_count() or 1)
    state = side.folder / "found.json"
    if not side.folder.exists():
        side.folder.mkdir(parents=True)
        make_data(side, args)
    found: dict[str, Any] = json.loads(state.read_text()) if state.exists() else {}
    own = {"folder": None, "real": Path("DATA") if args.real else None}
    options = given_options(parser, argparse.Namespace(**{**vars(args), **own}))
    for title, stage in STAGES.items():
        if title not in found and (args.real or "real" not in title):
            found[title] = stage(side, args, found)
            state.write_text(json.dumps(found))
            write_results(found, args, options)


if __name__ == "__main__":
    main()
