"""Train one fold of a plan: the bundle's own training, under an overlay that holds what the plan says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import run as run_config

from ..data.splits import Split, read_split, write_split
from ..errors import OptionError, StateError, first_few, own_error
from ..files import atomic_path
from .file_marks import mark
from .networks import network_config
from .plan import NOT_TRAINING, Plan, read_plan, write_plan
from .prepared_cases import prepared_items
from .workspace import Workspace

TRAINED = "run_report.json"
AS_PLANNED = (
    *("checkpoint", "match_norms", "hu_window", "value_range", "spacing", "patch_size", "batch_size"),
    *("patches_per_volume", "epochs", "val_interval", "lr", "momentum", "meta", "loss", "bfloat16"),
)


def is_trained(place: Workspace, fold: int) -> bool:
    """Whether the training of this fold has ended."""
    try:
        report = json.loads((place.fold(fold) / TRAINED).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never begun, or not yet written
        return False
    return isinstance(report, dict) and report.get("status") == "completed" and place.network(fold).is_file()


def train_fold(plan: Plan, place: Workspace, fold: int, split: Mapping[str, Sequence[str]]) -> bool:
    """Train a fold, or go on where it was stopped.

    Args:
        plan: what to train.
        place: where to.
        fold: 1 … N.
        split: {"train": cases, "val": cases}, as in `splits_final.json`.

    Returns:
        Whether anything was to be done.

    Raises:
        StateError: the fold was trained, or begun, with another plan or other cases; or the checkpoint has changed.
        DataError: a case has not been prepared, or with another plan.
    """
    folder = place.fold(fold)
    refuse_another_plan(plan, place, fold, split)
    if is_trained(place, fold):
        return False
    _refuse_another_checkpoint(plan)
    parts = {
        name: prepared_items(place.prepared, split[key], plan.preprocessing_identity)
        for name, key in (("train", "train"), ("test", "val"))
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_split(Split({"train": split["train"], "test": split["val"]}, f"fold {fold}"), folder / "split.json")
    write_plan(plan, folder / "plan.json")
    bundle = bundle_of(plan)
    overlay = folder / "overlay.json"
    with atomic_path(overlay) as unfinished:
        content = training_overlay(plan, folder, parts)
        unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    configs = [bundle / "configs/train.json", *_scheme(plan, bundle), overlay]
    warmup = {"warmup": plan["warmup"]} if any("warmup" in _keys(file) for file in configs) else {}
    try:
        run_config(
            config_file=[str(file) for file in configs],
            meta_file=str(bundle / "configs/metadata.json"),
            bundle_root=str(bundle),
            **warmup,
        )
    except RuntimeError as error:
        if (wrapped := own_error(error)) is None:
            raise
        raise wrapped from None
    return True


def refuse_another_plan(plan: Plan, place: Workspace, fold: int, split: Mapping[str, Sequence[str]]) -> None:
    """A fold's networks are of use only together with those that were trained alike, and on cases that it never saw.

    Raises:
        StateError: with what differs.
    """
    file = place.fold(fold) / "plan.json"
    if not file.is_file():
        return
    before, cases = read_plan(file), file.with_name("split.json")
    told = _differences(before, plan) if before.identity != plan.identity else ""
    if not told and cases.is_file() and (moved := set(read_split(cases)["train"]) ^ set(split["train"])):
        told = f"its training cases were not those of {place.splits}, {first_few(sorted(moved))} among the others"
    if told:
        raise StateError(
            f"Fold {fold} in {file.parent} was trained with another plan: {told}. Remove that folder to train it anew, "
            f"restore what was there ({file} is the old plan), or plan into another folder."
        )


def _refuse_another_checkpoint(plan: Plan) -> None:
    if plan["checkpoint"] and mark(plan["checkpoint"])["sha256"] != plan["checkpoint_sha256"]:
        raise StateError(
            f"{plan['checkpoint']} is not the file that was planned with: its SHA-256 is another. Restore it, or plan "
            f"again."
        )


def training_overlay(plan: Plan, folder: Path, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The keys of the bundle's train.json that a plan sets.

    Args:
        folder: of the run.
        parts: the items of `LoadPreparedd`, those of "train" and of "test".
    """
    config = _keys(bundle_of(plan) / "configs/train.json")
    return {
        **{name: plan[name] for name in AS_PLANNED},
        **network_config(plan),
        "output_dir": str(folder),
        "ckpt_dir": str(folder / "model"),
        "regions": plan.regions,
        "output_values": plan.output_values,
        "split": str(folder / "split.json"),
        "optimizer#nesterov": plan["nesterov"],
        "optimizer#weight_decay": plan["weight_decay"],
        "check": "none",
        "parts": {
            "train": list(parts["train"]) * plan["passes"],
            "meta": [],
            "validation": [],
            "test": list(parts["test"]),
        },
        "train#deterministic_transforms": [{"_target_": "metalr_monai.LoadPreparedd", "keys": ["image", "label"]}],
        "train#random_transforms": _from_prepared(config["train"]["random_transforms"], plan),
        "train#dataset#cache_rate": 0.0,
        "validate#dataset#cache_rate": 0.0,
        "settings#plan": plan.identity,
        "initialize#0": "$None",  # the plan is checked when it is read, its patch by the network's own strides
    }


def _from_prepared(transforms: Sequence[Mapping[str, Any]], plan: Plan) -> list[dict[str, Any]]:
    """The bundle's random transforms; a crop finds its centre without a look at the whole volume, and is padded."""
    foreground, keys = plan["foreground"], ["image", "label"]
    by_name = {transform["_target_"]: transform for transform in transforms}
    crop, pad = by_name.pop("RandCropByPosNegLabeld"), by_name.pop("SpatialPadd")
    indices = {"fg_indices_key": "foreground", "bg_indices_key": "background"}
    return [
        {**crop, **indices, "pos": foreground, "neg": 1 - foreground, "allow_smaller": True},
        {"_target_": "DeleteItemsd", "keys": list(indices.values())},
        dict(pad),
        *({"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": axis} for axis in plan["mirror_axes"]),
        *map(dict, by_name.values()),
    ]


def bundle_of(plan: Plan) -> Path:
    """The folder of the bundle that trains and predicts.

    Raises:
        OptionError: it is not there.
    """
    bundle = Path(plan["bundle"])
    if not (bundle / "configs/train.json").is_file():
        raise OptionError(f"There is no {bundle}/configs/train.json; give plan the bundle's folder, --bundle FOLDER.")
    return bundle


def _keys(config: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    return content


def _scheme(plan: Plan, bundle: Path) -> list[Path]:
    if plan["scheme"] is None:
        return []
    file = bundle.parents[1] / "configs/schemes" / f"{plan['scheme']}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.json"))) or "none"
        raise OptionError(f"The plan's scheme is {plan['scheme']!r}, and there is no {file}; known: {known}.")
    return [file]


def _differences(before: Plan, now: Plan) -> str:
    """What two plans of different identity disagree in."""
    names = [name for name in {**before.values, **now.values} if name not in NOT_TRAINING]
    told = [
        f"{name} was {before.values.get(name)!r} and is {now.values.get(name)!r}"
        for name in names
        if before.values.get(name) != now.values.get(name)
    ]
    if before.regions != now.regions:
        told.append(f"regions were {before.regions} and are {now.regions}")
    return "; ".join(told) or "the data set's files are others"
