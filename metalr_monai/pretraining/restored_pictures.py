"""Pictures of what a network restores, for the run's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor

from ..files import atomic_path
from ..handlers.cases import identify, outputs
from ..handlers.drawing import draws_here

FILE = "restored.png"
COLUMNS = ("deformed", "restored", "original")


@dataclass(frozen=True)
class _Row:
    case: str
    pictures: tuple[NDArray[np.float32], ...]
    errors: tuple[float, float]  # mean squared, of the deformed and the restored image


class RestoredPictures:
    """Save `restored/restored.png` whenever the evaluator has run: its first cases as deformed, restored and original.

    Reads `image`, `pred` (restored, not logits) and `label` (the original) in the evaluator's decollated output, shape
    (C, H, W[, D]) each, in [0, 1]; of a volume the middle axial slice is drawn, of several channels the first. As many
    scans as possible are seen: a second cube of one only where there are too few others.

    Needs matplotlib (`pip install metalr_monai[report]`); without it there are no pictures.

    Args:
        output_dir: folder of the run; made if missing.
        count: number of rows.

    Raises:
        EngineError: while running, the evaluator does not decollate, or has no image, label or prediction.
        OptionError: while running, a case has no name.
    """

    def __init__(self, output_dir: str | Path, count: int = 4) -> None:
        self._file, self._count = Path(output_dir) / "restored" / FILE, count
        self._firsts: dict[str, _Row] = {}
        self._others: list[_Row] = []

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator; only the first rank draws."""
        if not draws_here("restored pictures"):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _start(self) -> None:
        self._firsts, self._others = {}, []

    def _collect(self, engine: Engine) -> None:
        for item, result in outputs(engine, "image", "label", "pred"):
            case = identify(item)[1]
            if case not in self._firsts and len(self._firsts) < self._count:
                self._firsts[case] = _row(case, result)
            elif len(self._others) < self._count:
                self._others.append(_row(case, result))

    def _draw(self) -> None:
        if rows := [*self._firsts.values(), *self._others][: self._count]:
            draw_rows(rows, self._file)


def _row(case: str, result: Mapping[str, Tensor]) -> _Row:
    images = tuple(result[key] for key in ("image", "pred", "label"))
    deformed, restored = (float((image.float() - images[2].float()).square().mean()) for image in images[:2])
    return _Row(case, tuple(map(_middle, images)), (deformed, restored))


def draw_rows(rows: list[_Row], path: Path) -> None:
    """One row a case, one column a state, with each one's mean squared error."""
    from matplotlib.figure import Figure  # the base install has no matplotlib

    height, width = rows[0].pictures[0].shape
    figure = Figure(figsize=(6.6, 0.5 + (2.1 * height / width + 0.25) * len(rows)), layout="constrained")
    for row, axes in zip(rows, figure.subplots(len(rows), len(COLUMNS), squeeze=False), strict=True):
        notes = (f"error {row.errors[0]:.4f}", f"error {row.errors[1]:.4f}", row.case)
        for column, picture, note, one in zip(COLUMNS, row.pictures, notes, axes, strict=True):
            one.imshow(picture, cmap="gray", vmin=0, vmax=1)
            one.set_xticks([])
            one.set_yticks([])
            one.set_xlabel(note, fontsize=8, parse_math=False)
            if one.get_subplotspec().is_first_row():
                one.set_title(column, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _middle(image: Tensor) -> NDArray[np.float32]:
    """Rows and columns of channel 0; of a volume (R, A, S) its middle axial slice, seen from the feet."""
    picture = convert_to_tensor(image, track_meta=False)[0].detach().float().cpu()
    if picture.ndim == 3:
        picture = picture[:, :, picture.shape[2] // 2].flip(0, 1).T
    found: NDArray[np.float32] = picture.numpy()
    return found
