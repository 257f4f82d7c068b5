"""The class of a picture, out of the file that an annotation server keeps."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import DataError, near_misses


class ClassLabeld(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """The number of an item's class; a number is left as it is, a path is read.

    The file is JSON, as MONAI Label keeps it for a picture: `{"label": "benign"}`, in letters of any case.

    Args:
        keys: of the labels.
        classes: their names, in the order of their numbers.

    Raises:
        DataError: the file cannot be read, or names no class that there is.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._numbers = {name.lower(): number for number, name in enumerate(classes)}
        self._classes = tuple(classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the labels."""
        item = dict(data)
        for key in self.key_iterator(item):
            if isinstance(item[key], (str, PathLike)):
                item[key] = self._read(Path(item[key]))
        return item

    def _read(self, file: Path) -> int:
        expected = f'expected {{"label": NAME}}, NAME one of {", ".join(self._classes)}'
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"The label {file} cannot be read: {error}; {expected}.") from error
        name = content.get("label") if isinstance(content, dict) else None
        if not isinstance(name, str) or name.lower() not in self._numbers:
            near = near_misses(str(name), self._classes)
            raise DataError(f"The label {file} is {name!r}; {expected}.{near} Save the label again.")
        return self._numbers[name.lower()]
