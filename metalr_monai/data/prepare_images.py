"""What a bundle's config asks for in one expression: the labelled images of a folder in their parts."""

from __future__ import annotations

from pathlib import Path

from .group_splits import apply_group_split, make_group_split
from .image_files import ImageItem
from .image_lists import image_list
from .splits import write_split


def split_image_list(
    kind: str,
    folder: str | Path,
    scheme: str,
    seed: int,
    output_dir: str | Path,
    *,
    meta: float = 0.25,
    validation: float = 0.0,
) -> dict[str, list[ImageItem]]:
    """The images of a folder in the parts train, meta, validation and test, and `split.json` in the run's folder.

    The meta part is drawn here, with every class in proportion, which `MetaLRHandler`'s own hold-out does not see to.

    Args:
        kind: a name out of `image_lists.IMAGE_READERS`.
        scheme: a name or file as `group_splits.make_group_split` takes it; a file says itself who is in meta and
            validation.
        meta: share of the training images; 0.25 is the paper's, 0 is for meta batches from the training data.
        validation: share of the training images.

    Raises:
        OptionError, DataError: see `image_list` and `make_group_split`.
    """
    items = image_list(kind, folder)
    shares = {} if scheme.endswith(".json") else {"meta": meta, "validation": validation}
    split = make_group_split(items, scheme, seed=seed, **shares)  # a file has its own
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_split(split, Path(output_dir) / "split.json")
    return apply_group_split(items, split)
