"""The trainer's loss on a batch of one's own choice."""

from __future__ import annotations

import pytest
import torch
from small_trainer import Net, make_trainer
from torch import nn

from metalr_monai.handlers.batch_loss import batch_loss


class Tempered(Net):
    """Takes more than an image."""

    def forward(self, x, temperature=1.0, *, shift=0.0):
        return super().forward(x) / temperature + shift * torch.arange(2)


@pytest.mark.parametrize(("args", "kwargs"), [((2.0,), {"shift": 0.5}), ((), {"shift": 0.5}), ((2.0,), {}), ((), {})])
def test_what_prepare_batch_gives_besides_image_and_label_reaches_the_network(args, kwargs):
    trainer = make_trainer([], prepare_batch=lambda batch, *_, **__: (batch["image"], batch["label"], args, kwargs))
    trainer.network = Tempered().eval()
    batch = next(iter(trainer.data_loader))
    expected = nn.functional.cross_entropy(trainer.network(batch["image"], *args, **kwargs), batch["label"])
    assert torch.equal(batch_loss(trainer, batch), expected)
