"""Splits of labelled images by group (video, person, cluster of near-duplicates), each class in proportion."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, OptionError, first_few
from .splits import PARTS, Split, apply_split, read_split

Item = TypeVar("Item", bound=Mapping[str, Any])
Items = Sequence[Mapping[str, Any]]

_FOLD = re.compile(r"fold (\d+) of (\d+)")
_TEST = re.compile(r"test (0?\.\d+)")
_PUBLISHED_FOLD = re.compile(r"published (fold \d+)")
_PUBLISHED = {"train": "train", "val": "validation", "test": "test"}


def make_group_split(
    items: Items, scheme: str | PathLike[str], *, seed: int = 0, meta: float = 0.0, validation: float = 0.0
) -> Split:
    """Split labelled images by a named scheme, never through a group. Same items, scheme and seed: the same split.

    - "published": the data set's own "part": train, test, and val for validation. With `validation` drawn, a published
      val joins the training part first (that of the chest X-rays has 16 images).
    - "published fold K": the items whose "part" is "fold K" are the test, those of the other folds train.
    - "fold K of N", K = 1 … N: the groups in N folds, drawn by the seed, with the same share of every class as nearly
      as whole groups allow; fold K is the test.
    - "test SHARE", such as "test 0.2": that share of every class' images, in whole groups, is the test.
    - a path that ends in .json: a file as `write_split` makes; it says itself what is in every part.

    Args:
        items: as from `image_list`: "group", "class_name" and "case_id".
        scheme: one of the above.
        seed: 0 … 2³² − 1; no matter with a file.
        meta: share of the training images to hold out for the rates, in whole groups, every class in proportion; the
            paper's is 0.25. 0 holds none out. `split_counts` tells how many groups and images it came to.
        validation: share of the training images to hold out for choosing a checkpoint, likewise, before `meta`.

    Raises:
        OptionError: an unknown scheme, a number out of range, or `meta` or `validation` with a file.
        DataError: a class has too few groups to be in every part; a group is in two parts; training never sees a class
            that is in another part; or the items or the file do not fit the scheme.
    """
    name = os.fspath(scheme)
    if name.endswith(".json"):
        if meta or validation:
            raise OptionError(
                f"meta={meta}, validation={validation} were given with the split {name}, which says both."
            )
        split = read_split(name)
        check_groups(items, split, f"the split {name}")
        return split
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise OptionError(f"The split's seed is {seed!r}; expected an int, 0 … 2³² − 1.")
    for key, share in (("meta", meta), ("validation", validation)):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise OptionError(f"{key} is {share!r}; expected a share of the training images, 0 ≤ {key} < 1.")
    by_case = _by_case(items)
    parts = _parts(by_case, name, seed, joined=validation > 0)
    for number, (part, share) in enumerate((("validation", validation), ("meta", meta)), start=1):
        if share > 0:
            training = {case: by_case[case] for case in parts["train"]}
            parts["train"], parts[part] = _shared_out(training, [1 - share, share], ["train", part], (seed, number))
    split = Split(parts, name, seed)
    check_groups(items, split, f"the split {name!r}")
    return split


def check_groups(items: Items, split: Mapping[str, Sequence[str]], where: str = "the split") -> None:
    """Refuse a split that would leak or could not be learnt.

    Raises:
        DataError: a group is in two parts; a part has a class that training never sees; or a fault as `apply_split`
            finds it.
    """
    parts = apply_split(items, split)
    places: dict[str, dict[str, str]] = defaultdict(dict)
    for part, inside in parts.items():
        for item in inside:
            places[_group(item)].setdefault(part, str(item["case_id"]))
    title = where[0].upper() + where[1:]
    if crossing := [group for group, found in places.items() if len(found) > 1]:
        told = ", ".join(f"{case} in {part}" for part, case in places[crossing[0]].items())
        raise DataError(
            f"{title} parts {len(crossing)} group(s): {first_few(crossing)} ({told}). What belongs together must stay "
            f"in one part, or the scores will be too good."
        )
    learnt = {_class(item) for item in parts["train"]}
    for part in PARTS[1:]:
        if unseen := sorted({_class(item) for item in parts[part]} - learnt):
            raise DataError(f"{title} has the class {', '.join(unseen)} in {part}, which training never sees.")


def apply_group_split(items: Sequence[Item], split: Mapping[str, Sequence[str]]) -> dict[str, list[Item]]:
    """The items of each part, as `apply_split` gives them, once `check_groups` has nothing against the split.

    Raises:
        DataError: see `check_groups`.
    """
    check_groups(items, split)
    return apply_split(items, split)


def split_counts(items: Items, split: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """For each part: "groups", "images", and the images of each class by its name."""
    classes = sorted({_class(item) for item in items})
    counts = {}
    for part, inside in apply_split(items, split).items():
        found = Counter(_class(item) for item in inside)
        groups = len({_group(item) for item in inside})
        counts[part] = {"groups": groups, "images": len(inside)} | {name: found[name] for name in classes}
    return counts


def stratified(counts: NDArray[np.int64], shares: Sequence[float], seed: int | Sequence[int]) -> NDArray[np.int64]:
    """Which part each group goes to, so that every part has its share of every class as nearly as whole groups allow.

    Greedy: the groups, those first that hold most of a class, each go where they lower most the sum over classes and
    parts of (images − wanted images)² / wanted images. When no more groups of a class are left than parts that lack
    it, only those parts are open. With equal shares and groups of one class each, two parts differ by at most the
    largest group of the class.

    Args:
        counts: images, shape (groups, classes); every class has images.
        shares: of the parts, > 0; they add up to 1.
        seed: order among equals.

    Returns:
        The part of each group, shape (groups,).
    """
    totals = counts.sum(axis=0)
    wanted = np.outer(shares, totals)
    placed = np.zeros_like(wanted)
    left = (counts > 0).sum(axis=0)
    order = np.random.default_rng(seed).permutation(len(counts))
    weight = (counts / totals).max(axis=1)
    places = np.empty(len(counts), dtype=np.int64)
    for i in order[np.argsort(-weight[order], kind="stable")]:
        lacking = (placed == 0) & (counts[i] > 0) & (left <= (placed == 0).sum(axis=0))
        cost = ((2 * (placed - wanted) + counts[i]) * counts[i] / wanted).sum(axis=1)
        cost[lacking.sum(axis=1) < lacking.sum(axis=1).max()] = np.inf
        equal = np.flatnonzero(cost <= cost.min() + 1e-9)
        places[i] = equal[placed[equal].sum(axis=1).argmin()]  # or the first part would get every class' remainder
        placed[places[i]] += counts[i]
        left -= counts[i] > 0
    return places


def _parts(by_case: Mapping[str, Mapping[str, Any]], name: str, seed: int, joined: bool) -> dict[str, list[str]]:
    """Training and test cases, and a published validation part unless it has `joined` the training part."""
    if name == "published":
        return _published(by_case, _PUBLISHED | ({"val": "train"} if joined else {}), name)
    if fold := _PUBLISHED_FOLD.fullmatch(name):
        there = {str(item.get("part")) for item in by_case.values()}
        folds = {part: "train" for part in there if part.startswith("fold ")}
        return _published(by_case, folds | {fold[1]: "test"}, name)
    if match := _FOLD.fullmatch(name):
        k, n = int(match[1]), int(match[2])
        if n < 2 or not 1 <= k <= n:
            raise OptionError(f"The split {name!r} does not exist; expected K = 1 … N and N ≥ 2.")
        drawn = _shared_out(by_case, [1 / n] * n, [f"fold {i + 1}" for i in range(n)], (seed, 0))
        test = drawn.pop(k - 1)
        return {"train": [case for fold_cases in drawn for case in fold_cases], "test": test}
    if match := _TEST.fullmatch(name):
        share = float(match[1])
        if not share > 0:
            raise OptionError(f"The split {name!r} tests on nothing; expected 0 < SHARE < 1.")
        train, test = _shared_out(by_case, [1 - share, share], ["train", "test"], (seed, 0))
        return {"train": train, "test": test}
    raise OptionError(
        f"Unknown split {name!r}; known: 'published', 'published fold K', 'fold K of N' such as 'fold 1 of 5', "
        f"'test SHARE' such as 'test 0.2', or the path of a .json file."
    )


def _published(by_case: Mapping[str, Mapping[str, Any]], parts: Mapping[str, str], name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {part: [] for part in parts.values()}
    for case, item in by_case.items():
        if item.get("part") not in parts:
            raise DataError(
                f"The split {name!r} needs the data set's own parts, {', '.join(sorted(parts))}, but {case} has "
                f"{item.get('part', 'none')!r}. Take 'fold K of N', 'test SHARE' or a .json file."
            )
        found[parts[item["part"]]].append(case)
    if empty := [part for part in ("train", "test") if not found.get(part)]:
        raise DataError(f"The split {name!r} has no images in {' and '.join(empty)}: no such part is published.")
    return found


def _shared_out(
    by_case: Mapping[str, Mapping[str, Any]], shares: Sequence[float], parts: Sequence[str], seed: tuple[int, int]
) -> list[list[str]]:
    """The cases in parts of about these shares of every class, each group whole."""
    cases: dict[str, list[str]] = defaultdict(list)
    for case, item in by_case.items():
        cases[_group(item)].append(case)
    classes = sorted({_class(item) for item in by_case.values()})
    found = [Counter(_class(by_case[case]) for case in inside) for inside in cases.values()]
    counts = np.array([[count[name] for name in classes] for count in found], dtype=np.int64)
    for name, groups in zip(classes, (counts > 0).sum(axis=0), strict=True):
        if groups < len(parts):
            raise DataError(
                f"The class {name} has {groups} group(s), too few to be in each of the {len(parts)} parts "
                f"{first_few(parts)}. Add images of others, ask for fewer parts, or write a split as .json."
            )
    places = stratified(counts, shares, seed)
    for place, part in enumerate(parts):
        if absent := [classes[c] for c in np.flatnonzero(counts[places == place].sum(axis=0) == 0)]:
            raise DataError(
                f"No way was found to have the class {', '.join(absent)} in {part}. Take another seed or share."
            )
    groups_of_cases = list(cases.values())
    return [
        [case for i in np.flatnonzero(places == place) for case in groups_of_cases[i]] for place in range(len(parts))
    ]


def _by_case(items: Items) -> dict[str, Mapping[str, Any]]:
    for item in items:
        if missing := [key for key in ("case_id", "group", "class_name") if key not in item]:
            raise DataError(f"An item lacks {', '.join(missing)}: {dict(item)!r:.200}. Expected items of image_list.")
    names = [str(item["case_id"]) for item in items]
    if twice := [case for case, count in Counter(names).items() if count > 1]:
        raise DataError(f"The data list names cases twice: {first_few(twice)}. Keep one each.")
    if not names:
        raise DataError("The data list is empty; there is nothing to split.")
    by_case = dict(zip(names, items, strict=True))
    return {case: by_case[case] for case in sorted(by_case)}


def _group(item: Mapping[str, Any]) -> str:
    return str(item["group"])


def _class(item: Mapping[str, Any]) -> str:
    return str(item["class_name"])
