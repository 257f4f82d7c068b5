"""Weight decay that pulls the body to its pre-trained weights instead of to zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor

from ..errors import StateError
from .options import checked_number
from .scheme import Scheme


class L2SP(Scheme):
    """L²-SP: the loss + α/2·‖w − w₀‖² over the body + β/2·‖w‖² over the head, w₀ being the pre-trained weights.

    Li, Grandvalet & Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", 2018. The
    penalties' gradients, α·(w − w₀) and β·w, are added to those of the loss before each step, for all trainable
    parameters with a gradient. Let the optimizer have no weight decay of its own. With Adam they are divided by its
    root mean square, as its own L2 penalty is; the paper has SGD.

    w₀ are the weights as the first epoch begins; they double the network's share of a checkpoint.

    Args:
        alpha: α, 0 or more.
        beta: β, 0 or more.

    Raises:
        OptionError: an argument is below 0.
        StateError: when resuming, the checkpoint's blocks are others.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        self._alpha, self._beta = (
            checked_number(name, value, "a number, 0 or more", lambda value: value >= 0)
            for name, value in (("alpha", alpha), ("beta", beta))
        )
        self._pretrained: dict[str, list[Tensor]] = {}

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Keep w₀, once: by now any weights are loaded, and a resumed run has its own."""
        body = self.names[:-1]
        if not self._pretrained:
            self._pretrained = {name: [p.detach().clone() for p in self.blocks[name]] for name in body}
        shapes = {name: [w.shape for w in weights] for name, weights in self._pretrained.items()}
        if shapes != {name: [p.shape for p in self.blocks[name]] for name in body}:
            raise StateError(
                f"The checkpoint has pre-trained weights of the blocks {', '.join(shapes)}; the network's are "
                f"{', '.join(body)}, or their parameters differ. Resume with the same network and blocks."
            )

    @torch.no_grad()
    def before_step(self, engine: SupervisedTrainer) -> None:
        """Add the penalties' gradients."""
        # A fused optimizer gets scaled gradients, and divides them by `grad_scale` within its step.
        scale = getattr(engine.optimizer, "grad_scale", None)
        alpha, beta = (rate if scale is None else rate * scale for rate in (self._alpha, self._beta))
        for name, pretrained in self._pretrained.items():
            for p, start in zip(self.blocks[name], pretrained, strict=True):
                if p.grad is not None:
                    p.grad.add_((p - start) * alpha)
        for p in self.blocks[self.names[-1]]:
            if p.grad is not None:
                p.grad.add_(p * beta)

    def state_dict(self) -> dict[str, Any]:
        """w₀, by block."""
        return {"pretrained": {name: list(weights) for name, weights in self._pretrained.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the w₀ of `state_dict()`."""
        self._pretrained = {name: list(weights) for name, weights in state["pretrained"].items()}
