"""What to know the content of files again by."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK = 2**20  # bytes read at once


def sha256(*files: Path) -> str:
    """SHA-256 of the bytes of all files, one after the other: 64 hexadecimal digits.

    Raises:
        OSError: a file is missing or cannot be read.
    """
    content = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                content.update(chunk)
    return content.hexdigest()
