"""What a bundle's config asks for in one expression: phantoms, a folder's images in their parts, class weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import DataError, OptionError
from ..files import atomic_path
from .breast_ultrasound_phantom import write_busi_phantoms
from .data_check import is_first_rank
from .group_splits import apply_group_split, make_group_split
from .hold_out import case_names, hold_out
from .image_files import ImageItem
from .image_lists import image_list
from .lung_ultrasound_phantom import write_pocus_phantoms
from .pictures import Pictures
from .splits import Split, apply_split, make_split, write_split

PHANTOM_WRITERS: dict[str, Callable[..., list[Path]]] = {"pocus": write_pocus_phantoms, "busi": write_busi_phantoms}


def phantom_image_set(kind: str, folder: str | Path, count: int, seed: int = 0) -> str:
    """The folder with phantoms in a data set's layout; they are written where it does not exist yet.

    Args:
        kind: a name out of `PHANTOM_WRITERS`.
        count: videos ("pocus") or images ("busi") a class.

    Raises:
        OptionError: there are no phantoms of this kind.
    """
    if kind not in PHANTOM_WRITERS:
        raise OptionError(
            f"There are no phantoms of kind {kind!r}; give dataset_dir, or one of {', '.join(PHANTOM_WRITERS)}."
        )
    folder = Path(folder)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder) as unfinished:
            PHANTOM_WRITERS[kind](unfinished, count, seed=seed)
    return str(folder)


def split_image_list(
    kind: str,
    folder: str | Path,
    scheme: str,
    seed: int,
    output_dir: str | Path,
    *,
    validation: float = 0.0,
) -> dict[str, list[ImageItem]]:
    """The images of a folder in the parts train, validation and test, and `split.json` in the run's folder.

    `MetaLRHandler` holds its meta set out of the training part itself; a split file that names one keeps it apart.

    Args:
        kind: a name out of `image_lists.IMAGE_READERS`.
        scheme: a name or file as `group_splits.make_group_split` takes it; a file may say itself who is in validation.
        validation: share of the training images, where a file names none.

    Raises:
        OptionError, DataError: see `image_list` and `make_group_split`.
    """
    items = image_list(kind, folder)
    split = make_group_split(items, scheme, seed=seed, validation=0.0 if scheme.endswith(".json") else validation)
    if validation and not split["validation"]:
        parts = apply_group_split(items, split)
        train, held = (case_names(part) for part in hold_out(parts["train"], validation, seed))
        split = Split({**split, "train": train, "validation": held}, split.scheme, split.seed)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_split(split, Path(output_dir) / "split.json")
    return apply_group_split(items, split)


def split_picture_list(
    folder: str | Path, scheme: str, seed: int, output_dir: str | Path
) -> dict[str, list[dict[str, str]]]:
    """The pictures of a folder, whatever they show, in the parts of a split, and `split.json` in the run's folder.

    Args:
        scheme: a name or file as `splits.make_split` takes it.

    Raises:
        OptionError, DataError: see `Pictures` and `make_split`; every picture is decoded first.
    """
    pictures = Pictures(folder)
    pictures.check(progress=is_first_rank())
    split = make_split(pictures.items, scheme, seed=seed, meta=None if scheme.endswith(".json") else 0)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_split(split, Path(output_dir) / "split.json")
    return apply_split(pictures.items, split)


def class_weights(items: Sequence[Mapping[str, Any]], classes: int) -> torch.Tensor:
    """Weights, (classes,), by which a loss counts each class alike: the mean class size over the class's own.

    Raises:
        DataError: a class has no item.

    Example:
        >>> class_weights([{"label": 0}, {"label": 0}, {"label": 1}], 2)
        tensor([0.7500, 1.5000])
    """
    sizes = Counter(int(item["label"]) for item in items)
    if absent := [number for number in range(classes) if not sizes[number]]:
        raise DataError(f"The training part has no image of class number {absent[0]}, which cannot be given a weight.")
    return torch.tensor([len(items) / classes / sizes[number] for number in range(classes)])
