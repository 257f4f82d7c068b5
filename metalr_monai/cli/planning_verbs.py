"""The verbs of the nnU-Net-style pipeline: `plan`, `preprocess`, `train`, `evaluate`, `postprocess`, `run-all`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.ct_lists import data_list
from ..errors import OptionError, first_few, near_misses
from ..evaluation.nnunet_summary import FolderScores
from ..planning.make_plan import make_plan, output_values_of
from ..planning.nnunet_files import read_nnunet_fingerprint, read_nnunet_plans, write_nnunet_raw
from ..planning.stages import Stages, open_plan
from ..planning.workspace import workspace
from ..weights.from_nnunet import convert_nnunet
from .answer import Answer


def plan(
    kind: str,
    folder: str,
    *,
    output: str = "plan.json",
    checkpoint: str | None = None,
    bundle: str = "bundles/liver_ct_segmentation",
    regions: str | None = None,
    iterations: int | None = None,
    folds: int | None = None,
    memory: float | None = None,
    precision: str = "auto",
    check: str = "voxels",
    workers: int | None = None,
    and_preprocess: bool = False,
) -> Answer:
    """Look through a data set and write down how a network is trained on it, with the reason of every value.

    KIND: layout of the folder: lits, msd, nnunet or pairs.
    FOLDER: of the data set.
    --output: plan.json of a folder that takes all that comes of it; ./plan.json unless told otherwise.
    --checkpoint: pre-trained weights to fine-tune with MetaLR; without it a DynUNet is trained from scratch.
    --bundle: the folder of the liver bundle, which trains.
    --regions: what to segment, such as "liver=1+2; tumour=2"; else what nnU-Net's dataset.json says, or liver=1+2.
    --iterations: steps of each fold, in place of the planned ones.
    --folds: of the cross-validation; those of a splits_final.json beside the plan, or 5.
    --memory: GB for training, what is free unless told otherwise.
    --precision: float32, bfloat16, or auto for bfloat16 on a CPU that computes in it, in about half of the time.
    --check: voxels, headers or none: how closely the data are looked at for what would spoil a training.
    --workers: threads.
    --and-preprocess: preprocess at once.
    """
    place = workspace(output)
    made = make_plan(
        kind,
        Path(folder).expanduser().absolute(),
        place,
        checkpoint=None if checkpoint is None else Path(checkpoint).expanduser().absolute(),
        bundle=Path(bundle).expanduser().absolute(),
        regions=None if regions is None else read_regions(regions),
        iterations=iterations,
        folds=folds,
        memory_gb=memory,
        bfloat16=_precision(precision),
        check=check,
        workers=workers,
    )
    warnings = made.dataset.get("warnings", [])
    about = {"plan": str(place.plan), "family": made.family, "values": made.values, "warnings": warnings}
    unusual = ["", "The data can be trained on, but:", *(f"  {line}" for line in warnings)] if warnings else []
    rows = [str(made), *unusual, "", f"Written to {place.plan}; edit its values, if you know better."]
    planned = Answer(about, "\n".join(rows))
    if not and_preprocess:
        return planned
    done = preprocess(output, workers=workers)
    return Answer({**planned.data, **done.data}, f"{planned.text}\n{done.text}", done.ok)


def preprocess(plan: str, *, verify: bool = False, workers: int | None = None) -> Answer:
    """Orient, resample and scale a plan's cases once, into files that training maps into memory.

    PLAN: its plan.json, or the folder with it.
    --verify: also compare what is there with its SHA-256.
    --workers: threads.
    """
    found = open_plan(plan).preprocess(verify=verify, workers=workers)
    data = {"made": list(found.made), "kept": list(found.kept), "failed": dict(found.failed)}
    text = f"{len(found.made)} case(s) prepared, {len(found.kept)} were there."
    return Answer(data, "\n".join([*_failures(found.failed), text]), not found.failed)


def train(plan: str, *, fold: int | str = "all") -> Answer:
    """Train a plan's folds by the bundle; what is done is not done again, and what was stopped goes on.

    PLAN: its plan.json, or the folder with it.
    --fold: 1 … N, or all.
    """
    stages = open_plan(plan)
    trained = stages.train(fold)
    rows = [f"fold {number}: {'trained' if now else 'was trained'}" for number, now in trained.items()]
    return Answer({"trained": {str(number): now for number, now in trained.items()}}, "\n".join(rows))


def evaluate(plan: str, *, fold: int | str = "all") -> Answer:
    """Score the cases that the folds held out: summary.json in nnU-Net's form, metrics.csv by case.

    PLAN: its plan.json, or the folder with it.
    --fold: 1 … N, or all.
    """
    stages = open_plan(plan)
    return _scores(stages, stages.evaluate(fold), fold)


def postprocess(plan: str) -> Answer:
    """Keep largest components alone in predictions, if that helps on the cases that the folds held out.

    PLAN: its plan.json, or the folder with it.
    """
    stages = open_plan(plan)
    decision = stages.postprocess()
    taken = [{"name": step.name, "labels": list(step.labels)} for step in decision.taken]
    rows = [f"{step.name}: {step.reason}" for step in decision.steps]
    data = {
        "taken": taken,
        "dice_before": _plain(decision.dice_before),
        "dice_after": _plain(decision.dice_after),
        "failed": dict(decision.failed),
        "file": str(stages.place.postprocessing),
    }
    return Answer(data, "\n".join([*_failures(decision.failed), *rows]), decision.ok)


def run_all(
    kind: str,
    folder: str,
    *,
    output: str = "plan.json",
    checkpoint: str | None = None,
    bundle: str = "bundles/liver_ct_segmentation",
    regions: str | None = None,
    iterations: int | None = None,
    folds: int | None = None,
    memory: float | None = None,
    precision: str = "auto",
    check: str = "voxels",
    workers: int | None = None,
) -> Answer:
    """Plan, preprocess, train all folds, evaluate and postprocess, one after the other; goes on where it was stopped.

    The arguments are those of plan.
    """
    planned = plan(
        kind,
        folder,
        output=output,
        checkpoint=checkpoint,
        bundle=bundle,
        regions=regions,
        iterations=iterations,
        folds=folds,
        memory=memory,
        precision=precision,
        check=check,
        workers=workers,
        and_preprocess=True,
    )
    if not planned.ok:
        return planned
    stages = open_plan(output)
    stages.train()
    scores = stages.evaluate()
    decision = stages.postprocess()
    answer = _scores(stages, scores, "all")
    rows = [f"{step.name}: {step.reason}" for step in decision.steps]
    return Answer(
        {**answer.data, "postprocessing": [step.name for step in decision.taken]},
        "\n".join([answer.text, *rows]),
        answer.ok and decision.ok,
    )


def import_nnunet(source: str, output: str, *, trust_pickle: bool = False) -> Answer:
    """Make of a checkpoint that nnU-Net trained one that plan --checkpoint takes: tensors alone, for MONAI's DynUNet.

    SOURCE: checkpoint_final.pth, or the folder of a training with one trained fold.
    OUTPUT: file to write; its settings stand beside it, ending in .json.
    --trust-pickle: nnU-Net's files are pickles, which can run any code: give it for files of people you trust.
    """
    file = Path(output).expanduser().absolute()
    settings = convert_nnunet(Path(source).expanduser(), file, trust_pickle=trust_pickle)
    rows = [f"{name:<16}{settings[name]}" for name in ("spacing", "patch_size", "hu_window", "regions")]
    return Answer({"file": str(file), **settings}, "\n".join([str(file), *rows, *settings["notes"]]))


def inspect_nnunet(file: str) -> Answer:
    """`inspect` of nnU-Net's plans or fingerprint."""
    is_plans = "plans" in Path(file).name.lower()
    found = read_nnunet_plans(file) if is_plans else read_nnunet_fingerprint(file)
    return Answer(found, "\n".join(f"{name}: {json.dumps(value)}" for name, value in found.items()))


def export_nnunet(kind: str, folder: str, output: str, *, labels: str = "liver=1; tumour=2") -> Answer:
    """Write a data set of CT as an nnU-Net raw data set.

    KIND: layout of the folder: lits, msd, nnunet or pairs.
    FOLDER: of the data set.
    OUTPUT: a new folder, called as nnU-Net wants it, such as Dataset001_Liver.
    --labels: names of the label values, "liver=1; tumour=2" unless told otherwise; several, as liver=1+2, are a region.
    """
    named = read_regions(labels)
    flat = {name: values[0] if len(values) == 1 else values for name, values in named.items()}
    order = None if all(isinstance(value, int) for value in flat.values()) else output_values_of(named)
    items = data_list(kind, str(Path(folder).expanduser().absolute()))
    where = Path(output).expanduser().absolute()
    write_nnunet_raw(items, where, {"background": 0, **flat}, regions_class_order=order)
    return Answer({"folder": str(where), "cases": len(items)}, f"{len(items)} cases in {where}")


def read_regions(text: str) -> dict[str, list[int]]:
    """Regions as they are typed.

    Raises:
        OptionError: the text is of another form.

    Example:
        >>> read_regions("liver=1+2; tumour=2")
        {'liver': [1, 2], 'tumour': [2]}
    """
    parts = [part.partition("=") for part in text.split(";") if part.strip()]
    found = {name.strip(): [value.strip() for value in values.split("+")] for name, _, values in parts}
    numbers = all(value.isdecimal() for values in found.values() for value in values)
    if not found or "" in found or len(found) < len(parts) or not numbers:  # fewer, where a name is there twice
        raise OptionError(f'--regions is {text!r}; expected names with label values, such as "liver=1+2; tumour=2".')
    return {name: [int(value) for value in values] for name, values in found.items()}


def _precision(name: str) -> bool | None:
    known = {"auto": None, "float32": False, "bfloat16": True}
    if name not in known:
        raise OptionError(f"--precision is {name!r}; expected one of {', '.join(known)}.{near_misses(name, known)}")
    return known[name]


def _scores(stages: Stages, scores: FolderScores, fold: int | str) -> Answer:
    folder = stages.place.cross_validation if fold == "all" else stages.place.validation(int(fold))
    dice = {name: scores.summary["mean"][key]["Dice"] for name, key in scores.keys.items()}
    rows = [f"{name}: Dice {value:.3f}" for name, value in dice.items()]
    data = {
        "dice": _plain(dice),
        "cases": len(scores.cases),
        "failed": dict(scores.failed),
        "folder": str(folder),
    }
    return Answer(
        data, "\n".join([*_failures(scores.failed), *rows, f"{len(scores.cases)} cases; {folder}"]), scores.ok
    )


def _plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def _failures(failed: Mapping[str, Any]) -> list[str]:
    return [f"failed: {case}: {reason}" for case, reason in failed.items()]


def predict_by_plan(stages: Stages, images: Path, output: Path, *, fold: int | str, mirroring: bool) -> Answer:
    """`predict` with a plan in place of a bundle."""
    found = stages.predict(images, output, fold=fold, mirroring=mirroring)
    files = sorted(str(file) for file in found.files.values())
    data = {"plan": str(stages.place.plan), "input": str(images), "output": str(output), "files": files}
    text = f"{len(files)} file(s) in {output}: {first_few([Path(file).name for file in files])}"
    return Answer({**data, "failed": dict(found.failed)}, "\n".join([*_failures(found.failed), text]), not found.failed)
