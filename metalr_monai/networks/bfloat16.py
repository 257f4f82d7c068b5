"""Forward passes in bfloat16, also on a CPU, where MONAI's engines know no mixed precision."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor


def gains_by_bfloat16() -> bool:
    """Whether training is faster in bfloat16 here: on CPUs that compute in it; a GPU has MONAI's `amp`."""
    if torch.cuda.is_available():
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


class Bfloat16Inferer(Inferer):  # type: ignore[misc]  # MONAI is untyped
    """Another inferer under `torch.autocast` to bfloat16; what comes out is float32, so that losses are exact.

    Weights, gradients and optimizer stay float32, and bfloat16 has float32's range, so nothing needs a scaler. A CPU
    with AVX-512 BF16 or AMX takes about half of the time for a training step; another one takes longer than in float32.
    MONAI's own `amp` is for CUDA alone.

    Args:
        inferer: what runs the network, such as MONAI's `SimpleInferer` or `SlidingWindowInferer`.
        enabled: False leaves everything to `inferer`.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> inferer = Bfloat16Inferer(SimpleInferer(), enabled=True)
        >>> inferer(torch.ones(1, 2), torch.nn.Linear(2, 1)).dtype
        torch.float32
    """

    def __init__(self, inferer: Inferer, enabled: bool) -> None:
        super().__init__()
        self._inferer, self._enabled = inferer, enabled

    def __call__(self, inputs: Tensor, network: torch.nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """What `inferer` makes of `inputs` and `network`, float32."""
        if not self._enabled:
            found: Tensor = self._inferer(inputs, network, *args, **kwargs)
            return found
        with torch.autocast(inputs.device.type, torch.bfloat16):
            found = self._inferer(inputs, network, *args, **kwargs)
        return found.float()
