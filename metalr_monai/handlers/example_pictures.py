"""Pictures of a few classified cases, right and wrong, with what the network looked at."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from ..errors import EngineError
from ..evaluation.activation_maps import ActivationMaps, check_layer
from ..evaluation.classification import read_class_names
from ..evaluation.predictions import CasePrediction
from ..files import atomic_path
from .cases import identify, outputs
from .classification_scores import read_case
from .drawing import draws_here

logger = logging.getLogger(__name__)

WRONG = "#b3261e"
_OWN_FILE = re.compile(r"\d+_.*_(right|wrong)_\d+\.png")


@dataclass(frozen=True)
class Example:
    """A case and the network's input, shape (C, H, W), on the CPU."""

    prediction: CasePrediction
    image: Tensor

    @property
    def right(self) -> bool:
        """The prediction is the true class."""
        return self.prediction.predicted == self.prediction.label

    @property
    def confidence(self) -> float:
        """Probability of the predicted class."""
        return max(self.prediction.probabilities)


class ExamplePictures:
    """Save pictures of an evaluator's cases as `pictures/CLASS_right_1.png` and the like, when it has run.

    Of each true class it shows the case that was classified right, and the one that was classified wrong, with the
    highest confidence; beside the image its activation map (Grad-CAM) for the predicted class. Reads `image` (the
    network's input, (C, rows, columns)), `label` and probabilities in `pred` in the evaluator's decollated output, as
    `ClassificationScores` does. On several ranks the first one's cases are shown.

    The maps are computed on a copy of the evaluator's network: its state, gradients and the random streams stay as they
    are. Pictures that cannot be drawn cost a warning, not the run.

    Needs matplotlib (`pip install metalr_monai[report]`); without it there are no pictures.

    Args:
        output_dir: folder of the run; made if missing.
        classes: names, in the order of the labels from 0 on.
        layer: name of the module whose maps are weighted; None for the last one whose output is a map.
        count: cases of each kind.

    Raises:
        OptionError: what `read_case` refuses, or a layer that the network has not.
        EngineError: the engine is no `SupervisedEvaluator` that decollates, or has no image, label or prediction.
    """

    def __init__(
        self, output_dir: str | Path, classes: Sequence[str], layer: str | None = None, count: int = 1
    ) -> None:
        self._folder, self._classes = Path(output_dir) / "pictures", read_class_names(classes)
        self._layer, self._count = layer, count
        self._kept: dict[tuple[int, bool], list[Example]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator; only the first rank draws."""
        if not draws_here("example pictures"):
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        check_layer(network_of(engine), self._layer)
        self._kept = defaultdict(list)

    def _collect(self, engine: Engine) -> None:
        for item, result in outputs(engine, "image", "label", "pred"):
            case = read_case(result["pred"], result["label"], self._classes, case=identify(item)[1])
            example = Example(case, convert_to_tensor(result["image"], track_meta=False).detach())
            kept = self._kept[case.label, example.right]
            if len(kept) < self._count or example.confidence > kept[-1].confidence:
                kept.append(Example(case, example.image.cpu().clone()))
                kept.sort(key=lambda e: -e.confidence)
                del kept[self._count :]

    def _draw(self, engine: Engine) -> None:
        network = network_of(engine)
        self._folder.mkdir(parents=True, exist_ok=True)
        drawn = set()
        try:
            maps = ActivationMaps(network, self._layer)
            for name, example in self._named():
                map_ = maps(example.image, example.prediction.predicted)
                draw_example(example, map_, self._classes, self._folder / name)
                drawn.add(name)
        except RuntimeError as error:  # out of memory, or a network that cannot be copied or hooked
            logger.warning("Not all example pictures of %s: %s", type(network).__name__, error)
        for path in self._folder.iterdir():
            if _OWN_FILE.fullmatch(path.name) and path.name not in drawn:
                path.unlink()  # of an earlier run

    def _named(self) -> Iterator[tuple[str, Example]]:
        """File name → example, by class, the right ones first."""
        for label, right in sorted(self._kept, key=lambda kind: (kind[0], not kind[1])):
            name = re.sub(r"[^\w.-]+", "_", self._classes[label])
            for i, example in enumerate(self._kept[label, right], 1):
                yield f"{label}_{name}_{'right' if right else 'wrong'}_{i}.png", example


def network_of(engine: Engine) -> nn.Module:
    """Raises EngineError if the engine has no network."""
    network = getattr(engine, "network", None)
    if not isinstance(network, nn.Module):
        raise EngineError(f"{type(engine).__name__} has no network; expected a SupervisedEvaluator.")
    return network


def draw_example(example: Example, map_: Tensor | None, classes: Sequence[str], path: str | Path) -> None:
    """Draw the image, the same under its activation map, and what was predicted, into a PNG file.

    Args:
        example: the mean of its channels is drawn.
        map_: in [0, 1], shape (H, W); None for the image alone.
        classes: names.
    """
    case, predicted = example.prediction, classes[example.prediction.predicted]
    text = f"true {classes[case.label]}, predicted {predicted} ({example.confidence:.2f})"
    draw_map(example.image, map_, case.case, text, path, color="black" if example.right else WRONG)


def draw_map(
    image: Tensor, map_: Tensor | None, title: str, text: str, path: str | Path, *, color: str = "black"
) -> None:
    """Draw an image and the same under its activation map into a PNG file, a title above and a text below them.

    Args:
        image: shape (C, H, W); the mean of its channels is drawn.
        map_: in [0, 1], shape (H, W); None for the image alone.
        color: of the text.
    """
    from matplotlib.figure import Figure  # the base install has no matplotlib

    picture = image.float().mean(0).numpy()
    low, high = np.percentile(picture, (0.5, 99.5))
    figure = Figure(figsize=(3.8, 2.6), layout="constrained")
    all_axes = figure.subplots(1, 1 if map_ is None else 2, squeeze=False)[0]
    for axes in all_axes:
        axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        axes.set_axis_off()
    if map_ is not None:
        all_axes[1].imshow(map_.numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.6 * map_.numpy())
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    figure.supxlabel(text, fontsize=9, color=color, parse_math=False, wrap=True)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
