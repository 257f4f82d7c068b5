"""Fine-tune a small 3D U-Net with learned rates, on volumes made on the spot: a minute or two on two cores.

    python examples/synthetic_transfer.py demo_output

A source network learns bright balls; the target task has dark balls in stronger noise, and twelve labelled volumes. The
same start is fine-tuned with one rate for all layers and with MetaLR, and scored on volumes that neither has seen. One
seed of one toy task: it shows what a user types and sees, not which scheme is better.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, create_test_image_3d
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.losses import DiceCELoss
from monai.transforms import Activationsd, AsDiscreted, Compose, EnsureTyped, RandFlipd, RandGaussianNoised
from monai.utils import set_determinism

import metalr_monai

SIZE = 32  # voxels a side
LR, BETA = 1e-3, 0.1


def volumes(count: int, seed: int, dark: bool, noise: float) -> list[dict[str, Any]]:
    """Images in [0, 1] and labels, each (1, 32, 32, 32): balls brighter, or darker, than their surroundings."""
    made = []
    for i in range(count):
        state = np.random.RandomState(1000 * seed + i)
        image, label = create_test_image_3d(
            SIZE, SIZE, SIZE, num_objs=5, rad_max=8, rad_min=4, noise_max=noise, num_seg_classes=1, random_state=state
        )
        image = 1 - image if dark else image
        made.append(
            {"image": image[None].astype("float32"), "label": label[None].astype("float32"), "case_id": f"{seed}_{i}"}
        )
    return made


def loader(items: list[dict[str, Any]], shuffle: bool) -> DataLoader:
    random = [RandFlipd(("image", "label"), prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.3, std=0.05)]
    transform = Compose([EnsureTyped(("image", "label")), *(random if shuffle else [])])
    return DataLoader(CacheDataset(items, transform, progress=False), batch_size=2, shuffle=shuffle)


def train(network: torch.nn.Module, items: list[dict[str, Any]], epochs: int, handlers: list[Any]) -> None:
    """Adam on the eight blocks of the U-Net; what the handlers do to the rates is their affair."""
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=loader(items, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(metalr_monai.param_groups(network, "genesis_unet3d", LR)),
        loss_function=DiceCELoss(sigmoid=True),
        train_handlers=handlers,
    ).run()


def dice(network: torch.nn.Module, items: list[dict[str, Any]]) -> float:
    """Mean Dice over the volumes."""
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader(items, shuffle=False),
        network=network,
        postprocessing=Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)]),
        key_val_metric={"dice": MeanDice(output_transform=from_engine(("pred", "label")))},
    )
    evaluator.run()
    return float(evaluator.state.metrics["dice"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=15, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("metalr_monai").setLevel(logging.INFO)

    set_determinism(args.seed)
    source = metalr_monai.GenesisUNet3D(width=8, batch_statistics="standard")
    print("Source task: bright balls, 24 volumes, 8 epochs.")
    train(source, volumes(24, seed=1, dark=False, noise=0.2), epochs=8, handlers=[])
    few, unseen = (volumes(12, seed=seed, dark=True, noise=0.5) for seed in (2, 3))

    scores = {"before fine-tuning": dice(source, unseen)}
    for scheme in ("all layers", "MetaLR"):
        print(f"\nTarget task: dark balls, {len(few)} volumes, {args.epochs} epochs, {scheme}.")
        network = metalr_monai.GenesisUNet3D(width=8, batch_statistics="standard")
        network.load_state_dict(source.state_dict())
        metalr = metalr_monai.MetaLRHandler(
            meta="training", beta=BETA, scale="cosine", rule="exponential", seed=args.seed
        )
        handlers = [metalr, metalr_monai.RateHistoryHandler(metalr, args.output)] if scheme == "MetaLR" else []
        set_determinism(args.seed)
        train(network, few, args.epochs, handlers)
        scores[scheme] = dice(network, unseen)

    print("\nDice on 12 unseen volumes, last epoch:")
    for scheme, score in scores.items():
        print(f"  {scheme:20s} {score:.3f}")
    print(f"\nRate curves: {args.output / 'rates.png'}, every step: {args.output / 'rates.csv'}")


if __name__ == "__main__":
    main()
