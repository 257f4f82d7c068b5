"""What a training that MONAI Label starts is told, and what it needs to know of its data before it begins.

The server overrides five ids of `train.json` and knows nothing of the others: its panel's values arrive in
`displayable_configs`, its data as two lists of images and labels.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..data.data_check import DataCheck
from ..data.hold_out import case_names, hold_out
from ..errors import DataError, MetaDataError, OptionError, StateError, near_misses

logger = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Mapping[str, Any])

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
PLAIN = "all layers"
SCHEMES = ("MetaLR", "MetaLR, one-pass", PLAIN)
META_BATCHES: Mapping[str, str | float] = {"second training batch": "training", "held-out cases": 0.25}


def panel_choices(panel: Mapping[str, Any], ckpt_dir: str | Path) -> dict[str, Any]:
    """What the panel's values mean for a training.

    Args:
        panel: `displayable_configs`: the value that a reader chose, or the list to choose from, whose first one counts.
        ckpt_dir: folder of the models that a training may begin with.

    Returns:
        `scheme`, `one_pass`, `lr` (α0), `beta`, `meta`, `replace_if_worse`, and `model`: the file to begin with, None
        where there is none yet.

    Raises:
        OptionError: an unknown scheme or kind of meta batch, or what should be a number is none.
        StateError: there is no such model, though there are others.

    Example:
        >>> panel = {"scheme": ["MetaLR"], "meta_batch": "held-out cases", "alpha0": "0.01", "beta": 0.003,
        ...          "replace_if_worse": False, "model_filename": []}
        >>> panel_choices(panel, "models")["meta"]
        0.25
    """
    chosen = {name: _chosen(value) for name, value in panel.items()}
    scheme = _one_of("scheme", chosen["scheme"], SCHEMES)
    return {
        "scheme": scheme,
        "one_pass": scheme == "MetaLR, one-pass",
        "lr": _number("alpha0", chosen["alpha0"]),
        "beta": _number("beta", chosen["beta"]),
        "meta": META_BATCHES[_one_of("meta_batch", chosen["meta_batch"], META_BATCHES)],
        "replace_if_worse": str(chosen["replace_if_worse"]).lower() == "true",
        "model": _model(Path(ckpt_dir), chosen["model_filename"] or "model.pt"),
    }


def safe_request(request: Mapping[str, Any], panel: Mapping[str, Any], ckpt_dir: str | Path) -> dict[str, Any]:
    """A training's request with nothing in it but plain values that were looked at.

    The server writes what a request holds into the config, where a text that begins with `$` is code.

    Args:
        request: what came over the network; options that are left out take the panel's first values.
        panel: `displayable_configs`.
        ckpt_dir: folder of the models.

    Raises:
        OptionError: an option makes no sense.
        StateError: see `panel_choices`.
    """
    given = {name: request[name] for name in panel if name in request}
    choices = panel_choices({**panel, **given}, ckpt_dir)
    epochs, share = given.get("max_epochs", panel["max_epochs"]), request.get("val_split", 0.2)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise OptionError(f"max_epochs is {epochs!r}; expected a whole number, 1 or more.")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise OptionError(f"val_split is {share!r}; expected a share of the labelled studies, from 0 to below 1.")
    if not request.get("pretrained", True):
        raise OptionError("pretrained is false; a server's training goes on from a model. Choose one of `models`.")
    device = request.get("device") or "cuda"
    device = device[0] if isinstance(device, list) and device else device
    if not isinstance(device, str) or not _DEVICE.fullmatch(device):
        raise OptionError(f"device is {device!r}; expected cpu, cuda or cuda:N.")
    return {
        "model": str(request.get("model", "")),
        "device": device,
        "pretrained": True,
        "val_split": share,
        "multi_gpu": False,
        "max_epochs": epochs,
        "scheme": choices["scheme"],
        "meta_batch": _one_of("meta_batch", _chosen(given.get("meta_batch", panel["meta_batch"])), META_BATCHES),
        "alpha0": choices["lr"],
        "beta": choices["beta"],
        "replace_if_worse": choices["replace_if_worse"],
        "model_filename": "model.pt" if choices["model"] is None else Path(choices["model"]).name,
    }


def model_files(ckpt_dir: str | Path) -> list[str]:
    """Names of the models in a folder: `model.pt`, then its backups, the newest first."""
    files = Path(ckpt_dir).glob("*.pt")
    newest = sorted(files, key=lambda file: (file.name == "model.pt", file.stat().st_mtime), reverse=True)
    return [file.name for file in newest]


def part_served(items: Sequence[Item], share: float) -> tuple[list[Item], list[Item]]:
    """Labelled studies to train on and to validate on.

    By a hash of the image's name, so that most studies stay in their part while others are labelled: what was trained
    on yesterday is no fair test today. From two studies on one validates.

    Args:
        items: with `image`, a file.
        share: of the studies that validate, 0 … 1; 0 for none.

    Example:
        >>> train, validation = part_served([{"image": f"{i}.nii"} for i in range(10)], 0.2)
        >>> len(train), len(validation)
        (8, 2)
    """
    count = min(max(round(share * len(items)), 1), len(items) - 1) if share and items else 0
    ordered = sorted(items, key=lambda item: hashlib.sha256(Path(item["image"]).name.encode()).digest())
    held = {str(item["image"]) for item in ordered[:count]}
    parts = ([item for item in items if (str(item["image"]) in held) is validates] for validates in (False, True))
    train, validation = parts
    return train, validation


def meta_fault(items: Sequence[Mapping[str, Any]], meta: float | str, batch_size: int) -> str | None:
    """Why rates cannot be learned from these training items, in a sentence that is logged; None where they can.

    Args:
        items: of the training part.
        meta: "training" for meta batches out of them, else the share or number that is held out.
        batch_size: items a batch, of both kinds.
    """
    supply = len(items)
    if meta != "training":
        try:
            supply = len(hold_out(list(items), float(meta))[1])
        except MetaDataError:
            supply = 0
    if supply >= batch_size:
        return None
    fault = (
        f"No rates are learned: there are {len(items)} labelled studies to train on, too few for a meta batch of "
        f"{batch_size}. All layers are trained at one rate; label more studies."
    )
    logger.warning(fault)
    return fault


def check_served_data(
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    output_dir: str | Path,
    *,
    check: DataCheck | None = None,
    fault: str | None = None,
) -> list[str]:
    """Refuse labelled studies that cannot be trained on, before anything is computed.

    Args:
        parts: `train` and `validation`, as the server has them: `image` and `label`, files.
        output_dir: folder of the run.
        check: of volumes; None where the loading of the data checks them.
        fault: see `meta_fault`.

    Returns:
        What the run's report is to warn of; with a `check` its own list.

    Raises:
        DataError: nothing is labelled, or see `DataCheck`.
    """
    if not parts["train"]:
        raise DataError(
            "No study is labelled, so there is nothing to train on. Save a label for one or more studies (in Slicer: "
            "Submit Label), then train."
        )
    if not parts["validation"]:
        logger.warning("No labelled study is left to validate: the new model cannot be compared with the old one.")
    warnings = [] if check is None else check.warnings
    if check is not None:
        named = {
            part: [{**item, "case_id": name} for item, name in zip(items, case_names(list(items)), strict=True)]
            for part, items in parts.items()
        }
        check(named, output_dir)
    if fault:
        warnings.append(fault)
    return warnings


def _chosen(value: Any) -> Any:  # noqa: ANN401 - what a panel shows
    """Of a list to choose from the first one."""
    if isinstance(value, (list, tuple)):
        return value[0] if value else None
    return value


def _one_of(name: str, value: Any, known: Sequence[str] | Mapping[str, Any]) -> str:  # noqa: ANN401
    if not isinstance(value, str) or value not in known:
        raise OptionError(f"{name} is {value!r}; expected one of {', '.join(known)}.{near_misses(str(value), known)}")
    return value


def _number(name: str, value: Any) -> float:  # noqa: ANN401
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OptionError(f"{name} is {value!r}; expected a number.")
    return number


def _model(folder: Path, name: str) -> str | None:
    known = model_files(folder)
    if name in known:
        return str(folder / name)
    if known:
        raise StateError(f"There is no model {name!r} in {folder} to begin with; there are {', '.join(known)}.")
    return None
