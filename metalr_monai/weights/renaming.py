"""Names of a checkpoint's tensors → names of the network's, both behind the wrappers that training puts around them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

RENAMING_RULES: Final[dict[str, str]] = {
    "module.": r"^module\.",  # DataParallel, DistributedDataParallel
    "_orig_mod.": r"(?:^|(?<=\.))_orig_mod\.",  # torch.compile, of a part of the network too
    "module.backbone.": r"^module\.backbone\.",  # SuPreM's U-Net
    "backbone.": r"^backbone\.",
    "encoder_q.": r"^encoder_q\.",  # MoCo
    "base_encoder.": r"^base_encoder\.",  # MoCo v3
    "encoder.": r"^encoder\.",
    "student.": r"^student\.",
    "model.": r"^model\.",  # Lightning
    "_model.": r"^_model\.",
    "network.": r"^network\.",
    "net.": r"^net\.",
}
"""Name of the rule → pattern that it deletes from a name."""


@dataclass(frozen=True)
class Renaming:
    """Which rules fired, in order, and what they made of each name of the file."""

    rules: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def rename(names: Iterable[str], wanted: Collection[str]) -> Renaming:
    """The shortest chain of rules after which most names are among the wanted ones; no rule where none helps.

    A rule touches only names that are not wanted as they are, and never makes two names one.
    """
    wanted = set(wanted)
    best = Renaming((), {name: name for name in names})
    score = _matches(best, wanted)
    chains, seen = [best], {tuple(best.names.values())}
    for chain in chains:  # grows while it is read: breadth first, so that shorter chains come first
        for rule, pattern in RENAMING_RULES.items():
            longer = Renaming((*chain.rules, rule), _strip(chain.names, pattern, wanted))
            renamed = tuple(longer.names.values())
            if renamed in seen:
                continue
            seen.add(renamed)
            chains.append(longer)
            if _matches(longer, wanted) > score:
                best, score = longer, _matches(longer, wanted)
    return best


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """A network's own names → without `_orig_mod.`, and without the `module.` that begins all of them."""
    found = {name: re.sub(RENAMING_RULES["_orig_mod."], "", name) for name in names}
    while found and all(name.startswith("module.") for name in found.values()):
        found = {name: short.removeprefix("module.") for name, short in found.items()}
    return found


def _strip(names: Mapping[str, str], pattern: str, wanted: Collection[str]) -> dict[str, str]:
    taken, result = set(names.values()), dict(names)
    for original, name in names.items():
        shorter = name if name in wanted else re.sub(pattern, "", name)
        if shorter not in taken:
            taken.add(shorter)
            result[original] = shorter
    return result


def _matches(renaming: Renaming, wanted: Collection[str]) -> int:
    return sum(name in wanted for name in renaming.names.values())
