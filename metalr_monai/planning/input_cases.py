"""The images of a folder that a plan's networks are to predict."""

from __future__ import annotations

import re
from pathlib import Path

from ..data.check_volumes import check_volumes
from ..data.ct_lists import Item, data_list
from ..errors import DataError, first_few

_CHANNEL = re.compile(r"(.+)_(\d{4})")  # of nnU-Net's file names


def input_cases(folder: Path) -> tuple[list[Item], dict[str, str]]:
    """The images of a folder, NIfTI files or DICOM series, and those that cannot be read: case → why.

    Files of nnU-Net, `<case>_0000`, are called by their case.

    Raises:
        DataError: there are none, a case is there twice, or images have several channels.
    """
    items = [{**item, "case_id": _case(str(item["case_id"]))} for item in data_list("pairs", str(folder))]
    names = [str(item["case_id"]) for item in items]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{folder} holds cases twice: {first_few(twice)}. Keep one image each.")
    report = check_volumes([{"image": item["image"], "case_id": item["case_id"]} for item in items], progress=False)
    faults = {p.case_id: f"{p.file}: {p.message}" for p in report.problems if p.kind == "error"}
    return [item for item in items if item["case_id"] not in faults], faults


def _case(name: str) -> str:
    match = _CHANNEL.fullmatch(name)
    if match and int(match[2]) > 0:
        raise DataError(f"{name} is a further channel of {match[1]}; images are to have one, CT. Take it away.")
    return match[1] if match else name
