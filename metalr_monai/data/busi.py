"""BUSI, breast ultrasound (Al-Dhabyani 2020): 437 benign, 210 malignant and 133 normal images, with masks beside them.

The data set names no patients, and many images show one lesion twice or more, some even in two classes (Pawłowska
2023). So near-duplicates, by perceptual hash, are one group, which no split may part.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from .image_files import ImageList, Misplaced, case_id, image_item, pictures
from .near_duplicates import BITS, clusters, hash_files

CLASSES = ("benign", "malignant", "normal")

NEAR = 76
"""Bits of 255. Of the 303,810 pairs of published images 231 differ in at most 76. The 22 of them that differ in 48 or
more, looked at, show the same lesion, or the same view a few frames apart; the first pair that does not differs in 80.
99 % of all pairs differ in 104 or more. No image is another's mirror image."""

LAYOUT = (
    "  benign/benign (1).png         and its masks, benign (1)_mask.png, benign (1)_mask_1.png, …\n"
    "  malignant/malignant (1).png\n"
    "  normal/normal (1).png"
)


def busi(root: Path) -> ImageList:
    """The images of `root`; those with `_mask` in their names are passed over. Every image is decoded for its hash.

    Raises:
        Misplaced: a class has no folder or no images.
    """
    if absent := [name for name in CLASSES if not (root / name).is_dir()]:
        raise Misplaced(f"there is no folder {', '.join(absent)}")
    found = [(path, name) for name in CLASSES for path in pictures(root / name)]
    images = [(path, name) for path, name in found if "_mask" not in path.stem.lower()]
    numbers = clusters(hash_files([str(path) for path, _ in images]), NEAR)
    members: dict[int, list[str]] = defaultdict(list)
    for number, (path, _) in zip(numbers, images, strict=True):
        members[number].append(case_id(path, root))
    several = [cases for cases in members.values() if len(cases) > 1]
    notes = [f"{len(found) - len(images)} mask(s) (names with _mask) passed over"] if len(found) > len(images) else []
    notes.append(
        f"no patient numbers: {sum(map(len, several))} image(s) that are near-duplicates (at most {NEAR} of {BITS} "
        f"bits of the hash differ) are kept together in {len(several)} group(s); the others are a group each"
    )
    items = (
        image_item(path, root, CLASSES, name, members[number][0])
        for number, (path, name) in zip(numbers, images, strict=True)
    )
    return ImageList(items, CLASSES, NEAR, notes)
