"""The pictures of a folder for inference: which they are, whether they can be read, what they are called."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from os import PathLike
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError, first_few
from .ct_lists import natural_key
from .image_files import PICTURES, case_id
from .near_duplicates import WORKERS
from .read_picture import read_picture

logger = logging.getLogger(__name__)

_MASK = re.compile(r"(.+)_mask(_\d+)?", re.IGNORECASE)


class Pictures:
    """Pictures to predict: those in a folder and below it, or those of a list. It is looked for them when first needed.

    A case is called by its path below the folder (for a list, below the folder that all have in common), without the
    suffix unless two differ in that alone. In a folder, masks beside their pictures (`a_mask.png` and `a_mask_1.png`
    beside `a.png`) are passed over, as are files and folders whose names begin with a dot.

    Args:
        source: a folder, a picture, or a list of pictures.
    """

    def __init__(self, source: str | PathLike[str] | Sequence[str | PathLike[str]]) -> None:
        self._listed = not isinstance(source, (str, PathLike))
        paths = [source] if isinstance(source, (str, PathLike)) else source
        self._paths = [Path(path).expanduser().absolute() for path in paths]

    @cached_property
    def items(self) -> list[dict[str, str]]:
        """`{"image": path, "case_id": name}` of each picture, in natural order.

        Raises:
            DataError: there is no such folder or picture, there are no pictures, or one is listed twice.
        """
        root, files = self._find()
        names = [case_id(file, root) for file in files]
        several = {name for name, count in Counter(names).items() if count > 1}
        names = [
            file.relative_to(root).as_posix() if name in several else name
            for file, name in zip(files, names, strict=True)
        ]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"{len(twice)} picture(s) are there more than once: {first_few(twice)}. Keep one each.")
        items = [{"image": str(file), "case_id": name} for file, name in zip(files, names, strict=True)]
        return sorted(items, key=lambda item: natural_key(item["case_id"]))

    def check(self, *, progress: bool = True) -> None:
        """Decode every picture, so that no work is lost to the last one.

        Raises:
            DataError: what `items` refuses, or pictures that cannot be read, all of them in one message.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            found = pool.map(_fault, [item["image"] for item in self.items])
            bar = tqdm(found, total=len(self.items), desc="check", unit="image", disable=not progress)
            faults = [fault for fault in bar if fault]
        if faults:
            lines = "\n".join(f"  {fault}" for fault in faults)
            raise DataError(f"{len(faults)} of {len(self.items)} pictures cannot be predicted:\n{lines}")

    def _find(self) -> tuple[Path, list[Path]]:
        """The folder that the names start from, and the files."""
        if missing := [str(path) for path in self._paths if not path.exists()]:
            raise DataError(
                f"There is no {first_few(missing)}; expected the folder of the pictures, or a list of pictures."
            )
        if not self._paths:
            raise DataError("The list of pictures is empty; expected their paths, or a folder.")
        first = self._paths[0]
        if not self._listed and first.is_dir():
            return first, _below(first)
        if folders := [str(path) for path in self._paths if path.is_dir()]:
            raise DataError(
                f"The list of pictures has folders in it: {first_few(folders)}. Name pictures, or one folder."
            )
        return Path(os.path.commonpath([path.parent for path in self._paths])), self._paths


def _below(root: Path) -> list[Path]:
    files = [path for path in _walk(root) if path.suffix.lower() in PICTURES]
    stems = {path.with_suffix("") for path in files}
    masks = {path for path in files if (match := _MASK.fullmatch(path.stem)) and path.with_name(match[1]) in stems}
    if not files:
        raise DataError(
            f"{root}: there are no pictures in this folder or below it; expected {', '.join(sorted(PICTURES))}."
        )
    if masks:
        logger.info("%d mask(s) beside their pictures are passed over.", len(masks))
    return [path for path in files if path not in masks]


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path)
        else:
            yield path


def _fault(file: str) -> str | None:
    try:
        read_picture(file)
    except DataError as error:
        return str(error)
    return None
