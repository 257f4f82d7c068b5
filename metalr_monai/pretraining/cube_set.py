"""Cubes of unlabelled scans, drawn once before the training, as Models Genesis does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.transforms import Randomizable
from monai.utils import convert_to_tensor
from tqdm import tqdm

from ..data.data_check import is_first_rank
from ..errors import DataError

logger = logging.getLogger(__name__)


def cube_set(
    items: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], *, seed: int = 0, least: int = 1
) -> Dataset:
    """A data set of cubes in memory: {"image": (C, H, W[, D]), "case_id": the scan's}.

    A scan is read once, and then forgotten: a cube of 64×64×32 voxels takes 0.5 MB, and 623 scans with 32 cubes each
    take 10 GB, in each process.

    Args:
        items: a data list; see `data_list`.
        transform: from an item to a list of cubes, as a MONAI transform that crops several samples gives.
        seed: 0 … 2³² − 1. Each scan's cubes depend on it and on the scan's place in the list.
        least: number of cubes, as of a batch, below which there is nothing to train with.

    Raises:
        DataError: there are fewer cubes than `least`.
    """
    cubes = []
    for number, item in enumerate(tqdm(items, desc="cubes", unit="scan", disable=not is_first_rank())):
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        image = {"image": item["image"], "case_id": item["case_id"]}
        cubes += [
            {"image": convert_to_tensor(cube["image"], track_meta=False).clone(), "case_id": item["case_id"]}
            for cube in transform(image)
        ]
    if len(cubes) < least:
        raise DataError(
            f"{len(cubes)} cubes or pictures of {len(items)} cases are fewer than a batch of {least}. Set batch_size "
            f"to {max(len(cubes), 1)} or less, add scans, or take more cubes_per_scan."
        )
    logger.info("%d cubes of %d scans.", len(cubes), len(items))
    return Dataset(cubes)
