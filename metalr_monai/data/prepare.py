"""What a bundle's config asks for in one expression: phantoms where there is no data, and the split data list."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from ..files import atomic_path
from .ct_lists import Item, data_list
from .ct_phantom import write_lits_phantoms
from .data_check import DataCheck
from .hold_out import hold_out
from .splits import Split, apply_split, make_split, write_split
from .unlabelled_check import UnlabelledCheck


def phantom_data_set(folder: str | Path, count: int, seed: int = 0) -> str:
    """The folder with `count` CT phantoms in the LiTS layout; they are written where it does not exist yet.

    Raises:
        DataError: the folder has another number of volumes.
    """
    folder = Path(folder)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder) as unfinished:
            write_lits_phantoms(unfinished, count, seed=seed)
    found = len(list(folder.glob("volume-*.nii.gz")))
    if found != count:
        raise DataError(f"{folder} has {found} phantoms, not {count}. Remove the folder, or set phantoms={found}.")
    return str(folder)


def split_data_list(
    kind: str,
    folder: str | Path,
    scheme: str,
    seed: int,
    output_dir: str | Path,
    check: DataCheck | UnlabelledCheck | None = None,
    *,
    validation: float = 0.0,
) -> dict[str, list[Item]]:
    """The data list of a folder in its parts, and `split.json` in the run's folder.

    Args:
        kind: a name out of `ct_lists.READERS`.
        scheme: a name or file as `splits.make_split` takes it.
        check: refuses bad cases before `split.json` is written; none by default.
        validation: share of the training cases that validates, where the scheme names none itself.

    Raises:
        DataError: see `data_list`, `make_split` and `DataCheck`.
        MetaDataError: see `DataCheck`.
    """
    items = data_list(kind, folder)
    # The trainer's MetaLRHandler holds its own meta set out; a file says itself who is in it.
    split = make_split(items, scheme, seed=seed, meta=None if scheme.endswith(".json") else 0)
    if validation and not split["validation"]:
        train, held = hold_out(split["train"], validation, seed)
        split = Split({**split, "train": train, "validation": held}, split.scheme, split.seed)
    parts = apply_split(items, split)
    if check is not None:
        check(parts, output_dir)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_split(split, Path(output_dir) / "split.json")
    return parts
