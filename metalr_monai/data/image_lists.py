"""Data lists of labelled 2D images: one reader a data set, under one name each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..errors import DataError, OptionError, first_few, near_misses
from . import busi, chest_xray, pocus
from .ct_lists import natural_key
from .image_files import ImageList, Misplaced


@dataclass(frozen=True)
class Reader:
    """How one data set is read, its classes in the order of their labels, a picture of its folder in words for error
    messages, and what it may be told."""

    read: Callable[..., ImageList]
    classes: tuple[str, ...]
    layout: str
    options: tuple[str, ...] = ()


IMAGE_READERS: dict[str, Reader] = {
    "pocus": Reader(pocus.pocus, pocus.CLASSES, pocus.LAYOUT),
    "busi": Reader(busi.busi, busi.CLASSES, busi.LAYOUT),
    "chest_xray": Reader(chest_xray.chest_xray, chest_xray.CLASSES, chest_xray.LAYOUT, ("one_numbering",)),
}


def image_list(kind: str, folder: str | PathLike[str], **options: bool) -> ImageList:
    """The labelled images of a data set, as MONAI takes them, sorted by case.

    An item is `{"image": path, "label": int, "class_name": str, "group": str, "case_id": str}`, and "part" where the
    data set publishes one (chest X-ray: train, val or test; POCUS: "fold k", if folders tell). A group is what no split
    may part: a video, a person, a cluster of near-duplicates; see the data set's own file. The list has `classes` and
    `notes`, which say what was passed over or put together.

    Args:
        kind: a key of `IMAGE_READERS`.
        folder: root of the data set.
        options: the reader's own: `one_numbering` for "chest_xray".

    Raises:
        OptionError: an unknown kind, or an option that its reader does not know.
        DataError: the folder is not laid out as the kind says; the message tells what is there.
    """
    if kind not in IMAGE_READERS:
        known = ", ".join(IMAGE_READERS)
        raise OptionError(f"Unknown kind of images {kind!r}; known: {known}.{near_misses(kind, IMAGE_READERS)}")
    reader = IMAGE_READERS[kind]
    if unknown := [name for name in options if name not in reader.options]:
        known = ", ".join(reader.options) or "none"
        raise OptionError(f"Images of kind {kind!r} have no option {first_few(unknown)}; known: {known}.")
    root = Path(folder).expanduser()
    try:
        if not root.is_dir():
            raise Misplaced("this is not a folder" if root.exists() else "there is no such folder")
        return reader.read(root, **options)
    except Misplaced as misplaced:
        raise DataError(
            f"{root}: {misplaced}.\nExpected for kind {kind!r}:\n{reader.layout}\nFound: {_found(root)}."
        ) from None


def _found(root: Path) -> str:
    folder = root if root.is_dir() else root.parent
    there = folder.iterdir() if folder.is_dir() else ()
    names = sorted(
        (path.name + "/" * path.is_dir() for path in there if not path.name.startswith(".")), key=natural_key
    )
    where = "" if folder == root else f"in {folder}: "
    return where + (first_few(names) if names else "nothing")
