"""Chest X-rays of children (Kermany 2018): NORMAL and PNEUMONIA, published as train, test and, in some copies, val."""

from __future__ import annotations

import re
from pathlib import Path

from .image_files import ImageItem, ImageList, Misplaced, image_item, pictures

CLASSES = ("NORMAL", "PNEUMONIA")
PARTS = ("train", "val", "test")
NEAR = 24  # bits of 255: real duplicates differ in none, all radiographs are alike, and unlike ones begin at 38

LAYOUT = (
    "  train/NORMAL/IM-0115-0001.jpeg           or NORMAL2-IM-…\n"
    "  train/PNEUMONIA/person1_bacteria_1.jpeg  or person1_virus_1.jpeg\n"
    "  test/NORMAL, test/PNEUMONIA              and val/ likewise, if there is one"
)
_PERSON = re.compile(r"person\d+(?=_)|(?:NORMAL2-)?IM-\d+(?=-)")


def chest_xray(root: Path, *, one_numbering: bool = False) -> ImageList:
    """The images of `root` with the published part as "part" and the person as "group".

    170 person numbers occur in both train and test, with nothing to tell whether they are the same people. The numbers
    are taken to begin anew in test, as they do in the names of the normal images, so a group is a person of a part:
    `train/person1`. (Those of val go on where train's end, and are numbered with them.)

    Args:
        root: folder with train and test.
        one_numbering: person1 of train and of test are the same. The published parts then share groups, and a split
            along them is refused.

    Raises:
        Misplaced: train or test, or a class in one, has no images; or a file's name tells no person.
    """
    found = [(path, part, name) for part in PARTS for name in CLASSES for path in pictures(root / part / name)]
    there = {(part, name) for _, part, name in found}
    needed = [(part, name) for part in PARTS for name in CLASSES if part != "val" or (root / part).is_dir()]
    if absent := [f"{part}/{name}" for part, name in needed if (part, name) not in there]:
        raise Misplaced(f"no images in {', '.join(absent)}")
    persons = {path: match[0] for path, _, _ in found if (match := _PERSON.match(path.name))}
    if odd := [path.name for path, _, _ in found if path not in persons]:
        raise Misplaced(
            f"{len(odd)} file name(s) tell no person, such as {odd[0]}; expected personN_… or [NORMAL2-]IM-N-…"
        )
    items: list[ImageItem] = []
    for path, part, name in found:
        numbering = "" if one_numbering else "test/" if part == "test" else "train/"
        items.append(image_item(path, root, CLASSES, name, numbering + persons[path]) | {"part": part})
    numbered = "by one numbering in all parts" if one_numbering else "train and test numbered apart"
    return ImageList(items, CLASSES, NEAR, [f"a group is a person, told by the file's name, {numbered}"])
