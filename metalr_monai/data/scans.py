"""The scans of a folder for inference: which they are, whether they can be read, what their results are called."""

from __future__ import annotations

import logging
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from monai.data.folder_layout import default_name_formatter
from monai.utils import ImageMetaKey

from .check_volumes import check_volumes
from .ct_lists import Item, data_list
from .dicom_series import is_series

logger = logging.getLogger(__name__)


class Scans:
    """NIfTI files and DICOM series of a folder in the layout `pairs`; it is looked into when that is first needed.

    Args:
        folder: as of `data_list`.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._folder = folder

    @cached_property
    def items(self) -> list[Item]:
        """The data list, see `data_list`.

        Raises:
            DataError: the folder holds no images, or a case twice.
        """
        return data_list("pairs", self._folder)

    def check(self) -> None:
        """Read all headers, so that no work is lost to the last scan; what is unusual goes to the log.

        Raises:
            DataError: scans that cannot be read, all of them in one message.
        """
        images: list[Item] = [{"image": item["image"], "case_id": item["case_id"]} for item in self.items]
        report = check_volumes(images, progress=False)
        report.raise_if_bad()
        if unusual := report.told("warning"):
            logger.warning("The scans can be read, but:\n%s", "\n".join(f"  {line}" for line in unusual))

    def name(self, meta: dict[str, Any], saver: Any) -> dict[str, Any]:  # noqa: ANN401 - MONAI is untyped
        """`output_name_formatter` of `SaveImaged`: series are called by their case, files by their own names.

        A series' folder may be called by a UID, whose last number MONAI would take for a file's ending.
        """
        words: dict[str, Any] = default_name_formatter(meta, saver)
        path = str(meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))
        if is_series(path):
            case = {str(item["image"]): item["case_id"] for item in self.items}[path]
            words["subject"] = str(Path(saver.folder_layout.data_root_dir) / f"{case}.dcm")  # MONAI takes .dcm away
        return words
