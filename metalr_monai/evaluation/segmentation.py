"""Score one case: Dice, PPV and sensitivity of each class, and distances between surfaces in mm.

What an empty mask scores (`EMPTY_MASKS`; "–" is NaN: left out of means, and counted). MONAI's own metrics return 0, 1,
NaN or infinity here, by metric and version.

| reference | prediction | `empty`      | Dice | PPV | sensitivity | HD95 | surface Dice |
|-----------|------------|--------------|------|-----|-------------|------|--------------|
| empty     | empty      | "both"       | –    | –   | –           | –    | –            |
| empty     | not empty  | "reference"  | 0    | 0   | –           | –    | 0            |
| not empty | empty      | "prediction" | 0    | –   | 0           | –    | 0            |

So the mean PPV and the mean HD95 say nothing of the cases that a network misses whole: read them with their n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.metrics import compute_confusion_matrix_metric, compute_hausdorff_distance, compute_surface_dice
from monai.utils import convert_to_tensor
from torch import Tensor

from ..errors import OptionError, first_few

OVERLAP_SCORES = {"dice": "f1 score", "ppv": "precision", "sensitivity": "sensitivity"}  # ours → MONAI's name
SURFACE_SCORES = ("hd95_mm", "surface_dice")
EMPTY_MASKS: dict[str, dict[str, float]] = {
    "both": {"dice": math.nan, "ppv": math.nan, "sensitivity": math.nan, "hd95_mm": math.nan, "surface_dice": math.nan},
    "reference": {"dice": 0.0, "ppv": 0.0, "sensitivity": math.nan, "hd95_mm": math.nan, "surface_dice": 0.0},
    "prediction": {"dice": 0.0, "ppv": math.nan, "sensitivity": 0.0, "hd95_mm": math.nan, "surface_dice": 0.0},
}


@dataclass(frozen=True)
class ClassScore:
    """One case's scores for one class; `empty` is "", or which mask is empty: a key of `EMPTY_MASKS`."""

    case: str
    class_name: str
    empty: str
    values: Mapping[str, float]


def score_names(surface: bool) -> tuple[str, ...]:
    """Names of the scores, in the order of all tables."""
    return (*OVERLAP_SCORES, *(SURFACE_SCORES if surface else ()))


def read_classes(classes: Mapping[str, int | Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Class name → its label values, checked; 0 is the background, and a value may belong to several classes.

    Raises:
        OptionError: no class, a class without values, or a value that is not an int ≥ 1.

    Example:
        >>> read_classes({"liver": [1, 2], "tumour": 2})
        {'liver': (1, 2), 'tumour': (2,)}
    """
    known: dict[str, tuple[int, ...]] = {}
    for name, given in classes.items():
        values = (given,) if isinstance(given, int) else tuple(given)
        if not values or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
            raise OptionError(
                f"classes: {name!r} is {given!r}; expected its label value or values, ints from 1 on, such as "
                f"{{'liver': [1, 2], 'tumour': 2}} (0 is the background)."
            )
        known[name] = values
    if not known:
        raise OptionError("classes is empty; expected class names with their label values, such as {'liver': [1, 2]}.")
    return known


def score_case(
    prediction: Any,  # noqa: ANN401 - a Tensor, MetaTensor or array
    reference: Any,  # noqa: ANN401
    classes: Mapping[str, int | Sequence[int]],
    *,
    case: str,
    surface: bool = False,
    spacing: Sequence[float] | None = None,
    tolerance_mm: float = 2.0,
) -> list[ClassScore]:
    """Score one case's label map against its reference, on the prediction's device.

    Args:
        prediction, reference: label maps of the same shape (1, H, W) or (1, H, W, D), with values of `classes` and 0.
        classes: class name → label value, or values that are merged: {"liver": [1, 2], "tumour": 2}.
        case: the case's name.
        surface: also "hd95_mm", the larger of the two directed 95th percentiles of the distances between surfaces, and
            "surface_dice", the share of both masks' surface voxels that lie within `tolerance_mm` of the other surface
            (Nikolov et al. 2018, by voxels, not by area).
        spacing: mm a voxel along each spatial axis; needed for `surface`.
        tolerance_mm: of the surface Dice, ≥ 0.

    Returns:
        One `ClassScore` a class, in the order of `classes`.

    Raises:
        OptionError: shapes that are no label maps or differ, a label value of no class, or no usable spacing.
    """
    known = read_classes(classes)
    predicted: Tensor = convert_to_tensor(prediction, track_meta=False)
    wanted: Tensor = convert_to_tensor(reference, track_meta=False, device=predicted.device)
    _refuse_shapes(predicted, wanted, case)
    for labels, what in ((predicted, "prediction"), (wanted, "reference")):
        _refuse_unknown(labels, known, what, case)
    voxel = _voxel_size(spacing, predicted.ndim - 1, case) if surface else None
    return [
        _score_class(case, name, _mask(predicted, values), _mask(wanted, values), voxel, tolerance_mm)
        for name, values in known.items()
    ]


def _score_class(
    case: str, name: str, predicted: Tensor, wanted: Tensor, voxel: tuple[float, ...] | None, tolerance_mm: float
) -> ClassScore:
    """Scores of two masks (1, H, W[, D]); `voxel` is its size in mm, or None for no surface scores."""
    nothing_found, nothing_to_find = not bool(predicted.any()), not bool(wanted.any())
    if nothing_found or nothing_to_find:
        empty = "both" if nothing_found and nothing_to_find else "prediction" if nothing_found else "reference"
        policy = EMPTY_MASKS[empty]
        return ClassScore(case, name, empty, {score: policy[score] for score in score_names(voxel is not None)})
    values = _overlap(predicted, wanted)
    if voxel is not None:
        values |= _surface(predicted, wanted, voxel, tolerance_mm)
    return ClassScore(case, name, "", values)


def _overlap(predicted: Tensor, wanted: Tensor) -> dict[str, float]:
    # MONAI's get_confusion_matrix takes fp = n − tn in float32, which is off by several voxels above 2²⁴ (MONAI#7186)
    tp = torch.count_nonzero(predicted & wanted)
    fp, fn = torch.count_nonzero(predicted) - tp, torch.count_nonzero(wanted) - tp
    tn = predicted.numel() - tp - fp - fn
    counts = torch.stack([tp, fp, tn, fn]).double()
    return {ours: float(compute_confusion_matrix_metric(monais, counts)) for ours, monais in OVERLAP_SCORES.items()}


def _surface(predicted: Tensor, wanted: Tensor, voxel: tuple[float, ...], tolerance_mm: float) -> dict[str, float]:
    masks = predicted[None], wanted[None]  # (B, C, H, W[, D])
    hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=voxel)
    dice = compute_surface_dice(*masks, [tolerance_mm], include_background=True, spacing=voxel)
    return {"hd95_mm": float(hd95), "surface_dice": float(dice)}


def _mask(labels: Tensor, values: Sequence[int]) -> Tensor:
    mask = labels == values[0]
    for value in values[1:]:
        mask |= labels == value
    return mask


def _refuse_shapes(predicted: Tensor, wanted: Tensor, case: str) -> None:
    for labels, what in ((predicted, "prediction"), (wanted, "reference")):
        if labels.ndim not in (3, 4) or labels.shape[0] != 1:
            raise OptionError(
                f"Case {case}: the {what} has shape {tuple(labels.shape)}; expected a label map (1, H, W) or "
                f"(1, H, W, D). Make one of channels with AsDiscreted(argmax=True), without to_onehot."
            )
    if predicted.shape != wanted.shape:
        raise OptionError(
            f"Case {case}: the prediction has shape {tuple(predicted.shape)}, the reference {tuple(wanted.shape)}; "
            f"expected the same grid. Invert the prediction's transforms with Invertd, or transform the reference too."
        )


def _refuse_unknown(labels: Tensor, known: Mapping[str, Sequence[int]], what: str, case: str) -> None:
    values = sorted({0, *(value for several in known.values() for value in several)})
    named = _mask(labels, values)
    if not bool(named.all()):
        found = [f"{value:g}" for value in torch.unique(labels[~named]).tolist()]
        raise OptionError(
            f"Case {case}: the {what} holds the label {first_few(found)}, which belongs to no class; expected "
            f"{', '.join(map(str, values))}. Name it in classes, or map it with MapLabelValued."
        )


def _voxel_size(spacing: Sequence[float] | None, axes: int, case: str) -> tuple[float, ...]:
    voxel = () if spacing is None else tuple(float(mm) for mm in spacing)
    if len(voxel) != axes or not all(math.isfinite(mm) and mm > 0 for mm in voxel):
        raise OptionError(
            f"Case {case}: the spacing is {None if spacing is None else voxel}; surface scores need {axes} positive "
            f"sizes in mm, one a spatial axis. Load the reference with its header (LoadImaged), or leave surface out."
        )
    return voxel
