"""POCUS, lung ultrasound (Born 2020): frames of videos and single images of COVID-19, pneumonia and regular lungs.

Frames of one video are nearly alike, so a group is a video. Raw videos are turned into frames by `pocus_videos`, folds
that come as a pickle into images by `pocus_folds`.
"""

from __future__ import annotations

import re
from pathlib import Path

from .image_files import ImageItem, ImageList, Misplaced, image_item, pictures

CLASSES = ("covid19", "pneumonia", "regular")
NEAR = 24  # bits of 255; strict, since all convex-probe images have the same outline
VIDEOS = frozenset({".gif", ".mp4", ".mov", ".avi", ".mpeg", ".mpg", ".m4v"})

LAYOUT = (
    "  covid19/Cov-….gif_frame12.jpg   or covid/; one folder a class, also below folders split0 … or fold1 …\n"
    "  pneumonia/Pneu-….mp4_frame0.jpg\n"
    "  regular/Reg-….jpg               a single image is a group of its own\n"
    "  or all in one folder, classes told by Cov-, Pneu-, Reg-"
)
_FOLDERS = {"covid": 0, "covid19": 0, "covid-19": 0, "covid_19": 0, "pneumonia": 1, "regular": 2}
_PREFIX = re.compile(r"(cov|pneu|reg)[-_]", re.IGNORECASE)
_PREFIXES = {"cov": 0, "pneu": 1, "reg": 2}
_FRAME = re.compile(r"(.+)_frame\d+")
_FOLD = re.compile(r"(split|fold)[-_ ]?(\d+)")  # splits are numbered from 0, folds from 1


def pocus(root: Path) -> ImageList:
    """The frames and images below `root`; group: the video that a frame is from, "part": its published fold, if any.

    Passed over, and noted: the linear probe's (`linear` in the name of the file or of a folder) and viral pneumonia
    (`viral` likewise, or `Vir-`), which are not part of the task.

    Raises:
        Misplaced: there are raw videos but no frames; a file's class is not to be told, or told in two ways; a video
            is in two classes or folds; a class has no images.
    """
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir() and not path.name.startswith("."))]
    files = [path for folder in folders for path in pictures(folder) if path.suffix.lower() != ".gif"]
    linear = [path for path in files if _is_linear(path, root)]
    viral = [path for path in files if path not in linear and _is_viral(path, root)]
    skipped = {*linear, *viral}
    kept = [path for path in files if path not in skipped]
    if not kept and any(path.suffix.lower() in VIDEOS for folder in folders for path in folder.iterdir()):
        raise Misplaced("there are raw videos, but no frames; write them with write_pocus_frames(folder, new_folder)")
    classes = {path: class_numbers(path, root) for path in kept}
    if odd := [path for path, numbers in classes.items() if len(numbers) != 1]:
        raise Misplaced(
            f"the class of {len(odd)} file(s) is not told, or in two ways, such as {odd[0].relative_to(root)}; "
            f"expected a folder {', '.join(CLASSES)}, or a name that begins with Cov-, Pneu- or Reg-, which agree"
        )
    items = [_item(path, root, CLASSES[numbers.pop()]) for path, numbers in classes.items()]
    _refuse_crossing(items)
    notes = [f"{len(linear)} image(s) of the linear probe passed over"] if linear else []
    notes += [f"{len(viral)} image(s) of viral pneumonia passed over"] if viral else []
    return ImageList(items, CLASSES, NEAR, notes)


def class_numbers(path: Path, root: Path) -> set[int]:
    """The classes that the folders of a file below `root`, and its name, tell."""
    names = [folder.lower() for folder in path.relative_to(root).parts[:-1]]
    told = {_FOLDERS[name] for name in names if name in _FOLDERS}
    return told | ({_PREFIXES[match[1].lower()]} if (match := _PREFIX.match(path.name)) else set())


def is_skipped(path: Path, root: Path) -> bool:
    """The file is not part of the task: linear probe, or viral pneumonia."""
    return _is_linear(path, root) or _is_viral(path, root)


def _is_linear(path: Path, root: Path) -> bool:
    return "linear" in str(path.relative_to(root)).lower()


def _is_viral(path: Path, root: Path) -> bool:
    return "viral" in str(path.relative_to(root)).lower() or path.name.lower().startswith(("vir-", "vir_"))


def _item(path: Path, root: Path, class_name: str) -> ImageItem:
    source = match[1] if (match := _FRAME.fullmatch(path.stem)) else path.stem
    if Path(source).suffix.lower() in VIDEOS:  # a video and a single image of one name are from one source
        source = str(Path(source).with_suffix(""))
    item = image_item(path, root, CLASSES, class_name, source)
    for name in path.relative_to(root).parts[:-1]:
        if fold := _FOLD.fullmatch(name.lower()):
            item["part"] = f"fold {int(fold[2]) + (fold[1] == 'split')}"
    return item


def _refuse_crossing(items: list[ImageItem]) -> None:
    for key, what in (("class_name", "classes"), ("part", "folds")):
        places: dict[str, set[str]] = {}
        for item in items:
            places.setdefault(item["group"], set()).add(item.get(key, "none"))
        if crossing := [group for group, found in places.items() if len(found) > 1]:
            where = " and ".join(sorted(places[crossing[0]]))
            raise Misplaced(
                f"{len(crossing)} video(s) are in two {what}, such as {crossing[0]}: {where}. Keep one each"
            )
