"""Deform batches where MONAI's engines prepare them: on the device, between the data loader and the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ..errors import EngineError, OptionError, near_misses
from .deform import Deformations, DeformBatch


class PrepareDeformed:
    """A `prepare_batch` whose input is the deformed `image` of the batch, and whose target the one to restore.

    What is drawn depends on the seed, the process's rank and the engine's iteration, so that a resumed run draws the
    same, and an evaluator, which counts anew each time, deforms each validation alike. It is a handler, too: attach it
    to the engine that it prepares for.

    Args:
        seed: of the run; another one for validation.
        probabilities: of `Deformations`, by name; the published ones by default.

    Raises:
        OptionError: see `Deformations` and `DeformBatch`.
        EngineError: it prepares a batch, and is attached to no engine.
    """

    def __init__(self, seed: int = 0, **probabilities: Any) -> None:  # noqa: ANN401 - `windows` is none
        known = [field.name for field in fields(Deformations)]
        for name in probabilities:
            if name not in known:
                raise OptionError(f"deformations has {name!r}; expected {', '.join(known)}.{near_misses(name, known)}")
        self._deform = DeformBatch(seed, Deformations(**probabilities), idist.get_rank())
        self._iteration: int | None = None

    def attach(self, engine: Engine) -> None:
        """Follow the engine's iterations."""
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._follow)

    def _follow(self, engine: Engine) -> None:
        self._iteration = engine.state.iteration

    def __call__(
        self,
        batchdata: Mapping[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **to: Any,  # noqa: ANN401 - of Tensor.to, as MONAI passes it
    ) -> tuple[Tensor, Tensor]:
        """Deformed and original images, (B, C, H, W[, D]) each, on the device."""
        if self._iteration is None:
            raise EngineError("PrepareDeformed is attached to no engine; name it among the engine's handlers, too.")
        images = batchdata["image"].to(device=device, non_blocking=non_blocking, **to)
        return self._deform(images, self._iteration)
