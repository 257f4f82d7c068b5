"""Decode every picture of a data list before training on it, and name everything that is wrong with it at once."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import DataError, first_few
from .hold_out import case_names
from .image_files import ImageList
from .image_report import ImageReport
from .near_duplicates import WORKERS, Hash, near_pairs, perceptual_hash
from .problem_report import Kind, Problem
from .read_picture import has_alpha, open_picture, picture_array

SMALL = 32  # pixels along the shorter side
PLAIN = frozenset({"L", "RGB"})  # Pillow's modes that need no conversion but to grey or colour

Item = Mapping[str, Any]


@dataclass(frozen=True)
class _Picture:
    """One file, decoded: what is wrong with it, and where that is of use, what it is like."""

    problems: tuple[tuple[Kind, str], ...]
    size: tuple[int, int] | None = None  # columns, rows
    mode: str = ""
    digest: bytes = b""
    hash: Hash | None = None


def check_images(
    items: Sequence[Item], *, near: int | None = None, workers: int = WORKERS, progress: bool = True
) -> ImageReport:
    """Decode every picture of a data list of labelled images; problems are collected, none is raised.

    Errors: a file that is missing, empty or damaged; a constant image; a mask among the images, by its name or because
    it has two values alone; a case or a file that is listed twice; a class without images. Warnings: a side of less
    than 32 pixels; the same or nearly the same picture in two groups, which a split may then part; a group in two
    classes, so that a label may be wrong. Notes: what an `ImageList` has to say; the same picture twice in a group;
    pictures that are neither 8-bit grey nor 8-bit RGB (16 bits, palette, transparency, CMYK), which `read_picture`
    converts.

    Args:
        items: as from `image_list`: "image", "class_name", "group" and "case_id".
        near: bits (of 255) by which the hashes of near-duplicates differ at most. By default the `ImageList`'s own;
            for other lists, none: exact duplicates alone are found.
        workers: threads.
        progress: show a bar with the time left on standard error.
    """
    files = [str(item.get("image", "")) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(_look, files), total=len(files), desc="check", unit="image", disable=not progress)
        looked = list(bar)
    names = case_names(items)
    classes: Sequence[str] = tuple(dict.fromkeys(_class(item) for item in items))
    notes: list[str] = []
    if isinstance(items, ImageList):
        classes, notes = items.classes, list(items.notes)
        near = items.near if near is None else near
    cases = [_Case(*case) for case in zip(names, items, looked, strict=True)]
    copies = _copies(cases)
    problems = [
        *_listed_twice(names, files),
        *_empty_classes(items, classes),
        *_groups_in_two_classes(items),
        *_across_groups(copies, "the same picture"),
        *_across_groups(_near_copies(cases, near), "nearly the same picture"),
        *(Problem(case.name, case.file, *problem) for case in cases for problem in case.picture.problems),
    ]
    return ImageReport(
        n_cases=len(items),
        problems=problems,
        notes=[*notes, *_copies_in_a_group(copies), *_conversions(cases)],
        parts=_counts(items, classes),
        groups=dict(Counter(str(item["group"]) for item in items if "group" in item)),
        sizes=[picture.size for picture in looked if picture.size],
        modes=dict(Counter(picture.mode for picture in looked if picture.mode).most_common()),
    )


@dataclass(frozen=True)
class _Case:
    name: str
    item: Item
    picture: _Picture

    @property
    def file(self) -> str:
        return str(self.item.get("image", ""))

    @property
    def group(self) -> str:
        return str(self.item.get("group", self.name))

    def __str__(self) -> str:
        return f"{self.name} (group {self.group})"


def _look(file: str) -> _Picture:
    path = Path(file)
    if not file or not path.exists():
        return _Picture((("error", "the file is missing" if file else 'the item has no "image"'),))
    if path.is_file() and path.stat().st_size == 0:
        return _Picture((("error", "the file is empty (0 bytes)"),))
    try:
        picture = open_picture(path)
        grey = picture_array(picture)[0]
    except DataError as error:
        return _Picture((("error", f"cannot be read: {error.__cause__ or error}"),))
    low, high = grey.min(), grey.max()
    problems: list[tuple[Kind, str]] = []
    if low == high:
        problems.append(("error", f"constant: every pixel is {low:.3g}, where 0 is black and 1 white"))
    elif "_mask" in path.stem.lower():
        problems.append(("error", "a mask, by its name, among the images"))
    elif ((grey == low) | (grey == high)).all():
        problems.append(("error", "two values alone; is it a mask?"))
    if min(picture.size) < SMALL:
        problems.append(("warning", f"{picture.width}×{picture.height} pixels, less than {SMALL} along a side"))
    return _Picture(
        problems=tuple(problems),
        size=picture.size,
        mode=f"{picture.mode} with transparency" if has_alpha(picture) else picture.mode,
        digest=hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).digest(),
        hash=None if low == high else perceptual_hash(grey),
    )


def _listed_twice(names: Sequence[str], files: Sequence[str]) -> Iterator[Problem]:
    if not names:
        yield Problem("", "", "error", "there is nothing to check: the list of images is empty")
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(name, "", "error", f"the case is listed {count} times")
    for file, count in Counter(str(Path(file).resolve()) for file in files if file).items():
        if count > 1:
            yield Problem("", file, "error", f"the file is listed {count} times")


def _empty_classes(items: Sequence[Item], classes: Sequence[str]) -> Iterator[Problem]:
    found = {_class(item) for item in items}
    for name in classes:
        if name not in found:
            yield Problem("", "", "error", f"the class {name} has no images")


def _groups_in_two_classes(items: Sequence[Item]) -> Iterator[Problem]:
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item, name in zip(items, case_names(items), strict=True):
        if "group" in item:
            groups[str(item["group"])][_class(item)].append(name)
    for classes in groups.values():
        if len(classes) > 1:
            told = "; ".join(f"{name}: {first_few(cases)}" for name, cases in classes.items())
            yield Problem("", "", "warning", f"one group in {len(classes)} classes; is a label wrong? {told}")


def _copies(cases: Sequence[_Case]) -> list[list[_Case]]:
    """Cases with the same pixels; constant ones are another matter."""
    found: dict[bytes, list[_Case]] = defaultdict(list)
    for case in cases:
        if case.picture.hash is not None:
            found[case.picture.digest].append(case)
    return [alike for alike in found.values() if len(alike) > 1]


def _near_copies(cases: Sequence[_Case], near: int | None) -> Iterator[list[_Case]]:
    """Pairs of cases that are nearly alike, but not the same."""
    if near is None:
        return
    usable = [(case, case.picture.hash) for case in cases if case.picture.hash is not None]
    for i, j in near_pairs([found for _, found in usable], near):
        one, other = usable[i][0], usable[j][0]
        if one.picture.digest != other.picture.digest:
            yield [one, other]


def _across_groups(found: Iterable[list[_Case]], what: str) -> Iterator[Problem]:
    for alike in found:
        if len({case.group for case in alike}) > 1:
            classes = {_class(case.item) for case in alike}
            where = (
                f"and in {len(classes)} classes; is a label wrong?" if len(classes) > 1 else "that a split may part:"
            )
            told = first_few([str(case) for case in alike])
            yield Problem(alike[0].name, alike[0].file, "warning", f"{what} in two groups {where} {told}")


def _copies_in_a_group(copies: Sequence[list[_Case]]) -> Iterator[str]:
    within = [alike for alike in copies if len({case.group for case in alike}) == 1]
    if within:
        extra = sum(len(alike) - 1 for alike in within)
        yield f"{extra} picture(s) are there again in their own group: {first_few([alike[1].name for alike in within])}"


def _conversions(cases: Sequence[_Case]) -> Iterator[str]:
    modes: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.picture.mode and case.picture.mode not in PLAIN:
            modes[case.picture.mode].append(case.name)
    for mode, names in modes.items():
        yield f"{len(names)} picture(s) of mode {mode} will be converted: {first_few(names)}"


def _counts(items: Sequence[Item], classes: Sequence[str]) -> dict[str, dict[str, int]]:
    parts: dict[str, Counter[str]] = {}
    for item in items:
        parts.setdefault(str(item.get("part", "all")), Counter())[_class(item)] += 1
    return {part: {name: counts[name] for name in classes} for part, counts in parts.items()}


def _class(item: Item) -> str:
    return str(item.get("class_name", item.get("label")))
