"""MetaLR's own POCUS file, a pickle of five folds, as PNG files that `pocus` reads, so that nothing else reads it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, OptionError
from ..files import atomic_path
from .pocus import CLASSES
from .read_picture import UNREADABLE


def write_pocus_folds(
    file: str | PathLike[str], output: str | PathLike[str], *, trust_pickle: bool = False
) -> list[list[str]]:
    """Write the images of a pickle `(X, y)` into `output/fold<k>/<class>/fold<k>_<class>_frame<n>.png`, k = 1, 2, …

    X is a list of arrays, one a fold, each (N, C, H, W) with C = 1 or 3 and values 0 … 255; y a list of N labels each,
    0 … 2 or one-hot. The folds were made by video, which the file does not name; so `pocus` reads a class of a fold as
    one group. The split "published fold K" keeps to the file's folds.

    Args:
        file: the pickle.
        output: a new folder, which appears when it is whole.
        trust_pickle: a pickle may run any program when it is read; say True for a file from a source that you trust.
            Even so nothing but numpy arrays and Python's own containers is let out of it.

    Returns:
        The images of each fold.

    Raises:
        OptionError: without `trust_pickle`.
        DataError: the file is missing, no pickle, has other things in it than arrays, or arrays of other shapes or
            values; or `output` exists.
    """
    source, target = Path(file).expanduser(), Path(output).expanduser()
    if not trust_pickle:
        raise OptionError(
            f"{source} is a pickle, which can run any program when it is read. If you trust where it is from, say "
            f"trust_pickle=True."
        )
    if target.exists():
        raise DataError(f"{target} exists already; name a new folder.")
    folds = _folds(source, _unpickled(source))
    with atomic_path(target) as unfinished:
        names = [_write_fold(unfinished, k, *fold) for k, fold in enumerate(folds, start=1)]
    return [[str(target / name) for name in fold] for fold in names]


def _write_fold(root: Path, k: int, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[str]:
    names = []
    for n, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"fold{k}/{CLASSES[label]}/fold{k}_{CLASSES[label]}_frame{n}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(root / name)
        names.append(name)
    return names


class _ArraysAlone(pickle.Unpickler):
    """Refuses every function and class but the ones that numpy arrays and their numbers are rebuilt with."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - whatever the pickle names
        if module.partition(".")[0] in ("numpy", "_codecs") and name in _REBUILD:
            return _REBUILD[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}; expected numpy arrays, lists and tuples alone")


def _latin_bytes(text: str, encoding: str) -> bytes:
    """Bytes in pickles of protocol 2, which Python 2 could read."""
    return text.encode("latin1")


# By name alone: numpy 2 moved them to numpy._core
_ONES: Any = np.ones(1)
_REBUILD: dict[str, Callable[..., Any]] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": _ONES.__reduce__()[0],
    "_frombuffer": _ONES.__reduce_ex__(5)[0],
    "scalar": _ONES[0].__reduce__()[0],
    "encode": _latin_bytes,
}


def _unpickled(source: Path) -> object:
    if not source.is_file():
        raise DataError(f"There is no file {source}.")
    try:
        with source.open("rb") as stream:
            return _ArraysAlone(stream).load()
    except (pickle.UnpicklingError, *UNREADABLE, KeyError, AttributeError) as error:
        raise DataError(f"{source} is not a pickle of arrays: {str(error) or type(error).__name__}.") from error


def _folds(source: Path, content: object) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    if not isinstance(content, (tuple, list)) or len(content) != 2 or not all(_is_list(part) for part in content):
        raise DataError(f"{source} holds a {type(content).__name__}; expected (X, y), two lists of as many folds.")
    images, labels = content
    if len(images) != len(labels) or len(images) < 2:
        raise DataError(
            f"{source} has {len(images)} folds of images and {len(labels)} of labels; expected as many, ≥ 2."
        )
    pairs = enumerate(zip(images, labels, strict=True), start=1)
    return [(_images(source, k, x), _labels(source, k, y, len(x))) for k, (x, y) in pairs]


def _is_list(part: object) -> bool:
    return isinstance(part, (list, tuple, np.ndarray))


def _array(source: Path, k: int, found: NDArray[Any] | Sequence[Any]) -> NDArray[Any]:
    try:
        return np.asarray(found)
    except ValueError as error:
        raise DataError(f"{source}, fold {k}: no array can be made of it: {error}.") from error


def _images(source: Path, k: int, found: NDArray[Any] | Sequence[Any]) -> NDArray[np.uint8]:
    images = _array(source, k, found)
    if images.dtype.kind not in "uif" or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise DataError(
            f"{source}, fold {k}: {images.dtype} of shape {images.shape}; expected N×C×H×W with C = 1 or 3."
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and 1 < high <= 255):
        raise DataError(f"{source}, fold {k}: its values go from {low:g} to {high:g}; expected 0 … 255.")
    whole: NDArray[np.uint8] = np.rint(images).astype(np.uint8)
    return whole


def _labels(source: Path, k: int, found: NDArray[Any] | Sequence[Any], count: int) -> NDArray[np.int64]:
    labels = _array(source, k, found)
    if labels.ndim == 2 and labels.shape[1] == len(CLASSES) and (np.sort(labels, axis=1) == (0, 0, 1)).all():
        labels = labels.argmax(axis=1)
    if labels.shape != (count,) or not np.isin(labels, range(len(CLASSES))).all():
        raise DataError(f"{source}, fold {k}: labels of shape {labels.shape}; expected {count} of 0, 1 and 2.")
    return labels.astype(np.int64)
