"""The loss of a MONAI trainer on a batch of one's own choice."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from torch import Tensor


def batch_loss(engine: SupervisedTrainer, batch: Any) -> Tensor:  # noqa: ANN401 - a batch is what the collation makes
    """The trainer's own forward pass and loss (as in `SupervisedTrainer._iteration`); nothing is stepped or recorded.

    Args:
        engine: gives `prepare_batch`, inferer, network, loss function and mixed precision.
        batch: as the trainer's data loader makes them.

    Returns:
        The mean loss with its graph, shape (); not scaled.
    """
    prepared = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    inputs, targets, args, kwargs = prepared if len(prepared) == 4 else (*prepared, (), {})
    if engine.compile:  # torch.compile takes plain tensors, and so MONAI gives it those
        inputs, targets = (t.as_tensor() if isinstance(t, MetaTensor) else t for t in (inputs, targets))
    mixed = engine.amp and engine.scaler is not None
    with torch.autocast("cuda", **engine.amp_kwargs) if mixed else nullcontext():
        predictions = engine.inferer(inputs, engine.network, *args, **kwargs)
        loss: Tensor = engine.loss_function(predictions, targets).mean()
    return loss
