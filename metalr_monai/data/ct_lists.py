"""Data lists of labelled CT: one reader a layout on disk (LiTS, Medical Segmentation Decathlon, nnU-Net raw, pairs)."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError, first_few, near_misses
from .dicom_series import Series, has_dicom, scan_folder

logger = logging.getLogger(__name__)

Item = dict[str, str | list[str]]


@dataclass(frozen=True)
class Reader:
    """How one layout is read, and a picture of it in words for error messages."""

    read: Callable[[Path], list[Item]]
    layout: str


def data_list(kind: str, folder: str | PathLike[str]) -> list[Item]:
    """The cases of a data set as MONAI takes them: `[{"image": path, "label": path, "case_id": name}, …]`.

    Items are sorted by case, numbers as numbers (`volume-2` before `volume-10`). An image of several channels is a list
    of paths. Images without labels (kind `pairs` only) have no "label". NIfTI files are found, not opened: see
    `check_volumes`. Files whose names begin with a dot (`._volume-1.nii`) are passed over.

    DICOM series (kind `pairs` only) are told apart by their headers, and each is a case: the folder, or `FOLDER/UID`
    where it holds several. A case is called by the folder directly below `folder`, or, where that holds several
    series, by all folders on the way and the series' number. What is no volume (localizers, single slices, reports,
    screen captures) is passed over with a warning in the log.

    Args:
        kind: the layout, a key of `READERS`: "lits", "msd", "nnunet" or "pairs".
        folder: root of the data set.

    Raises:
        OptionError: an unknown kind.
        DataError: the folder is not laid out as the kind says, a volume lacks its segmentation (or the reverse), or a
            case is there twice; the message names the cases.
    """
    if kind not in READERS:
        raise OptionError(f"Unknown kind of data {kind!r}; known: {', '.join(READERS)}.{near_misses(kind, READERS)}")
    root = Path(folder).expanduser()
    try:
        if not root.is_dir():
            raise _Misplaced("this is not a folder" if root.exists() else "there is no such folder")
        items = READERS[kind].read(root)
    except _Misplaced as misplaced:
        raise DataError(
            f"{root}: {misplaced}.\nExpected for kind {kind!r}:\n{READERS[kind].layout}\nFound: {_found(root)}."
        ) from None
    return sorted(items, key=lambda item: natural_key(str(item["case_id"])))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts names with numbers in them by the numbers: `volume-2` before `volume-10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


class _Misplaced(Exception):
    """What is wrong in the folder; `data_list` adds which folder, what was expected and what was found."""


_LITS_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(?:\.gz)?")


def _lits(root: Path) -> list[Item]:
    """`volume-N` and `segmentation-N` anywhere below `root`, paired by N."""
    files: dict[str, list[tuple[str, Path]]] = {"volume": [], "segmentation": []}
    for path in root.rglob("*.nii*"):
        if (match := _LITS_NAME.fullmatch(path.name)) and path.is_file():
            files[match[1]].append((f"volume-{int(match[2])}", path))
    return _paired(_once(files["volume"]), _once(files["segmentation"]))


def _msd(root: Path) -> list[Item]:
    """What `dataset.json` lists under "training"."""
    entries = _dataset_json(root).get("training")
    if not isinstance(entries, list) or not entries:
        raise _Misplaced('dataset.json has no list "training" with at least one {"image", "label"}')
    if odd := [entry for entry in entries if not _is_msd_entry(entry)]:
        raise _Misplaced(f'"training" in dataset.json holds {odd[0]!r}; expected {{"image": path, "label": path}}')
    entries = [entry for entry in entries if not Path(entry["image"]).name.startswith(".")]
    images = _once([(_stem(Path(entry["image"])), root / entry["image"]) for entry in entries])
    labels = {_stem(Path(entry["image"])): root / entry["label"] for entry in entries}
    return _paired(_existing(images), _existing(labels))


def _is_msd_entry(entry: object) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(entry.get(key), str) for key in ("image", "label"))


def _nnunet(root: Path) -> list[Item]:
    """`imagesTr/<case>_<channel>` and `labelsTr/<case>`; channels and file ending as `dataset.json` says."""
    info = _dataset_json(root)
    ending = info.get("file_ending", ".nii.gz")  # version 1 had no such key
    channels = info.get("channel_names", info.get("modality"))
    if not isinstance(channels, Mapping) or not channels:
        raise _Misplaced('dataset.json has no "channel_names" such as {"0": "CT"}')
    name = re.compile(rf"(.+)_(\d{{4}}){re.escape(str(ending))}")
    matches = [(match, path) for path in _visible(root / "imagesTr") if (match := name.fullmatch(path.name))]
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for match, path in matches:
        found[match[1]][int(match[2])] = path
    wanted = range(len(channels))
    if odd := _sorted(case for case, paths in found.items() if set(paths) != set(wanted)):
        raise _Misplaced(
            f"dataset.json names {len(channels)} channel(s), _0000 to _{len(channels) - 1:04d}, but these cases have "
            f"others: {first_few(odd)}"
        )
    labels = [
        (path.name.removesuffix(ending), path) for path in _visible(root / "labelsTr") if path.name.endswith(ending)
    ]
    items = _paired({case: [paths[k] for k in wanted] for case, paths in found.items()}, _once(labels))
    if info.get("numTraining", len(items)) != len(items):
        raise _Misplaced(f"dataset.json says numTraining {info['numTraining']}, but there are {len(items)} cases")
    return items


def _pairs(root: Path) -> list[Item]:
    """`images/` and `labels/`, or a folder a case, or images alone."""
    if (root / "images").is_dir():
        labels = _once(_nifti(root / "labels"))
        return _paired(_once(_images(root / "images")), labels, needed=(root / "labels").is_dir())
    cases = _case_folders(root)
    loose = _once(_images(root, besides=cases))
    if cases and loose:
        raise _Misplaced(
            f"two layouts are mixed: a folder a case ({first_few(_sorted(cases))}) and images beside them "
            f"({first_few(_sorted(loose))})"
        )
    if not cases:
        return _paired(loose, {}, needed=False)
    return _paired(
        {case: files["image"] for case, files in cases.items() if "image" in files},
        {case: files["label"] for case, files in cases.items() if "label" in files},
        needed=any("label" in files for files in cases.values()),
    )


def _case_folders(root: Path) -> dict[str, dict[str, Path]]:
    """`<case>/image.nii[.gz]` and `<case>/label.nii[.gz]`; folders without a NIfTI file are no cases."""
    cases = {}
    for folder in _visible(root):
        files = _nifti(folder) if folder.is_dir() and not has_dicom(folder) else []
        if not files:
            continue
        cases[folder.name] = {stem: path for stem, path in _once(files).items() if stem in ("image", "label")}
        if not cases[folder.name]:
            raise _Misplaced(f"{folder.name} holds {first_few([p.name for _, p in files])}, but no image.nii[.gz]")
    return cases


def _paired(images: Mapping[str, Path | list[Path]], labels: Mapping[str, Path], *, needed: bool = True) -> list[Item]:
    """Images and labels of the same case, or without labels where none is `needed`."""
    if not images:
        raise _Misplaced("there are no images")
    if bare := _sorted(set(images) - set(labels)) if needed else []:
        raise _Misplaced(
            f"{len(bare)} of {len(images)} volumes have no segmentation: {first_few(bare)}. Add them, move the volumes "
            f"away, or read images alone with kind 'pairs'"
        )
    if stray := _sorted(set(labels) - set(images)):
        raise _Misplaced(
            f"{len(stray)} segmentations have no volume: {first_few(stray)}. Add the volumes, or move them away"
        )
    items: list[Item] = []
    for case, image in images.items():
        paths: str | list[str] = str(image) if isinstance(image, Path) else [str(path) for path in image]
        if isinstance(paths, list) and len(paths) == 1:
            paths = paths[0]
        items.append({"image": paths, **({"label": str(labels[case])} if needed else {}), "case_id": case})
    return items


def _once(named: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Files by case, each case once."""
    files: dict[str, list[Path]] = defaultdict(list)
    for case, path in named:
        files[case].append(path)
    if twice := _sorted(case for case, paths in files.items() if len(paths) > 1):
        places = "; ".join(f"{case}: {', '.join(map(str, sorted(files[case])))}" for case in twice[:3])
        raise _Misplaced(f"{len(twice)} case(s) are there more than once: {first_few(twice)} ({places}). Keep one each")
    return {case: paths[0] for case, paths in files.items()}


def _existing(files: dict[str, Path]) -> dict[str, Path]:
    missing = [path for path in files.values() if not path.is_file()]
    if missing:
        shown = first_few(_sorted("/".join(path.parts[-2:]) for path in missing))
        raise _Misplaced(f"{len(missing)} of {len(files)} files that dataset.json lists are missing: {shown}")
    return files


def _dataset_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        raise _Misplaced("there is no dataset.json")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _Misplaced(f"dataset.json is not valid JSON ({error})") from error
    if not isinstance(info, dict):
        raise _Misplaced(f"dataset.json holds a {type(info).__name__}; expected an object")
    return info


def _images(folder: Path, besides: Iterable[str] = ()) -> list[tuple[str, Path]]:
    """NIfTI files in `folder`, and DICOM series in it or below it, but for its subfolders `besides`."""
    return _nifti(folder) + _dicom_series(folder, set(besides))


def _dicom_series(root: Path, besides: set[str]) -> list[tuple[str, Path]]:
    """Each series with a name for its case."""
    found: list[tuple[tuple[str, ...], str, Path]] = []
    for place, folders, _ in os.walk(root, followlinks=True):
        folder = Path(place)
        folders[:] = _sorted(set(folders) - (besides if folder == root else set()))
        folders[:] = [name for name in folders if not name.startswith(".")]
        if has_dicom(folder):
            way = folder.relative_to(root).parts or (root.resolve().name,)
            found += [(way, number, path) for number, path in _series_of(folder)]
    below = Counter(way[0] for way, _, _ in found)
    return [("_".join(way) + number if below[way[0]] > 1 else way[0], path) for way, number, path in found]


def _series_of(folder: Path) -> list[tuple[str, Path]]:
    """The volumes among a folder's DICOM files: the folder, or several `FOLDER/UID` with an addition to its name."""
    found = scan_folder(folder)
    if found.others:
        logger.warning("%s: passed over, since no volume: %s", folder, "; ".join(found.others))
    if len(found.volumes) > 1:
        numbers = Counter(series.number for series in found.volumes)
        return [(_addition(series, numbers), folder / series.uid) for series in found.volumes]
    # Files that cannot be read are a case too, so that reading and checking it tell of them.
    return [("", folder)] if found.volumes or found.damaged else []


def _addition(series: Series, numbers: Mapping[str, int]) -> str:
    """To a folder's name, for one of several series in it."""
    return f"_series{series.number}" if series.number and numbers[series.number] == 1 else f"_{series.uid}"


def _nifti(folder: Path) -> list[tuple[str, Path]]:
    return [(_stem(path), path) for path in _visible(folder) if path.name.endswith((".nii", ".nii.gz"))]


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=natural_key)


def _found(root: Path) -> str:
    folder = root if root.is_dir() else root.parent
    names = _sorted(path.name + "/" * path.is_dir() for path in _visible(folder))
    where = "" if folder == root else f"in {folder}: "
    return where + (first_few(names) if names else "nothing")


READERS: dict[str, Reader] = {
    "lits": Reader(
        _lits,
        "  volume-0.nii        or .nii.gz, also in folders such as 'Training Batch 1'\n"
        "  segmentation-0.nii  one for each volume",
    ),
    "msd": Reader(
        _msd,
        '  dataset.json        with "training": [{"image": "imagesTr/liver_0.nii.gz", "label": "labelsTr/…"}, …]\n'
        "  imagesTr/liver_0.nii.gz\n"
        "  labelsTr/liver_0.nii.gz",
    ),
    "nnunet": Reader(
        _nnunet,
        '  dataset.json        with "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"\n'
        "  imagesTr/<case>_0000.nii.gz   one file a channel\n"
        "  labelsTr/<case>.nii.gz",
    ),
    "pairs": Reader(
        _pairs,
        "  <case>/image.nii.gz and <case>/label.nii.gz, or\n"
        "  images/<case>.nii.gz and labels/<case>.nii.gz, or\n"
        "  <case>.nii.gz       images alone, for inference\n"
        "  In place of an image of the last two: <case>/ with a DICOM series in it or below it",
    ),
}
