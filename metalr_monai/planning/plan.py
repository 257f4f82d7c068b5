"""A plan: every value that a data set's training depends on, each with its reason, as a file that a person reads."""

from __future__ import annotations

import hashlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

from ..errors import DataError, OptionError
from ..files import atomic_path
from .plan_rules import plan_faults

FORMAT: Final = "metalr_monai plan"
VERSION: Final = 1

PREPROCESSING: Final = ("hu_window", "spacing", "value_range")  # choices that the prepared arrays depend on
# Choices that the trained network does not depend on: where files are, how it is used afterwards, what the machine had.
# The checkpoint counts by its content.
NOT_TRAINING: Final = ("bundle", "checkpoint", "folds", "memory_gb", "overlap", "postprocessing")


@dataclass(frozen=True)
class Choice:
    """One value of a plan, of JSON's types, and why it is what it is, in words."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """What is done with a data set.

    Attributes:
        family: "checkpoint" (fine-tuning; the input contract of the pre-trained network rules) or "scratch".
        dataset: `kind`, `folder` (absolute), and `marks`, case → "image" and "label" → the file's mark.
        regions: what is segmented, each a channel of the network → label values in the data set.
        output_values: the label value that predictions have for each region, in order.
        choices: name → value and reason.
    """

    family: str
    dataset: dict[str, Any]
    regions: dict[str, list[int]]
    output_values: list[int]
    choices: dict[str, Choice]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a choice may be anything
        """The value of a choice.

        Raises:
            OptionError: there is no such choice in this plan.
        """
        if name not in self.choices:
            raise OptionError(f"The plan has no {name!r}; it has {', '.join(self.choices)}.")
        return self.choices[name].value

    @property
    def values(self) -> dict[str, Any]:
        """Every choice's value."""
        return {name: choice.value for name, choice in self.choices.items()}

    @property
    def classes(self) -> dict[str, int | list[int]]:
        """The regions as the scores want them; one of a single value is that value, as in nnU-Net's dataset.json."""
        return {name: values[0] if len(values) == 1 else values for name, values in self.regions.items()}

    @property
    def preprocessing_identity(self) -> str:
        """SHA-256 of what the prepared arrays depend on: the files' contents, spacing, window and what it becomes."""
        return _digest(
            {
                "files": _contents(self.dataset.get("marks", {})),
                **{name: self.values.get(name) for name in PREPROCESSING},
            }
        )

    @property
    def identity(self) -> str:
        """SHA-256 of what the trained networks depend on.

        Not on reasons, paths, the number of folds, memory, overlap and post-processing. Two plans of one identity train
        the same network on the same cases.
        """
        return _digest(
            {
                "preprocessing": self.preprocessing_identity,
                "regions": [[name, values] for name, values in self.regions.items()],  # their order is the channels'
                "choices": {name: value for name, value in self.values.items() if name not in NOT_TRAINING},
            }
        )

    def __str__(self) -> str:
        """A table for the terminal: every choice with its reason."""
        width = max(len(name) for name in self.choices)
        title = {"checkpoint": "fine-tuning from a checkpoint", "scratch": "training from scratch, by nnU-Net's rules"}
        lines = [f"Plan for {title.get(self.family, self.family)}: {', '.join(self.regions)}"]
        for name, choice in self.choices.items():
            lines += _row(name.ljust(width), _plain(choice.value), choice.reason)
        return "\n".join(lines)


_VALUE_WIDTH, _REASON_WIDTH = 30, 78


def _row(name: str, value: str, reason: str) -> Iterator[str]:
    values = textwrap.wrap(value, _VALUE_WIDTH) or [""]
    reasons = textwrap.wrap(reason, _REASON_WIDTH) or [""]
    for number in range(max(len(values), len(reasons))):
        left = name if number == 0 else " " * len(name)
        middle = values[number] if number < len(values) else ""
        right = reasons[number] if number < len(reasons) else ""
        yield f"{left}  {middle:<{_VALUE_WIDTH}}  {right}".rstrip()


def _plain(value: Any) -> str:  # noqa: ANN401 - a choice may be anything
    """A value as it is read best: short numbers, `64 × 64 × 32`."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and len(value) == 3 and all(type(v) in (int, float) and v > 0 for v in value):
        return " × ".join(map(_plain, value))
    if isinstance(value, (list, tuple)) and all(type(v) in (int, float) for v in value):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return textwrap.shorten(json.dumps(value, ensure_ascii=False), 3 * _VALUE_WIDTH, placeholder=" …")


# ---------------------------------------------------------------------- identity


def _contents(marks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Case, "image" or "label", and the SHA-256 of the file: what stays when a data set is copied."""
    return sorted([case, kind, mark["sha256"]] for case, files in marks.items() for kind, mark in files.items())


def _digest(content: Any) -> str:  # noqa: ANN401 - of JSON's types
    text = json.dumps(_canonical(content), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _canonical(value: Any) -> Any:  # noqa: ANN401
    """The same for what is equal: `1.0` and `1`, tuples and lists."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ---------------------------------------------------------------------- the file


def write_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Write `plan.json`, atomically; its folder is made if missing.

    Raises:
        OptionError: a value that `read_plan` would refuse.
    """
    if faults := plan_faults(plan.family, plan.values, plan.regions, plan.output_values):
        raise OptionError("The plan is not written:\n" + "\n".join(faults))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "family": plan.family,
        "regions": plan.regions,
        "output_values": plan.output_values,
        "choices": {name: {"value": choice.value, "reason": choice.reason} for name, choice in plan.choices.items()},
        "dataset": plan.dataset,
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        unfinished.write_text(_readable(content) + "\n", encoding="utf-8")


def _readable(value: Any, indent: str = "") -> str:  # noqa: ANN401 - of JSON's types
    """JSON with what fits in a line on one."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, (dict, list)) or not value or (len(indent) + len(line) <= 100 and "reason" not in value):
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        rows = [f"{json.dumps(str(key), ensure_ascii=False)}: {_readable(v, deeper)}" for key, v in value.items()]
        return "{\n" + ",\n".join(deeper + row for row in rows) + "\n" + indent + "}"
    return "[\n" + ",\n".join(deeper + _readable(item, deeper) for item in value) + "\n" + indent + "]"


def read_plan(path: str | PathLike[str]) -> Plan:
    """Read `plan.json`, whose values may have been set by hand.

    Raises:
        DataError: there is no such file, or it is not a plan of this version.
        OptionError: a value that training would fail on, or be spoiled by; all of them, a line each.
    """
    content = _content(Path(path))
    faults = list(_structure_faults(content))
    if faults:
        raise DataError(f"{path} is a damaged plan: {'; '.join(faults)}. Restore it, or plan again.")
    choices = {name: Choice(entry["value"], entry["reason"]) for name, entry in content["choices"].items()}
    plan = Plan(content["family"], content["dataset"], content["regions"], content["output_values"], choices)
    if faults := plan_faults(plan.family, plan.values, plan.regions, plan.output_values):
        raise OptionError(f"{path} holds values that cannot be:\n" + "\n".join(faults))
    return plan


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"There is no plan {path}. Make one: python -m metalr_monai plan KIND FOLDER.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); expected the plan.json of a workspace.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); restore it, or plan again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        theirs = isinstance(content, dict) and "configurations" in content and "plans_name" in content
        kind = "a plans file of nnU-Net" if theirs else "not a plan of this program"
        raise DataError(f"{path} is {kind}; expected a file written by: python -m metalr_monai plan KIND FOLDER.")
    version = content.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        advice = "install a newer metalr_monai" if newer else "plan again"
        raise DataError(f"{path} is a plan of version {version!r}; this program reads version {VERSION}: {advice}.")
    return content


_PARTS: Final = {"family": str, "regions": dict, "output_values": list, "choices": dict, "dataset": dict}


def _structure_faults(content: Mapping[str, Any]) -> Iterator[str]:
    for name, kind in _PARTS.items():
        if name not in content:
            yield f"it has no {name!r}"
        elif not isinstance(content[name], kind):
            yield f"{name!r} is a {type(content[name]).__name__}; expected a {kind.__name__}"
    choices = content.get("choices")
    for name, entry in choices.items() if isinstance(choices, dict) else ():
        if not isinstance(entry, dict) or "value" not in entry or not isinstance(entry.get("reason"), str):
            yield f"the choice {name!r} is {entry!r}; expected a value and a reason"
    dataset = content.get("dataset")
    if isinstance(dataset, dict):
        yield from _dataset_faults(dataset)


def _dataset_faults(dataset: Mapping[str, Any]) -> Iterator[str]:
    for name in ("kind", "folder"):
        if not isinstance(dataset.get(name), str):
            yield f"the dataset's {name} is {dataset.get(name)!r}; expected text"
    marks = dataset.get("marks")
    cases = marks.values() if isinstance(marks, dict) else [None]
    for files in cases:
        entries = files.values() if isinstance(files, dict) else [None]
        if not all(isinstance(mark, dict) and isinstance(mark.get("sha256"), str) for mark in entries):
            yield "the dataset's marks are not those of its files"
            return
