"""Small pictures, unlike each other, and folders of them in the published layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[1] / "../shared/data"
BUSI, CHEST_XRAY = DATA / "Dataset_BUSI_with_GT", DATA / "chest_xray"


def blobs(seed: int, shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    """uint8 (rows, columns): smooth, another picture for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def save(path: Path, pixels: np.ndarray | int, mode: str | None = None) -> Path:
    """Write an array, or the blobs of a seed, perhaps converted to another of Pillow's modes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(blobs(pixels) if isinstance(pixels, int) else pixels)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def busi_folder(root: Path, counts: tuple[int, int, int] = (5, 4, 3)) -> Path:
    for c, (name, count) in enumerate(zip(("benign", "malignant", "normal"), counts, strict=True)):
        for n in range(1, count + 1):
            save(root / name / f"{name} ({n}).png", 100 * c + n)
            save(root / name / f"{name} ({n})_mask.png", (blobs(n) > 128).astype(np.uint8) * 255, "1")
    return root


CHEST_NAMES = {
    "train/NORMAL": ["IM-0115-0001", "IM-0115-0002", "NORMAL2-IM-0115-0001", "IM-0117-0001-0002"],
    "train/PNEUMONIA": ["person1_bacteria_1", "person1_virus_6", "person447_virus_921_1", "person12_virus_3"],
    "test/NORMAL": ["IM-0001-0001", "NORMAL2-IM-0012-0001"],
    "test/PNEUMONIA": ["person1_virus_7", "person2_virus_8"],
}


def chest_folder(root: Path, names: dict[str, list[str]] = CHEST_NAMES) -> Path:
    for k, (folder, files) in enumerate(names.items()):
        for n, name in enumerate(files):
            save(root / folder / f"{name}.jpeg", 100 * k + n)
    return root
