"""Why a checkpoint does not fit a network: prefix, spatial dimensions, width, or simply another network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from .report import LoadReport, Shape


def likely_cause(report: LoadReport) -> str:
    """One or two sentences: what probably differs, and what to do."""
    missing = set(report.missing)
    unused = {tensor.name for tensor in report.with_status("unused")}
    if surplus := _prefix(unused, missing):
        return (
            f"the file's names begin with {surplus!r}, which no renaming rule strips. "
            f"Strip it and give the state dict itself."
        )
    if surplus := _prefix(missing, unused):
        return (
            f"the network's names begin with {surplus!r}, the file's do not. "
            f"Load the weights into that part of the network."
        )
    mismatched = [(t.file_shape, t.shape) for t in report.with_status("shape mismatch") if t.file_shape and t.shape]
    if len(mismatched) > len(missing):
        return _other_build(*mismatched[0])
    return "it is a checkpoint of another network. See what it holds: python -m metalr_monai inspect FILE."


def _other_build(old: Shape, new: Shape) -> str:
    if len(old) != len(new):
        return (
            f"the same kind of network for another number of spatial dimensions: weights of {len(old)} dimensions in "
            f"the file, of {len(new)} in the network. Build the network as the file's was."
        )
    return (
        f"the same kind of network with another width, {old[0]} channels in the file where this one has {new[0]}. "
        f"Build the network as the file's was."
    )


def _prefix(longer: Collection[str], shorter: Collection[str]) -> str:
    """What begins the longer names and would make at least half of the shorter ones of them; or nothing."""
    found: Counter[str] = Counter()
    for name in longer:
        components = name.split(".")
        for cut in range(1, len(components)):
            if ".".join(components[cut:]) in shorter:
                found[".".join(components[:cut]) + "."] += 1
    prefix, count = max(found.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count >= len(shorter) else ""
