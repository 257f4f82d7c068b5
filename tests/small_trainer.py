"""A real `SupervisedTrainer` on ten small images, built anew by every call."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.transforms import Compose, EnsureTyped, RandFlipd, RandGaussianNoised
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

import metalr_monai


def items(count: int = 10) -> list[dict]:
    draws = np.random.default_rng(0)
    return [
        {"image": draws.normal(size=(1, 8, 8)).astype("float32"), "label": np.int64(i % 2), "case_id": f"case_{i:02d}"}
        for i in range(count)
    ]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def make_trainer(
    handlers,
    *,
    lr=1e-3,
    epochs=2,
    batch_size=2,
    optimizer=torch.optim.Adam,
    distributed=False,
    num_workers=0,
    **settings,
):
    """Images of 8×8 with random augmentation, shuffled; network, optimizer and streams are the same in each call."""
    torch.manual_seed(0)
    network = Net()
    transform = Compose(
        [EnsureTyped(("image", "label")), RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=0.5)]
    )
    transform.set_random_state(1)
    dataset = CacheDataset(items(), transform, progress=False)
    sampler = DistributedSampler(dataset) if distributed else None
    groups = metalr_monai.param_groups(network, "auto", lr)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(
            dataset, num_workers, batch_size=batch_size, shuffle=sampler is None, sampler=sampler
        ),
        network=DistributedDataParallel(network) if distributed else network,
        optimizer=optimizer(groups),
        loss_function=nn.CrossEntropyLoss(),
        inferer=SimpleInferer(),
        train_handlers=handlers,
        **settings,
    )


def record_cases(trainer) -> list[tuple[str, ...]]:
    """The case names of every batch from now on, in order: a training batch, its meta batch, and so on."""
    cases: list[tuple[str, ...]] = []
    original = trainer.prepare_batch

    def recording(batch, *args, **kwargs):
        cases.append(tuple(batch["case_id"]))
        return original(batch, *args, **kwargs)

    trainer.prepare_batch = recording
    return cases
