"""Pictures of what a classifier looked at in cases without labels."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor

from ..errors import OptionError
from ..evaluation.activation_maps import ActivationMaps, check_layer
from ..evaluation.classification import read_class_names
from .cases import identify, outputs
from .example_pictures import draw_map, network_of
from .prediction_table import read_probabilities


class ActivationPictures:
    """Save `maps/CASE.png` of each case of an evaluator: the network's input, and where it speaks for the predicted
    class (Grad-CAM).

    The folders in a case's name are kept. Reads `image` (the network's input, (C, H, W)) and probabilities, shape
    (K,), in `pred` in the evaluator's decollated output. The maps are computed on a copy of the evaluator's network.
    Each rank draws its own cases.

    Args:
        output_dir: folder of the results; made if missing.
        classes: names, in the order of the network's outputs.
        layer: name of the module whose maps are weighted; None for the last one whose output is a map.

    Raises:
        OptionError: matplotlib is missing; the network has no such layer; what `read_class_names` and
            `read_probabilities` refuse; a case without a name.
        EngineError: the engine is no `SupervisedEvaluator` that decollates, or has no image or prediction.
    """

    def __init__(self, output_dir: str | Path, classes: Sequence[str], layer: str | None = None) -> None:
        self._folder, self._classes, self._layer = Path(output_dir) / "maps", read_class_names(classes), layer
        self._maps: ActivationMaps | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        if importlib.util.find_spec("matplotlib") is None:
            raise OptionError("Activation maps need matplotlib: pip install metalr_monai[report], or leave them out.")
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _start(self, engine: Engine) -> None:
        network = network_of(engine)
        check_layer(network, self._layer)
        self._maps = ActivationMaps(network, self._layer)

    def _draw(self, engine: Engine) -> None:
        for item, result in outputs(engine, "image", "pred"):
            case = identify(item)[1]
            probabilities = read_probabilities(result["pred"], self._classes, case=case)
            predicted = max(range(len(probabilities)), key=probabilities.__getitem__)
            image = convert_to_tensor(result["image"], track_meta=False).detach()
            map_ = None if self._maps is None else self._maps(image, predicted)
            path = self._folder / f"{case}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            text = f"predicted {self._classes[predicted]} ({probabilities[predicted]:.2f})"
            draw_map(image.cpu(), map_, case, text, path)
