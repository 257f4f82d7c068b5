"""The images of a folder that a plan's networks are to predict."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.ct_lists import Item
from ..data.scans import Scans

_CHANNEL = re.compile(r"(.+)_0000")


def input_cases(folder: Path) -> list[Item]:
    """The images of a folder, NIfTI files or DICOM series; those of nnU-Net, `<case>_0000`, are called by their case.

    Raises:
        DataError: there are none, a case is there twice, or images cannot be read, all of them in one message.
    """
    scans = Scans(folder)
    scans.check()
    names = [_CHANNEL.fullmatch(str(item["case_id"])) for item in scans.items]
    if not all(names):
        return scans.items
    return [{**item, "case_id": match[1]} for item, match in zip(scans.items, names, strict=True) if match]
