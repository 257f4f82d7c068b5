"""Near-duplicates among pictures: the same view at another size, with callipers drawn in, or a few frames later.

The perceptual hash is pHash: the signs, against their median, of the 255 lowest frequencies (16×16 but the mean) of the
discrete cosine transform of the picture at 64×64. How far apart the hashes of unlike pictures lie depends on how alike
all pictures of a data set are, so each data set has its own threshold, chosen by looking at the pairs around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ..errors import DataError
from .read_picture import read_picture

SIDE, FREQUENCIES = 64, 16
BITS = FREQUENCIES**2 - 1
ROWS = 1024  # pictures that are compared with all others at a time: 24 MB for 6,000 pictures
WORKERS = min(4, cpu_count() or 1)  # Pillow decodes outside of Python's lock

Hash = NDArray[np.bool_]


def perceptual_hash(grey: NDArray[np.float32]) -> Hash:
    """The hash, shape (255,), of a grey picture, shape (rows, columns)."""
    small = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    waves = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    found: Hash = waves > np.median(waves)
    return found


def near_pairs(hashes: Sequence[Hash], near: int) -> Iterator[tuple[int, int]]:
    """The pairs i < j whose hashes differ in at most `near` bits."""
    if not hashes:
        return
    bits = np.stack(hashes).astype(np.float32)
    ones = bits.sum(axis=1)
    for start in range(0, len(bits), ROWS):
        rows = slice(start, start + ROWS)
        apart = ones[rows, None] + ones - 2 * bits[rows] @ bits.T  # exact: small integers
        for i, j in np.argwhere(apart <= near):
            if start + i < j:
                yield int(start + i), int(j)


def clusters(hashes: Sequence[Hash | None], near: int) -> list[int]:
    """A number for each picture, the same for those that a chain of near-duplicates joins; those without a hash are
    alone."""
    places = [place for place, found in enumerate(hashes) if found is not None]
    pairs = list(near_pairs([found for found in hashes if found is not None], near))
    one, other = ([places[pair[side]] for pair in pairs] for side in (0, 1))
    graph = coo_matrix((np.ones(len(pairs)), (one, other)), shape=(len(hashes), len(hashes)))
    _, numbers = connected_components(graph, directed=False)
    return [int(number) for number in numbers]


def hash_files(files: Sequence[str], workers: int = WORKERS) -> list[Hash | None]:
    """The hash of each file, None where it cannot be read."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_hash_file, files))


def _hash_file(file: str) -> Hash | None:
    try:
        return perceptual_hash(read_picture(file)[0])
    except DataError:
        return None
