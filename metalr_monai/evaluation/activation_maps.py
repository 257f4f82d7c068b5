"""What a network looks at: class activation maps, computed on a copy, so that the network itself is left alone.

(MONAI's `GradCAM` leaves its hooks on the network, sets its gradients to zero, and fails where parameters are frozen.)
"""

from __future__ import annotations

import copy

import torch
from monai.utils import convert_to_tensor
from monai.visualize import GradCAM
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from ..errors import OptionError, first_few, near_misses


def unwrapped(network: nn.Module) -> nn.Module:
    """The network without `torch.compile`'s wrapper and those of several processes or devices."""
    inner: nn.Module = getattr(network, "_orig_mod", network)
    return inner.module if isinstance(inner, (DataParallel, DistributedDataParallel)) else inner


def still_copy(network: nn.Module) -> nn.Module:
    """A copy for looking into: unwrapped, in evaluation mode, nothing in place."""
    copied = copy.deepcopy(unwrapped(network)).eval()
    for module in copied.modules():
        if getattr(module, "inplace", False):  # would change what a hook has kept
            module.inplace = False  # type: ignore[assignment]
    return copied


def device_of(network: nn.Module) -> torch.device:
    """Where its parameters are; the CPU if it has none."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def check_layer(network: nn.Module, layer: str | None) -> None:
    """Raises OptionError if the network has no module of this name; None is any."""
    names = [name for name, _ in unwrapped(network).named_modules() if name]
    if layer is not None and layer not in names:
        raise OptionError(f"The network has no layer {layer!r}.{near_misses(layer, names)}")


class ActivationMaps:
    """Grad-CAM of a network as it is now: how much each place of an image adds to a class's logit.

    A map of influence at the layer's resolution, not the outline of a finding.

    Args:
        network: (1, C, H, W) → logits (1, K); copied.
        layer: name of the module whose maps are weighted; None for the last one whose output is a map, with H and W
            above 1 (in a ResNet `layer4`), the outermost of those that give the same map.

    Source: Selvaraju et al. 2017, "Grad-CAM", Eq. 1 and 2.

    Raises:
        OptionError: the network has no such layer, or its output is no map.
    """

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        check_layer(network, layer)
        self._network, self._layer = still_copy(network), layer
        self._cams: dict[str, GradCAM] = {}

    def __call__(self, image: Tensor, class_index: int) -> Tensor | None:
        """The map of one class in one image, in [0, 1], shape (H, W), on the CPU; None if the network has no map.

        1 is the most in this image; 0 everywhere says that no place speaks for the class.

        Args:
            image: shape (C, H, W).
            class_index: of the logit.
        """
        plain = convert_to_tensor(image, track_meta=False, device=device_of(self._network))[None]
        layer = self._layer_for(plain)
        if layer is None:
            return None
        if layer not in self._cams:
            self._cams[layer] = GradCAM(self._network, layer, postprocessing=_relative)
        with torch.enable_grad():  # the image's gradient leads through frozen layers, and through the first one
            found: Tensor = self._cams[layer](plain.clone().requires_grad_(), class_idx=class_index)
        return found[0, 0].detach().cpu()

    def _layer_for(self, image: Tensor) -> str | None:
        names = _layers_with_maps(self._network, image)
        if self._layer is None:
            return names[-1] if names else None
        if self._layer not in names:
            raise OptionError(
                f"The output of layer {self._layer!r} is no map (C, H, W) larger than 1×1; it is of: "
                f"{first_few(names[::-1])}."
            )
        return self._layer


def _layers_with_maps(network: nn.Module, image: Tensor) -> list[str]:
    """Names of the modules whose output is (1, C, H, W), H and W above 1, in the order in which they are done."""
    found: list[str] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _relative(maps: Tensor) -> Tensor:
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
