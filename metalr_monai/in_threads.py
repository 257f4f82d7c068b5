"""The same work for each of many cases in threads, with a bar; gzip, hashes and numpy leave the interpreter free."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from .errors import OptionError

MOST_WORKERS = 8  # unless asked for more: each may hold a volume

Todo = TypeVar("Todo")
Done = TypeVar("Done")


def in_threads(
    work: Callable[[Todo], Done], todo: Sequence[Todo], *, what: str, workers: int | None = None, progress: bool = True
) -> list[Done]:
    """`work` of each, in the order of `todo`; an exception is raised at once, and what has not begun is left undone.

    Args:
        what: the bar's name.
        workers: threads, ≥ 1; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Raises:
        OptionError: `workers` is no such number.
    """
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise OptionError(f"workers is {workers!r}; expected a number of threads, an int of 1 or more, or None.")
    pool = ThreadPoolExecutor(workers or min(os.cpu_count() or 1, MOST_WORKERS))
    try:
        pending = [pool.submit(work, one) for one in todo]
        for future in tqdm(as_completed(pending), total=len(pending), desc=what, unit="case", disable=not progress):
            future.result()
        return [future.result() for future in pending]
    finally:
        pool.shutdown(cancel_futures=True)
