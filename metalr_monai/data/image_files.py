"""What the readers of labelled 2D images share: the list they return, its items, and how they refuse a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import first_few
from .ct_lists import natural_key

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif"})

ImageItem = dict[str, Any]
"""{"image": path, "label": int, "class_name": str, "group": str, "case_id": str}, and "part" where one is published.

No key begins with `image_` or `label_`: MONAI takes such keys for meta data of "image" and "label".
"""


class ImageList(list[ImageItem]):
    """Items in natural order of their case ids, and what the reader has to say about them.

    Args:
        items: one `ImageItem` a picture.
        classes: their names; a label is a place in it.
        near: bits (of 255) by which the perceptual hashes of near-duplicates differ at most; see `near_duplicates`.
        notes: what the reader passed over or put together, a sentence each.
    """

    def __init__(self, items: Iterable[ImageItem], classes: Sequence[str], near: int, notes: Sequence[str] = ()):
        super().__init__(sorted(items, key=lambda item: natural_key(item["case_id"])))
        self.classes, self.near, self.notes = tuple(classes), near, list(notes)
        if not self:
            raise Misplaced("there are no images")
        if empty := [name for name in classes if not any(item["class_name"] == name for item in self)]:
            raise Misplaced(f"no image of the class {', '.join(empty)}")
        if twice := [case for case, count in Counter(item["case_id"] for item in self).items() if count > 1]:
            raise Misplaced(f"{len(twice)} images are there under two suffixes: {first_few(twice)}. Keep one each")


class Misplaced(Exception):
    """What is wrong in a folder; `image_list` adds which folder, what was expected and what was found."""


def image_item(path: Path, root: Path, classes: Sequence[str], class_name: str, group: str) -> ImageItem:
    """The item of one file; its case id is its path below `root` without the suffix, with `/` between folders."""
    return {
        "image": str(path),
        "label": list(classes).index(class_name),
        "class_name": class_name,
        "group": group,
        "case_id": case_id(path, root),
    }


def case_id(path: Path, root: Path) -> str:
    """The path below `root` without the suffix: `benign/benign (1)`."""
    return path.relative_to(root).with_suffix("").as_posix()


def pictures(folder: Path) -> list[Path]:
    """The pictures right in a folder, in natural order; files whose names begin with a dot are passed over."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_key(path.name))
