"""What must be equal in all runs that a study compares: the program and the data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import metalr_monai

from ..checksum import sha256


def code_fingerprint(bundle: Path) -> str:
    """Of every source file of the package and every config of the bundle; 16 hexadecimal digits."""
    package = Path(metalr_monai.__file__).parent
    return digest([*_lines(package, "*.py"), *_lines(bundle / "configs", "*.json")])


def data_fingerprint(folder: Path) -> str:
    """Of the names and sizes of all files below a folder; 16 hexadecimal digits. Contents are not read."""
    return digest(f"{path.relative_to(folder)} {path.stat().st_size}" for path in _files(folder, "*"))


def files_fingerprint(files: Iterable[str]) -> str:
    """Of the contents of files, in order; 16 hexadecimal digits."""
    return digest(sha256(Path(name)) for name in files)


def _lines(folder: Path, pattern: str) -> Iterable[str]:
    for path in _files(folder, pattern):
        yield f"{path.relative_to(folder)} {sha256(path)}"


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def digest(lines: Iterable[str]) -> str:
    """Of lines of text, in order; 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
