"""Named splits of a data list into training, meta-validation, validation and test cases, and their files."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from monai.data import partition_dataset

from ..errors import DataError, OptionError, first_few, near_misses
from ..files import atomic_path
from .ct_lists import natural_key
from .hold_out import case_names, hold_out

PARTS = ("train", "meta", "validation", "test")
Item = TypeVar("Item", bound=Mapping[str, Any])


class Split(dict[str, list[str]]):
    """Case ids by part, `PARTS`, all four there; it remembers the scheme and the seed that it was made with.

    "train" is what the weights learn from, "meta" what the rates learn from, "validation" picks a checkpoint, "test"
    is scored once. "meta" and "validation" may be empty.
    """

    def __init__(self, parts: Mapping[str, Sequence[str]], scheme: str = "by hand", seed: int | None = None) -> None:
        super().__init__({part: list(parts.get(part, ())) for part in (*PARTS, *parts)})
        self.scheme, self.seed = scheme, seed


@dataclass(frozen=True)
class Shares:
    """Parts drawn at random: `test` of all cases, then `meta` of the rest, each (number, out of how many)."""

    test: tuple[int, int]
    meta: tuple[int, int]


@dataclass(frozen=True)
class Ranges:
    """Parts by the numbers N of the cases `volume-N`."""

    train: range
    validation: range
    test: range


PRESETS: dict[str, Shares | Ranges] = {
    "paper": Shares(test=(20, 131), meta=(23, 111)),  # MetaLR, Sec. 3.1
    "genesis": Ranges(range(0, 100), range(100, 115), range(115, 130)),  # Models Genesis' target task on LiTS
}
_FOLD = re.compile(r"fold (\d+) of (\d+)")


def make_split(
    items: Sequence[Mapping[str, Any]], scheme: str | PathLike[str], *, seed: int = 0, meta: float | None = None
) -> Split:
    """Split a data list by a named scheme. The same cases, scheme and seed give the same split, in whatever order.

    - "paper": MetaLR's on LiTS, 131 = 88 train + 23 meta + 20 test. Which cases are which is not published, so the
      seed draws them: the sizes are the paper's, the cases are not. Other numbers of cases: the same proportions,
      20/131 test and 23/111 of the others meta, at least one each.
    - "genesis": Models Genesis' on LiTS, by number: 0–99 train, 100–114 validation, 115–129 test; 130 is left out.
      Needs LiTS' own numbering, `volume-N`; that of MSD Task03 may differ.
    - "fold K of N", K = 1 … N: the cases in N equal folds, drawn by the seed; fold K is the test, the others train.
    - a path that ends in .json: a file as `write_split` makes, which must fit the cases; `seed` has no effect.

    Args:
        items: as from `data_list`; cases are told apart by "case_id", else by file name.
        scheme: one of the above.
        seed: 0 … 2³² − 1.
        meta: cases to hold out of the training part as "meta", a number (int) or a share (float in (0, 1)) of it, in
            place of the scheme's own (0 but for "paper"); 0 trains on all of them, for meta batches from the training
            data. Not for files.

    Raises:
        OptionError: an unknown scheme, a seed or a fold out of range, or `meta` with a file.
        MetaDataError: `meta` is neither a count ≥ 0 nor a share.
        DataError: too few cases, cases listed twice, or cases not numbered as the scheme or the file needs.
    """
    cases = sorted(case_names(items), key=natural_key)
    _refuse_repeats(cases, "the data list")
    name = os.fspath(scheme)
    if name.endswith(".json"):
        return _from_file(name, cases, meta)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise OptionError(f"The split's seed is {seed!r}; expected an int, 0 … 2³² − 1.")
    if fold := _FOLD.fullmatch(name):
        split = Split(_fold(cases, int(fold[1]), int(fold[2]), seed), name, seed)
        return _with_meta(split, meta or 0)
    preset = PRESETS.get(name)
    if isinstance(preset, Ranges):
        return _with_meta(Split(_by_number(cases, preset), name, seed), meta or 0)
    if isinstance(preset, Shares):
        return _drawn(cases, preset, name, seed, meta)
    raise OptionError(
        f"Unknown split {name!r}; known: {', '.join(PRESETS)}, 'fold K of N' such as 'fold 1 of 5', or the path of a "
        f".json file.{near_misses(name, PRESETS)}"
    )


def apply_split(items: Sequence[Item], split: Mapping[str, Sequence[str]]) -> dict[str, list[Item]]:
    """The items of each part, in the split's order. Items that the split does not name are left out.

    Raises:
        DataError: a case is in two parts, or twice in one or in `items`; a case of the split is not in `items`; a part
            is unknown; or there is nothing to train on or to test on.
    """
    _refuse_faults(split, "the split")
    names = case_names(items)
    _refuse_repeats(names, "the data list")
    by_name = dict(zip(names, items, strict=True))
    _refuse_unknown([case for cases in split.values() for case in cases], by_name, "the split")
    return {part: [by_name[case] for case in split.get(part, ())] for part in PARTS}


def write_split(split: Mapping[str, Sequence[str]], path: str | PathLike[str]) -> None:
    """Write JSON {"counts", "meta", "scheme", "seed", "test", "train", "validation"}: the same split, the same bytes.

    Written beside `path` first, so that a whole file, the old one or the new, is there at any time.

    Raises:
        DataError: the split is faulty, as in `apply_split`.
    """
    _refuse_faults(split, "the split")
    split = split if isinstance(split, Split) else Split(split)
    content = {
        **split,
        "scheme": split.scheme,
        "seed": split.seed,
        "counts": {part: len(split[part]) for part in PARTS},
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_split(path: str | PathLike[str]) -> Split:
    """A split from JSON: lists of case ids by part; "scheme", "seed" and "counts" may be missing (written by hand).

    Raises:
        DataError: no such file, no such content, or a faulty split, as in `apply_split`.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"The split {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise DataError(f"The split {path} is not valid JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f'The split {path} holds a {type(content).__name__}; expected {{"train": [case, …], …}}.')
    parts = {key: cases for key, cases in content.items() if key not in ("scheme", "seed", "counts")}
    _refuse_faults(parts, f"the split {path}")
    split = Split(parts, str(content.get("scheme", "by hand")), content.get("seed"))
    counts = {part: len(split[part]) for part in PARTS}
    if content.get("counts", counts) != counts:
        raise DataError(
            f"The split {path} says counts {content['counts']}, but lists {counts}. Was it edited or cut off? Correct "
            f"or remove the counts."
        )
    return split


def _drawn(cases: list[str], shares: Shares, name: str, seed: int, meta: float | None) -> Split:
    least = 2 if meta == 0 else 3
    if len(cases) < least:
        raise DataError(
            f"The split {name!r} needs at least {least} cases, one each for {'meta, ' * (least == 3)}train and test; "
            f"found {len(cases)}. Add cases, or write a split of your own as .json."
        )
    train, test = hold_out(cases, _share(shares.test, len(cases)), seed)
    split = Split({"train": train, "test": test}, name, seed)
    return _with_meta(split, _share(shares.meta, len(train)) if meta is None else meta)


def _share(share: tuple[int, int], total: int) -> int:
    part, whole = share
    return max(1, round(total * part / whole))


def _by_number(cases: list[str], ranges: Ranges) -> dict[str, list[str]]:
    parts = {
        "train": [f"volume-{n}" for n in ranges.train],
        "validation": [f"volume-{n}" for n in ranges.validation],
        "test": [f"volume-{n}" for n in ranges.test],
    }
    wanted = [case for part in parts.values() for case in part]
    known = set(cases)
    if missing := [case for case in wanted if case not in known]:
        raise DataError(
            f"This split needs LiTS' cases {wanted[0]} to {wanted[-1]}; {len(missing)} of {len(wanted)} are missing: "
            f"{first_few(missing)}. Found {len(cases)} cases: {first_few(cases)}. Add the missing ones, or "
            f"use 'paper', 'fold K of N' or a .json file."
        )
    return parts


def _fold(cases: list[str], k: int, n: int, seed: int) -> dict[str, list[str]]:
    if n < 2 or not 1 <= k <= n:
        raise OptionError(f"The split 'fold {k} of {n}' does not exist; expected K = 1 … N and N ≥ 2.")
    if len(cases) < n:
        raise DataError(f"{n} folds need at least {n} cases; found {len(cases)}. Add cases, or take fewer folds.")
    folds = partition_dataset(cases, num_partitions=n, shuffle=True, seed=seed)
    test = set(folds[k - 1])
    return {"train": [case for case in cases if case not in test], "test": [case for case in cases if case in test]}


def _with_meta(split: Split, meta: float) -> Split:
    """`meta` cases moved out of "train"; those of the other parts stay where they are."""
    if meta == 0:
        return split
    total = len(split["train"])
    if meta >= total:
        raise DataError(
            f"The meta part is to hold {meta:g} cases and train at least one more, but the split {split.scheme!r} "
            f"leaves {total} for both. Add cases, ask for fewer meta cases, or for none (meta=0) and take "
            f"meta batches from the training data."
        )
    train, held = hold_out(split["train"], meta, split.seed or 0)
    return Split({**split, "train": train, "meta": held}, split.scheme, split.seed)


def _from_file(path: str, cases: Sequence[str], meta: float | None) -> Split:
    if meta is not None:
        raise OptionError(f"meta={meta!r} was given with the split {path}; the file itself says which cases are meta.")
    split = read_split(path)
    _refuse_unknown([case for part in split.values() for case in part], cases, f"the split {path}")
    return split


def _refuse_faults(split: Mapping[str, Any], where: str) -> None:
    title = where[0].upper() + where[1:]
    if odd := [part for part in split if part not in PARTS]:
        raise DataError(f"{title} has unknown parts {first_few(odd)}; expected {', '.join(PARTS)}.")
    for part, cases in split.items():
        if not isinstance(cases, (list, tuple)) or not all(isinstance(case, str) for case in cases):
            raise DataError(f"{title} has no list of case ids in {part!r}, but {cases!r:.80}.")
        _refuse_repeats(cases, f"{where}, part {part!r},")
    of = Counter(case for cases in split.values() for case in cases)
    if shared := [case for case, count in of.items() if count > 1]:
        places = ", ".join(part for part, cases in split.items() if shared[0] in cases)
        raise DataError(
            f"{title} has {len(shared)} case(s) in two parts: {first_few(shared)} ({shared[0]}: {places}). Keep each "
            f"in one part, or the scores will be too good."
        )
    if empty := [part for part in ("train", "test") if not split.get(part)]:
        raise DataError(f"{title} has no cases in {' and '.join(empty)}; give at least one each.")


def _refuse_repeats(cases: Sequence[str], where: str) -> None:
    if twice := [case for case, count in Counter(cases).items() if count > 1]:
        raise DataError(f"{where[0].upper()}{where[1:]} names cases twice: {first_few(twice)}. Keep one each.")


def _refuse_unknown(named: Sequence[str], known: Mapping[str, Any] | Sequence[str], where: str) -> None:
    cases = set(known)
    if unknown := [case for case in named if case not in cases]:
        raise DataError(
            f"{where[0].upper()}{where[1:]} names {len(unknown)} case(s) that the data list of {len(cases)} lacks: "
            f"{first_few(unknown)}.{near_misses(unknown[0], cases)} Was it made for other data?"
        )
