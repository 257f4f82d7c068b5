"""Cases once oriented, resampled and scaled, in files that a training maps into memory and crops from.

    folder/<case>/image.npy       float32 (x, y, z), in the range that the network is given
                  label.npy       uint8 (x, y, z), label values
                  foreground.npy  int32, places of label > 0 in the flattened (x, y, z), all of them
                  background.npy  int32, places of label 0, evenly thinned to at most 2^17
                  prepared.json   written last: what the case was prepared by, sizes and SHA-256 of the arrays

Arrays are float32 and not quantised, so that what training sees is to the last bit what the transforms give. They lie
slice after slice (z is the slowest in the file), so that a crop reads its own slices and of these its own rows: an
operating system's page is a chunk that needs no code.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    LoadImaged,
    MapTransform,
    Orientationd,
    ScaleIntensityRanged,
)
from monai.transforms.utils import map_binary_to_indices
from numpy.typing import NDArray
from torch import Tensor

from ..checksum import sha256
from ..data.hold_out import case_names
from ..data.regions import Regions
from ..data.resample import AxisSpacingd
from ..data.scan_reader import ScanReader
from ..errors import DataError, MetaLRError, first_few, own_error
from ..files import atomic_path
from ..in_threads import MOST_WORKERS, in_threads
from ..nifti import UNREADABLE

logger = logging.getLogger(__name__)

MARKS = "prepared.json"
VERSION = 1
MOST_BACKGROUND = 2**17  # places, 0.5 MB, which MONAI copies for each crop; as a choice of centres as good as all

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class PreparedCases:
    """What became of the cases.

    Attributes:
        kept: were prepared before.
        made: have been prepared now.
        failed: case → why it could not be.
    """

    kept: tuple[str, ...]
    made: tuple[str, ...]
    failed: Mapping[str, str]


def prepare_cases(
    items: Sequence[Mapping[str, Any]],
    folder: str | Path,
    *,
    spacing: Sequence[float],
    hu_window: Sequence[float],
    value_range: Sequence[float],
    regions: Regions,
    identity: str,
    verify: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> PreparedCases:
    """Prepare each case that is not yet; one that fails does not stop the others.

    Args:
        items: as from `data_list`: "image", "label" and "case_id".
        folder: a folder a case is made in it.
        spacing: mm, of x, y and z after the orientation to RAS.
        hu_window: HU, clipped to and scaled linearly to `value_range`.
        value_range: what the network is given.
        regions: region name → label values; a label with others fails.
        identity: what else a case depends on, such as a hash of the plan or of the data set; a case of another one is
            prepared anew.
        verify: compare the SHA-256 of what is there too, not its size alone.
        workers: threads, each with a case in memory; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Raises:
        DataError: a case is listed twice, or its name is none for a folder.
        OptionError: `workers` is no number of threads.
    """
    folder, names = Path(folder), _case_folders(items)
    settings = {
        "spacing": [float(edge) for edge in spacing],
        "hu_window": [float(end) for end in hu_window],
        "value_range": [float(end) for end in value_range],
        "labels": sorted({0, *(int(value) for values in regions.values() for value in values)}),
    }
    threads = torch.get_num_threads()
    each = max(1, threads // (workers or min(os.cpu_count() or 1, MOST_WORKERS)))
    work = partial(_keep_or_make, folder=folder, identity=identity, settings=settings, verify=verify, threads=each)
    try:
        found = in_threads(
            work, list(zip(names, items, strict=True)), what="preprocess", workers=workers, progress=progress
        )
    finally:
        torch.set_num_threads(threads)  # new threads take over what another thread has set last
    outcomes = dict(zip(names, found, strict=True))
    kept, made = (tuple(case for case in names if outcomes[case][0] == outcome) for outcome in ("kept", "made"))
    return PreparedCases(kept, made, {case: why for case, (outcome, why) in outcomes.items() if outcome == "failed"})


def prepared_items(folder: str | Path, cases: Sequence[str], identity: str) -> list[dict[str, str]]:
    """Items for `LoadPreparedd`, in the order of `cases`: "image", "label" and "case_id".

    Raises:
        DataError: cases have not been prepared, or with another identity.
    """
    faults = {case: _outdated(_read_marks(Path(folder) / case), identity) for case in cases}
    if bad := [f"{case} ({fault})" for case, fault in faults.items() if fault]:
        raise DataError(
            f"{len(bad)} of {len(cases)} cases in {folder} are not prepared: {first_few(bad)}. Preprocess the data set."
        )
    return [
        {
            "image": str(Path(folder) / case / "image.npy"),
            "label": str(Path(folder) / case / "label.npy"),
            "case_id": case,
        }
        for case in cases
    ]


class LoadPreparedd(MapTransform):  # type: ignore[misc]  # MONAI is untyped
    """Prepared arrays as tensors that are mapped into memory: what is not looked at is not read.

    Volumes are `MetaTensor`s (1, x, y, z) with their affine. `foreground` and `background`, int32, are added for
    `RandCropByPosNegLabeld(fg_indices_key="foreground", bg_indices_key="background")`; they are places in the volume
    as it is, so pad after that crop, with its `allow_smaller=True`, and delete them before cases are batched. What is
    written into the tensors stays in this process.

    In a `CacheDataset` every case would be copied whole each time that it is taken; use `Dataset`, or `cache_rate` 0.

    Args:
        keys: of paths to `image.npy` or `label.npy`, as from `prepared_items`.

    Raises:
        DataError: (on loading) a file is missing or damaged.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the paths."""
        item = dict(data)
        for key in self.key_iterator(item):
            file = Path(item[key])
            marks = _read_marks(file.parent)
            if not isinstance(marks, Mapping):
                raise DataError(f"{file.parent} is no prepared case: {marks}. Preprocess the data set again.")
            affine = torch.tensor(marks["affine"], dtype=torch.float64)
            item[key] = MetaTensor(_mapped(file)[None], affine=affine, meta={"filename_or_obj": str(file)})
            for name in ("foreground", "background"):
                item[name] = _mapped(file.with_name(f"{name}.npy"))
        return item


def _mapped(file: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(file, mmap_mode="c"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} cannot be read: {error}. Preprocess the data set again.") from error


def _case_folders(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cases' names, which are their folders'."""
    names = case_names(items)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Cases are listed twice: {first_few(twice)}. Keep one each.")
    if odd := [name for name in names if name in ("", ".", "..") or Path(name).name != name]:
        raise DataError(f"Cases have names that no folder can have: {first_few(odd)}. Rename their files.")
    return names


def _keep_or_make(
    named: tuple[str, Mapping[str, Any]],
    *,
    folder: Path,
    identity: str,
    settings: Settings,
    verify: bool,
    threads: int,
) -> tuple[str, str]:
    """("kept" | "made" | "failed", why)."""
    case, item = named
    torch.set_num_threads(threads)  # of this thread alone, but see prepare_cases
    fault = _fault(folder / case, identity, settings, verify)
    if not fault:
        return "kept", ""
    if (folder / case).exists():
        logger.warning("Case %s is prepared anew: %s.", case, fault)
    try:
        _make(item, folder / case, identity, settings)
    except (*UNREADABLE, MetaLRError, RuntimeError) as error:
        reason = str(own_error(error) or f"{type(error).__name__}: {error.__cause__ or error}")
        logger.error("Case %s failed: %s", case, reason)
        return "failed", reason
    return "made", fault


def _fault(folder: Path, identity: str, settings: Settings, verify: bool) -> str:
    """Why the case is not prepared as it should be, or ''."""
    marks = _read_marks(folder)
    if isinstance(marks, str):
        return marks
    if fault := _outdated(marks, identity):
        return fault
    if changed := [name for name, value in settings.items() if marks["settings"].get(name) != value]:
        return f"it was prepared with another {first_few(changed)}"
    for name, mark in marks["arrays"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != mark["size"]:
            return f"{name} is missing or of another size"
        if verify and sha256(file) != mark["sha256"]:
            return f"{name} is not what was written"
    return ""


def _read_marks(folder: Path) -> dict[str, Any] | str:
    """The marks, or why there are none."""
    file = folder / MARKS
    try:
        marks = json.loads(file.read_text(encoding="utf-8"))
        if marks["version"] == VERSION and {"identity", "settings", "affine", "arrays"} <= set(marks):
            return dict(marks)
    except FileNotFoundError:
        return f"it has no {MARKS}, so it was not finished"
    except (OSError, ValueError, LookupError, TypeError):
        return f"its {MARKS} cannot be read"
    return f"its {MARKS} is of another version"


def _outdated(marks: Mapping[str, Any] | str, identity: str) -> str:
    if isinstance(marks, str):
        return marks
    return "" if marks["identity"] == identity else "it was prepared for another plan or data set"


def _make(item: Mapping[str, Any], folder: Path, identity: str, settings: Settings) -> None:
    """Write the arrays, then the marks."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKS).unlink(missing_ok=True)  # from here on the case is unfinished
    image, label = _on_grid(item, settings)
    # bool, since of a uint8 label MONAI takes every voxel for background
    foreground, background = (places.numpy() for places in map_binary_to_indices(label > 0))
    even = np.linspace(0, len(background) - 1, min(len(background), MOST_BACKGROUND)).astype(np.int64)
    arrays = {
        "image.npy": np.asfortranarray(image.numpy()[0]),
        "label.npy": np.asfortranarray(label.numpy()[0]),
        "foreground.npy": foreground.astype(np.int32),
        "background.npy": background[even].astype(np.int32),
    }
    marks = {
        "version": VERSION,
        "identity": identity,
        "settings": settings,
        "affine": image.affine.tolist(),
        "arrays": {name: _write(folder / name, array) for name, array in arrays.items()},
    }
    with atomic_path(folder / MARKS) as unfinished:
        unfinished.write_text(json.dumps(marks, indent=1) + "\n", encoding="utf-8")


def _on_grid(item: Mapping[str, Any], settings: Settings) -> tuple[MetaTensor, Tensor]:
    """Image (1, x, y, z), float32, and label (1, x, y, z), uint8, by the bundle's transforms.

    The readers hold what they read, so each case has its own; the label is small before the image is turned.
    """
    if not item.get("label"):
        raise DataError("The case has no label, so nothing can be learnt from it.")
    data: dict[Hashable, Any] = {"image": item["image"], "label": item["label"]}
    data = LoadImaged("label", reader=ScanReader, ensure_channel_first=True, image_only=True)(data)
    data["label"] = _as_bytes(data["label"], settings["labels"])
    data = LoadImaged("image", reader=ScanReader, ensure_channel_first=True, image_only=True)(data)
    data = Compose(
        [
            Orientationd(["image", "label"], "RAS", labels=None),
            AxisSpacingd(["image", "label"], settings["spacing"], ["bilinear", "nearest"]),
            ScaleIntensityRanged("image", *settings["hu_window"], *settings["value_range"], clip=True),
        ]
    )(data)
    image, label = data["image"], data["label"]
    if image.shape != label.shape or len(image) != 1:
        raise DataError(
            f"Resampled, its image has the shape {tuple(image.shape)} (channels first), its label "
            f"{tuple(label.shape)}; expected the same, of one channel. check-data tells more."
        )
    if not torch.isfinite(image).all():
        raise DataError("Its image has voxels that are NaN or Inf. check-data tells more.")
    return image, label.as_tensor().to(torch.uint8)


def _as_bytes(label: MetaTensor, known: Sequence[int]) -> MetaTensor:
    """The label map as uint8, if it has known values alone."""
    small: MetaTensor = label.to(torch.uint8)
    counts = torch.bincount(small.as_tensor().flatten(), minlength=256)
    counts[list(known)] = 0
    if counts.any() or (small != label).any():
        unknown = sorted(set(np.unique(label.numpy()).tolist()) - set(known))
        raise DataError(
            f"Its label has the values {first_few([f'{value:g}' for value in unknown])}; the regions know "
            f"{list(known)}. Correct the label, or add the values to `regions`."
        )
    return small


def _write(file: Path, array: NDArray[Any]) -> dict[str, Any]:
    """Write an array; what to know it again by."""
    with atomic_path(file) as unfinished:
        with unfinished.open("wb") as stream:
            np.save(stream, array)
        return {"size": unfinished.stat().st_size, "sha256": sha256(unfinished)}
