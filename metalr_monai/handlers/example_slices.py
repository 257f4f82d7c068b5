"""Pictures of a few cases: image, reference and prediction, to see at a glance what the scores mean."""

from __future__ import annotations

import logging
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.metrics import compute_dice
from monai.transforms import Orientation
from torch import Tensor

from ..files import atomic_path
from .cases import outputs
from .drawing import draws_here

logger = logging.getLogger(__name__)

REFERENCE, PREDICTION = "#56b4e9", "#e69f00"  # of Okabe and Ito's palette, which the colour-blind tell apart too


class ExampleSlices:
    """Save a picture of each of an evaluator's first cases as `slices/CASE.png`, anew whenever it runs.

    Of a volume it shows the axial slice with the largest reference area, as a radiologist sees it (the patient's left
    on the right) where a MetaTensor tells the orientation; the foreground is what is above 0.5 in channel 0. Reads
    `image`, `label` and `pred` in the evaluator's decollated output, shape (C, H, W[, D]) each.

    Needs matplotlib (`pip install metalr_monai[report]`); without it there are no pictures.

    Args:
        output_dir: folder of the run; made if missing.
        count: number of cases.

    Raises:
        EngineError: the evaluator does not decollate its output, or has no image, label or prediction in it.
    """

    def __init__(self, output_dir: str | Path, count: int = 3) -> None:
        self._folder, self._count = Path(output_dir) / "slices", count
        self._seen = 0

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator; only the first rank draws."""
        if not draws_here("example slices"):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _start(self) -> None:
        self._seen = 0

    def _draw(self, engine: Engine) -> None:
        for item, result in islice(outputs(engine, "image", "label", "pred"), self._count - self._seen):
            self._seen += 1
            image, label, pred = (result[key] for key in ("image", "label", "pred"))
            case = _case_name(item, image, self._seen)
            if image.shape[1:] != label.shape[1:] or pred.shape[1:] != label.shape[1:]:
                logger.warning(
                    "No picture of %s: image, label and pred have the grids %s, %s and %s; expected the same.",
                    *(case, *(tuple(t.shape[1:]) for t in (image, label, pred))),
                )
                continue
            self._folder.mkdir(parents=True, exist_ok=True)
            draw_case(image, label, pred, self._folder / f"{_file_name(case)}.png", case)


def draw_case(image: Tensor, label: Tensor, pred: Tensor, path: str | Path, case: str) -> None:
    """Draw the slice with the largest reference area, both contours and the case's Dice into a PNG file.

    Args:
        image, label, pred: shape (C, H, W) or (C, H, W, D), of which channel 0 is drawn.
    """
    from matplotlib.figure import Figure  # the base install has no matplotlib
    from matplotlib.lines import Line2D

    reference, prediction = (_upright(mask)[:1] > 0.5 for mask in (label, pred))
    dice = compute_dice(prediction[None], reference[None]).item()
    picture, reference_slice, prediction_slice = _largest(_upright(image)[0], reference[0], prediction[0])

    figure = Figure(figsize=(4, 4.3), layout="constrained")
    axes = figure.add_subplot()
    low, high = np.percentile(picture, (0.5, 99.5))
    axes.imshow(picture.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
    styles = ((reference_slice, REFERENCE, "solid"), (prediction_slice, PREDICTION, "dashed"))
    for mask, colour, style in styles:
        if mask.any() and not mask.all():
            axes.contour(mask.T, levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.4)
    axes.set_axis_off()
    axes.set_title(case, fontsize=10, parse_math=False, wrap=True)
    names = ("reference", "prediction" if np.isnan(dice) else f"prediction, Dice {dice:.3f}")
    lines = [Line2D([], [], color=c, linestyle=s) for _, c, s in styles]
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _upright(volume: Tensor) -> Tensor:
    """On the CPU, with the first axis to the patient's left and the second to the back, where that is known."""
    if isinstance(volume, MetaTensor) and volume.ndim == 4:
        volume = Orientation(axcodes="LPS", labels=None)(volume)
    return torch.as_tensor(volume).detach().float().cpu()


def _largest(image: Tensor, reference: Tensor, prediction: Tensor) -> tuple[Any, Any, Any]:
    """Image and masks at the slice with the most reference, or with the most prediction, or in the middle."""
    if image.ndim == 3:
        areas = next((a for a in (reference.sum((0, 1)), prediction.sum((0, 1))) if a.any()), None)
        k = image.shape[2] // 2 if areas is None else int(areas.argmax())
        image, reference, prediction = image[..., k], reference[..., k], prediction[..., k]
    return image.numpy(), reference.numpy(), prediction.numpy()


def _case_name(item: Any, image: Tensor, number: int) -> str:  # noqa: ANN401 - a batch item is what the data set makes
    if isinstance(item, dict) and "case_id" in item:
        return str(item["case_id"])
    file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return Path(str(file)).name if file else f"case {number}"


def _file_name(case: str) -> str:
    return re.sub(r"[^\w.-]+", "_", case) or "case"
