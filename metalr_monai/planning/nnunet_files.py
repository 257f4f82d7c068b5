"""nnU-Net's own files: raw data sets, splits, fingerprints and plans; axes z, y, x there, x, y, z here."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dicom_series import is_series, open_series
from ..errors import DataError, OptionError, first_few, near_misses
from ..files import atomic_path
from ..in_threads import in_threads
from .file_marks import labelled_files
from .fingerprint import INTENSITIES

Fold = dict[str, list[str]]  # "train" and "val": case ids

_RAW_NAME = re.compile(r"Dataset\d{3}_\w+")


def write_nnunet_raw(
    items: Sequence[Mapping[str, Any]],
    folder: str | PathLike[str],
    labels: Mapping[str, int | Sequence[int]],
    *,
    regions_class_order: Sequence[int] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Copy a labelled data list of CT into a raw data set of nnU-Net 2; the folder appears when it is whole.

    Images become `imagesTr/<case>_0000.nii.gz`, labels `labelsTr/<case>.nii.gz`: `.nii.gz` are copied as they are,
    `.nii` are compressed, DICOM series are converted. `dataset.json` calls the one channel "CT", by which nnU-Net
    chooses its normalisation.

    Args:
        items: as from `data_list`, all with a label.
        folder: `…/DatasetXXX_Name`, new or empty; nnU-Net looks for it in `$nnUNet_raw`.
        labels: name → value, {"background": 0, "liver": 1, "tumour": 2}, or → values of a region.
        regions_class_order: the value that each region is saved as, in the order of `labels` without the background;
            needed with regions.
        workers: threads, ≥ 1; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Returns:
        The folder.

    Raises:
        OptionError: the folder's name is none that nnU-Net finds, or `workers` is no number of threads.
        DataError: the folder is not empty; `labels` are none that nnU-Net takes; a case has no label or several
            channels, or cannot be read.
    """
    root = Path(folder)
    info: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": {name: value if _is_int(value) else _listed(value) for name, value in labels.items()},
        "numTraining": len(items),
        "file_ending": ".nii.gz",
    }
    if regions_class_order is not None:
        info["regions_class_order"] = list(regions_class_order)
    regions, _ = _regions(info, "The data set to be written")
    _refuse_gaps(regions)
    cases = labelled_files(items)
    _refuse_place(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(root) as building:
        for part in ("imagesTr", "labelsTr"):
            (building / part).mkdir(parents=True)

        def copy(case: str) -> None:
            _copy(cases[case]["image"], building / "imagesTr" / f"{case}_0000.nii.gz")
            _copy(cases[case]["label"], building / "labelsTr" / f"{case}.nii.gz")

        in_threads(copy, list(cases), what="copy", workers=workers, progress=progress)
        (building / "dataset.json").write_text(json.dumps(info, indent=4, ensure_ascii=False), encoding="utf-8")
    return root


def nnunet_regions(folder: str | PathLike[str]) -> tuple[dict[str, list[int]], list[int]]:
    """What a raw data set's `dataset.json` wants segmented: region → label values; and what value each is saved as.

    Plain labels are regions of one value. Regions may lie inside each other; later ones are saved on top.

    Raises:
        DataError: the file is missing, damaged or says what nnU-Net would not take; or it has an "ignore" label.
    """
    path = Path(folder) / "dataset.json"
    return _regions(_read_object(path), str(path))


def make_folds(cases: Sequence[str], folds: int = 5, seed: int = 12345) -> list[Fold]:
    """nnU-Net's cross-validation of the same cases, in whatever order: [{"train": [case, …], "val": […]}, …].

    That is scikit-learn's `KFold(folds, shuffle=True, random_state=seed)` over the cases sorted as text, as in
    `nnunetv2.utilities.crossval_split`: numpy's legacy shuffle, cut into runs, of which the first are longer by one
    where the cases do not divide evenly.

    Raises:
        OptionError: `folds` < 2, or a seed outside 0 … 2³² − 1.
        DataError: fewer cases than folds, or a case twice.

    Example:
        >>> [fold["val"] for fold in make_folds(["a", "b", "c", "d", "e"], folds=2)]
        [['a', 'd', 'e'], ['b', 'c']]
    """
    if not _is_int(folds) or folds < 2:
        raise OptionError(f"folds is {folds!r}; expected a number of folds, an int of 2 or more.")
    if not _is_int(seed) or not 0 <= seed < 2**32:
        raise OptionError(f"The folds' seed is {seed!r}; expected an int, 0 … 2³² − 1.")
    if twice := _repeated(cases):
        raise DataError(f"The data list names cases twice: {first_few(twice)}. Keep one each.")
    if len(cases) < folds:
        raise DataError(
            f"{folds} folds need at least {folds} cases; found {len(cases)}. Add cases, or take fewer folds."
        )
    names = sorted(cases)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    return [
        {
            "train": [name for i, name in enumerate(names) if i not in held_out],
            "val": [name for i, name in enumerate(names) if i in held_out],
        }
        for held_out in (set(part.tolist()) for part in np.array_split(order, folds))
    ]


def write_folds(folds: Sequence[Mapping[str, Sequence[str]]], path: str | PathLike[str]) -> None:
    """Write `splits_final.json`: a whole file, the old one or the new, is there at any time.

    Raises:
        DataError: the folds are faulty, as in `read_folds`.
    """
    _refuse_faulty_folds(folds, "The split to be written")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    content = [{part: list(fold[part]) for part in ("train", "val")} for fold in folds]
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def read_folds(path: str | PathLike[str], cases: Sequence[str] | None = None) -> list[Fold]:
    """A `splits_final.json`, nnU-Net's or another of that form: any number of folds, which may leave cases out.

    Args:
        path: of the file.
        cases: those that there are; the folds may not name others.

    Raises:
        DataError: no such file, no such content; a fold has nothing in a part, a case twice or in both; a case is held
            out by two folds, or is not among `cases`.
    """
    folds = _read_json(Path(path))
    _refuse_faulty_folds(folds, f"The split {path}")
    named = dict.fromkeys(case for fold in folds for part in ("train", "val") for case in fold[part])
    if cases is not None and (unknown := [case for case in named if case not in set(cases)]):
        raise DataError(
            f"The split {path} names {len(unknown)} case(s) that the data list of {len(cases)} lacks: "
            f"{first_few(unknown)}.{near_misses(unknown[0], cases)} Was it made for other data?"
        )
    return [{part: list(fold[part]) for part in ("train", "val")} for fold in folds]


def read_nnunet_fingerprint(path: str | PathLike[str]) -> dict[str, Any]:
    """A `dataset_fingerprint.json` of CT, in x, y, z.

    Returns:
        "spacings" (mm) and "shapes_after_crop" (voxels), a triple a case; "intensities" of the foreground (HU): max,
        mean, median, min, percentile_00_5, percentile_99_5, std; "median_relative_size_after_cropping".

    Raises:
        DataError: the file is missing or damaged, lacks a key, or is of several channels.
    """
    where, content = str(path), _read_object(Path(path))
    channels = _object(content, "foreground_intensity_properties_per_channel", where)
    if list(channels) != ["0"]:
        raise DataError(
            f'{where} is of {len(channels)} channels, {", ".join(channels)}; expected CT: one channel, "0".'
        )
    place = f"{where}, foreground_intensity_properties_per_channel"
    intensities = _object(channels, "0", place)
    return {
        "spacings": [triple[::-1] for triple in _rows(content, "spacings", where)],
        "shapes_after_crop": [triple[::-1] for triple in _rows(content, "shapes_after_crop", where)],
        "intensities": {key: _number(intensities, key, f"{place}, 0") for key in INTENSITIES},
        "median_relative_size_after_cropping": _number(content, "median_relative_size_after_cropping", where),
    }


def read_nnunet_plans(path: str | PathLike[str]) -> dict[str, dict[str, Any]]:
    """The configurations of an `nnUNetPlans.json` by name, in x, y, z (x, y where 2D): what training depends on.

    nnU-Net moves the coarsest axis to the front (`transpose_forward`) before it plans; that is undone here, so axes
    are the files'. What a configuration inherits is filled in.

    Returns:
        For each configuration: "spacing" (mm), "patch_size", "median_image_size_in_voxels", "batch_size",
        "normalization_schemes", "network_class_name"; and of the network "n_stages", "features_per_stage",
        "kernel_sizes" and "strides" (a size a stage), "n_conv_per_stage" (or "n_blocks_per_stage") and
        "n_conv_per_stage_decoder".

    Raises:
        DataError: the file is missing or damaged, or lacks a key.
    """
    where, content = str(path), _read_object(Path(path))
    forward = _get(content, "transpose_forward", where)
    if not isinstance(forward, list) or sorted(map(str, forward)) != ["0", "1", "2"]:
        raise DataError(f"{where} has {forward!r:.80} as transpose_forward; expected an order of the axes 0, 1 and 2.")
    plans = _object(content, "configurations", where)
    return {
        name: _configuration(_inherited(name, plans, where), forward, f"{where}, configurations, {name}")
        for name in plans
    }


def _configuration(plan: Mapping[str, Any], forward: Sequence[int], where: str) -> dict[str, Any]:
    network = _object(plan, "architecture", where)
    options, place = _object(network, "arch_kwargs", f"{where}, architecture"), f"{where}, architecture, arch_kwargs"
    blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in options else "n_conv_per_stage"  # residual or plain
    sizes = {
        key: _in_xyz(_row(plan, key, where), forward)
        for key in ("spacing", "patch_size", "median_image_size_in_voxels")
    }
    of_stages = {
        key: [_in_xyz(row, forward) for row in _rows(options, key, place)] for key in ("kernel_sizes", "strides")
    }
    rest = ("n_stages", "features_per_stage", blocks, "n_conv_per_stage_decoder")
    return {
        **sizes,
        **{key: _get(plan, key, where) for key in ("batch_size", "normalization_schemes")},
        "network_class_name": _get(network, "network_class_name", f"{where}, architecture"),
        **{key: _get(options, key, place) for key in rest},
        **of_stages,
    }


def _inherited(name: str, plans: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A configuration with all that it takes over from others."""
    chain: list[str] = []
    content: dict[str, Any] = {}
    following: str | None = name
    while following is not None:
        if following in chain:
            raise DataError(f"{where} has configurations that inherit from each other: {', '.join(chain)}.")
        chain.append(following)
        parent = _object(plans, following, f"{where}, configurations")
        content = {**parent, **content}
        following = parent.get("inherits_from")
    return content


def _in_xyz(numbers: Sequence[float], forward: Sequence[int]) -> list[float]:
    """From nnU-Net's order, in which axis `forward[k]` of z, y, x comes k-th; the first is left out where 2D."""
    axes = forward[-len(numbers) :]
    return [number for _, number in sorted(zip(axes, numbers, strict=True), reverse=True)]


def _regions(info: Mapping[str, Any], where: str) -> tuple[dict[str, list[int]], list[int]]:
    labels = _object(info, "labels", where)
    if odd := [name for name, value in labels.items() if not all(map(_is_int, _listed(value))) or not _listed(value)]:
        raise DataError(
            f"{where} has the label {odd[0]!r}: {labels[odd[0]]!r:.80}; expected a whole number, or a list of them for "
            f'a region, by each name: {{"background": 0, "liver": 1, …}}.'
        )
    if labels.get("background") != 0:
        raise DataError(f'{where} has no label "background": 0, but {dict(labels)!r:.120}. Add it.')
    if "ignore" in labels:
        raise DataError(f'{where} has an "ignore" label, which is not supported. Relabel those voxels and take it out.')
    regions = {name: _listed(value) for name, value in labels.items() if name != "background"}
    if not regions:
        raise DataError(f"{where} has no label but the background; expected at least one.")
    if odd := [name for name, values in regions.items() if min(values) < 1]:
        raise DataError(f"{where} has a value below 1 in {first_few(odd)}; 0 is the background's alone.")
    if all(len(values) == 1 for values in regions.values()):
        return regions, [values[0] for values in regions.values()]
    order = info.get("regions_class_order")
    if not isinstance(order, list) or len(order) != len(regions) or not all(_is_int(value) for value in order):
        raise DataError(
            f"{where} has the regions {', '.join(regions)}, but {order!r} as regions_class_order; expected a list of "
            f"{len(regions)} values, what each is saved as."
        )
    return regions, order


def _refuse_gaps(regions: Mapping[str, Sequence[int]]) -> None:
    values = sorted({value for part in regions.values() for value in part})
    if values != list(range(1, len(values) + 1)):
        raise DataError(
            f"The labels have the values 0, {', '.join(map(str, values))}; nnU-Net expects no gaps in them."
        )


def _refuse_place(root: Path) -> None:
    if not _RAW_NAME.fullmatch(root.name):
        raise OptionError(f"The folder is called {root.name!r}; nnU-Net finds names such as Dataset001_Liver alone.")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} is there and not empty. Name a new folder, or remove that one first.")


def _copy(source: Path, target: Path) -> None:
    try:
        if is_series(source):
            target.write_bytes(gzip.compress(open_series(source).to_bytes(), compresslevel=1, mtime=0))
        elif source.name.endswith(".gz"):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(gzip.compress(source.read_bytes(), compresslevel=1, mtime=0))
    except FileNotFoundError as error:
        raise DataError(f"{source} is missing. Restore it, or leave the case out.") from error


def _refuse_faulty_folds(folds: object, where: str) -> None:
    form = 'a list of {"train": [case, …], "val": [case, …]}'
    if not isinstance(folds, (list, tuple)) or not folds:
        raise DataError(f"{where} holds {folds!r:.80}; expected {form}.")
    held_out: Counter[str] = Counter()
    for k, fold in enumerate(folds, 1):
        if not isinstance(fold, Mapping) or not all(_is_case_list(fold.get(part)) for part in ("train", "val")):
            raise DataError(f"{where} has {fold!r:.80} as fold {k}; expected {form}, with a case at least in each.")
        if twice := _repeated([*fold["train"], *fold["val"]]):
            raise DataError(
                f"{where} names {len(twice)} case(s) twice in fold {k}: {first_few(twice)}. Keep each in one part, or "
                f"the scores will be too good."
            )
        held_out.update(fold["val"])
    if shared := [case for case, count in held_out.items() if count > 1]:
        raise DataError(
            f'{where} holds {len(shared)} case(s) out in two folds: {first_few(shared)}. Keep each in "val" of one '
            f"fold, or it counts twice in the scores of them all."
        )


def _is_case_list(cases: object) -> bool:
    return isinstance(cases, (list, tuple)) and bool(cases) and all(isinstance(case, str) for case in cases)


def _repeated(cases: Sequence[str]) -> list[str]:
    return [case for case, count in Counter(cases).items() if count > 1]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any) -> list[Any]:  # noqa: ANN401 - of a file
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _read_json(path: Path) -> Any:  # noqa: ANN401 - of a file
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error


def _read_object(path: Path) -> dict[str, Any]:
    content = _read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; expected an object.")
    return content


def _get(content: Mapping[str, Any], key: str, where: str) -> Any:  # noqa: ANN401 - of a file
    if key not in content:
        raise DataError(f"{where}: there is no {key!r}; found {first_few(list(content)) or 'nothing'}.")
    return content[key]


def _object(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = _get(content, key, where)
    if not isinstance(found, dict):
        raise DataError(f"{where}: {key!r} is {found!r:.80}; expected an object.")
    return found


def _number(content: Mapping[str, Any], key: str, where: str) -> float:
    found = _get(content, key, where)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise DataError(f"{where}: {key!r} is {found!r:.80}; expected a number.")
    return float(found)


def _row(content: Mapping[str, Any], key: str, where: str) -> list[float]:
    """As many numbers as axes."""
    found = _get(content, key, where)
    if not _is_row(found):
        raise DataError(f"{where}: {key!r} is {found!r:.80}; expected a number an axis.")
    return list(found)


def _rows(content: Mapping[str, Any], key: str, where: str) -> list[list[float]]:
    found = _get(content, key, where)
    if not isinstance(found, list) or not all(map(_is_row, found)):
        raise DataError(f"{where}: {key!r} is {found!r:.80}; expected a list with a number an axis in each.")
    return found


def _is_row(found: object) -> bool:
    return isinstance(found, list) and len(found) in (2, 3) and all(isinstance(one, (int, float)) for one in found)
