"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import glob
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STARTED = time.time()  # of this process, near enough


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A file or folder to write beside `path`, which takes its name at the end; an error leaves the old one.

    What a process that was killed has left of the same file is removed. An `OSError` names `path`, which that of a full
    disk does not.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    _remove_leftovers(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    for file in path.parent.glob(f".{glob.escape(path.name)}.*"):
        try:
            # One that was written to since this process began may be another's at work.
            if file.suffix[1:].isdigit() and file.is_file() and file.stat().st_mtime < _STARTED:
                file.unlink()
        except FileNotFoundError:  # another rank was faster
            continue
