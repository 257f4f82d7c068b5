"""The first convolution's feature maps of two networks, side by side: what tuning the first block has changed.

Source: Chen et al. 2022 (MetaLR, preprint v1), Fig. 2: on breast ultrasound the maps of an ImageNet network's first
convolution are more blurry where that layer was not tuned. (Needs matplotlib: `pip install metalr_monai[report]`.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import OptionError
from ..files import atomic_path
from .activation_maps import device_of, still_copy

WRONG = "#b3261e"


def feature_maps(
    network_a: nn.Module,
    network_b: nn.Module,
    image: Tensor,
    output: str | Path,
    *,
    titles: Sequence[str] = ("without tuning block 1", "with tuning block 1"),
    classes: Sequence[str] = (),
    label: int | None = None,
    count: int = 16,
) -> Path:
    """Draw the image and the maps of the first convolution of both networks into an image file.

    A channel has the same grey scale in both networks. The networks are left as they are.

    Args:
        network_a, network_b: of one architecture; (1, C, H, W) → logits (1, K).
        image: network input, shape (C, H, W), rows before columns.
        output: the file, by whose ending the format goes, such as `.png` or `.pdf`.
        titles: of the two networks.
        classes: K names; with them, what each network predicts is written below its maps.
        label: the true class; a wrong prediction is red.
        count: number of channels, from the first on.

    Returns:
        The file's path.

    Raises:
        OptionError: a network without a convolution, or two whose first convolutions differ in shape.
    """
    from matplotlib.figure import Figure  # the base install has no matplotlib

    path = Path(output)
    maps_a, logits_a = _first_maps(network_a, image)
    maps_b, logits_b = _first_maps(network_b, image)
    if maps_a.shape != maps_b.shape:
        raise OptionError(
            f"The first convolutions give maps of the shapes {tuple(maps_a.shape)} and {tuple(maps_b.shape)}; "
            f"expected two networks of one architecture."
        )
    figure = Figure(figsize=(11, 4.3), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(convert_to_tensor(image, track_meta=False).detach().float().mean(0).cpu().numpy(), cmap="gray")
    truth = "" if label is None or not classes else f"true class: {classes[label]}"
    _name(axes[0], "image", truth, wrong=False)
    low, high = _limits(maps_a[:count], maps_b[:count])
    for axis, maps, logits, title in zip(axes[1:], (maps_a, maps_b), (logits_a, logits_b), titles, strict=True):
        axis.imshow(_mosaic((maps[:count] - low) / (high - low)), cmap="gray", vmin=0, vmax=1)
        predicted = int(logits.argmax())
        below = f"predicted: {classes[predicted]}, {float(logits.softmax(0)[predicted]):.2f}" if classes else ""
        _name(axis, title, below, wrong=label is not None and predicted != label)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150)
    return path


def _first_maps(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Output of the convolution that runs first, (channels, H, W), and the logits (K,), on the CPU."""
    copied, found = still_copy(network), []
    convolutions = [module for module in copied.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.no_grad():
        logits = copied(convert_to_tensor(image, track_meta=False, device=device_of(copied))[None])
    if not found:
        raise OptionError(f"{type(copied).__name__} has run no 2D convolution; expected a network of 2D images.")
    return found[0][0].float().cpu(), logits[0].float().cpu()


def _limits(*maps: Tensor) -> tuple[Tensor, Tensor]:
    """By channel: the 1st and 99th percentile of the values of both networks, shape (channels, 1, 1)."""
    values = torch.cat([m.flatten(1) for m in maps], dim=1)
    low, high = (torch.quantile(values, q, dim=1)[:, None, None] for q in (0.01, 0.99))
    return low, torch.maximum(high, low + 1e-12)


def _mosaic(maps: Tensor) -> NDArray[Any]:
    """Maps (n, H, W) in rows and columns, with lines of NaN between them."""
    n, height, width = maps.shape
    columns = math.ceil(math.sqrt(n))
    gap = max(1, width // 32)
    shape = (math.ceil(n / columns) * (height + gap) - gap, columns * (width + gap) - gap)
    mosaic = np.full(shape, np.nan)
    for i, one in enumerate(maps.numpy()):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        mosaic[top : top + height, left : left + width] = one
    return mosaic


def _name(axis: Any, title: str, below: str, wrong: bool) -> None:  # noqa: ANN401 - matplotlib's Axes
    axis.set_title(title, fontsize=11)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_xlabel(below, fontsize=10, color=WRONG if wrong else "black", parse_math=False)
