"""Marks of a data set's files, by which a plan notices that its data has changed since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from ..checksum import sha256
from ..data.dicom_files import dicom_files
from ..data.dicom_series import is_series
from ..data.hold_out import case_names
from ..errors import DataError, first_few
from ..in_threads import in_threads


class Mark(TypedDict):
    """Of one file, or of a DICOM series' files together: sizes and times are then their sums."""

    sha256: str
    size: int  # bytes
    mtime_ns: int  # ns since 1970


def mark(path: str | PathLike[str]) -> Mark:
    """The mark of a NIfTI file, or of a series: of all DICOM files in its folder, sorted by name.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    files = _files(Path(path))
    try:
        size, mtime_ns = _size_and_time(files)
        return {"sha256": sha256(*files), "size": size, "mtime_ns": mtime_ns}
    except OSError as error:
        raise _unreadable(path, error) from error


def changed(path: str | PathLike[str], known: Mapping[str, Any]) -> bool:
    """Whether the content is another than when it was marked; it is read only if size or time differ.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    files = _files(Path(path))
    try:
        size, mtime_ns = _size_and_time(files)
        if size != known["size"]:
            return True
        return bool(mtime_ns != known["mtime_ns"] and sha256(*files) != known["sha256"])
    except OSError as error:
        raise _unreadable(path, error) from error


def marks_of(
    items: Sequence[Mapping[str, Any]], *, workers: int | None = None, progress: bool = True
) -> dict[str, dict[str, Mark]]:
    """{case: {"image": mark, "label": mark}} of a data list, without "label" where there is none.

    Args:
        items: as from `data_list`.
        workers: threads, ≥ 1; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Raises:
        DataError: a case is listed twice or has several channels, or a file cannot be read.
        OptionError: `workers` is no such number.
    """
    cases = case_files(items)

    def marks(files: Mapping[str, Path]) -> dict[str, Mark]:
        return {key: mark(path) for key, path in files.items()}

    done = in_threads(marks, list(cases.values()), what="hash", workers=workers, progress=progress)
    return dict(zip(cases, done, strict=True))


def refuse_changed(
    items: Sequence[Mapping[str, Any]],
    marks: Mapping[str, Mapping[str, Any]],
    where: str | PathLike[str],
    *,
    workers: int | None = None,
    progress: bool = False,
) -> None:
    """Go on only if a data list is still the one that was marked; that its folder has moved does no harm.

    Args:
        items: as from `data_list`.
        marks: as from `marks_of`, then.
        where: the file that holds the marks, for the message.
        workers: threads, ≥ 1; unless given, one a core, 8 at most.
        progress: show a bar with the time left on standard error.

    Raises:
        DataError: cases are new, missing or changed; `marks` are no marks; or what `marks_of` raises.
        OptionError: `workers` is no such number.
    """
    _refuse_odd(marks, where)
    cases = case_files(items)
    both = [case for case in cases if case in marks]

    def differs(case: str) -> str:
        """The case with those of its files that differ, or ''."""
        parts = [part for part in ("image", "label") if _differs(cases[case].get(part), marks[case].get(part))]
        return f"{case} ({' and '.join(parts)})" if parts else ""

    differences = in_threads(differs, both, what="compare", workers=workers, progress=progress)
    found = {
        "new": [case for case in cases if case not in marks],
        "missing": [case for case in marks if case not in cases],
        "changed": [difference for difference in differences if difference],
    }
    if told := "; ".join(f"{len(names)} {what}: {first_few(names)}" for what, names in found.items() if names):
        raise DataError(
            f"The data set is not the one that {where} was made for. Of its {len(marks)} case(s): {told}. Restore the "
            f"data, or plan again with what is there now."
        )


def case_files(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Path]]:
    """{case: {"image": path, "label": path}} of a data list of CT, without "label" where there is none.

    Raises:
        DataError: the list is empty, names a case twice, or has a case without an image or with several channels.
    """
    names = case_names(items)
    if not names:
        raise DataError("The data list is empty; expected at least one case.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"The data list names cases twice: {first_few(twice)}. Keep one each.")
    images = {name: _paths(item.get("image")) for name, item in zip(names, items, strict=True)}
    if odd := [f"{name} ({len(paths)})" for name, paths in images.items() if len(paths) != 1]:
        raise DataError(
            f"{len(odd)} of {len(names)} cases have another number of image channels than one: {first_few(odd)}. "
            f"Expected CT: one image a case."
        )
    return {
        name: {"image": images[name][0], **({"label": Path(item["label"])} if item.get("label") else {})}
        for name, item in zip(names, items, strict=True)
    }


def labelled_files(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Path]]:
    """As `case_files`, with a label in each case; a DataError names those without."""
    files = case_files(items)
    if bare := [case for case, paths in files.items() if "label" not in paths]:
        raise DataError(
            f"{len(bare)} of {len(files)} cases have no label: {first_few(bare)}. Add them, or leave the cases out."
        )
    return files


def _refuse_odd(marks: Mapping[str, Any], where: str | PathLike[str]) -> None:
    for case, files in marks.items():
        known = list(files.values()) if isinstance(files, Mapping) else []
        if not known or not all(isinstance(one, Mapping) and Mark.__required_keys__ <= set(one) for one in known):
            raise DataError(
                f"{where} has no marks of the case {case}, but {files!r:.80}; expected "
                f"{', '.join(Mark.__annotations__)} of its image and its label. Was it edited? Plan again."
            )


def _paths(image: str | PathLike[str] | Sequence[str | PathLike[str]] | None) -> list[Path]:
    if not image:
        return []
    return [Path(image)] if isinstance(image, (str, PathLike)) else [Path(path) for path in image]


def _differs(path: Path | None, known: Mapping[str, Any] | None) -> bool:
    """A file that is there now or was there then, but not both, differs."""
    if path is None or known is None:
        return (path is None) != (known is None)
    there = path.exists() or is_series(path)  # one of several series in a folder is no path of its own
    return not there or changed(path, known)


def _files(path: Path) -> list[Path]:
    if not is_series(path):
        return [path]
    return list(dicom_files(path if path.is_dir() else path.parent))


def _size_and_time(files: Sequence[Path]) -> tuple[int, int]:
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), sum(stat.st_mtime_ns for stat in stats)


def _unreadable(path: str | PathLike[str], error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror}. Restore it, or take the case away and plan again.")
