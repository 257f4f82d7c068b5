"""Names of a checkpoint's tensors → names of the network's, both behind the wrappers that training puts around them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

RENAMING_RULES: Final[dict[str, str]] = {
    "module.": r"^module\.",  # DataParallel, DistributedDataParallel
    "_orig_mod.": r"(?:^|(?<=\.))_orig_mod\.",  # torch.compile, of a part of the network too
    "module.backbone.": r"^module\.backbone\.",  # SuPreM's U-Net
    "backbone.": r"^backbone\.",
    "encoder_q.": r"^encoder_q\.",  # MoCo
    "base_encoder.": r"^base_encoder\.",  # MoCo v3
    "encoder.module.": r"^encoder\.module\.",  # C2L
    "encoder.": r"^encoder\.",
    "features.": r"^features\.",  # USCL
    "student.": r"^student\.",
    "model.": r"^model\.",  # Lightning
    "_model.": r"^_model\.",
    "network.": r"^network\.",
    "net.": r"^net\.",
}
"""Name of the rule → pattern that it deletes from a name."""

SEQUENTIAL_RESNET: Final = "Sequential → ResNet"
_RESNET_CHILDREN: Final = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool")


def _in_sequential(name: str) -> str:
    """`layer1.0.conv1.weight` → `4.0.conv1.weight`: the name in `Sequential(*resnet.children())`."""
    child, dot, rest = name.partition(".")
    return f"{_RESNET_CHILDREN.index(child)}{dot}{rest}" if child in _RESNET_CHILDREN else name


def _unstacked(name: str) -> str:
    """`_blocks.1.2._bn1.weight` → `_blocks.2._bn1.weight`: without the stack, in which MONAI puts each block."""
    return re.sub(r"^_blocks\.\d+\.(?=\d+\.)", "_blocks.", name)


LAYOUT_RULES: Final[dict[str, tuple[Callable[[str], str], str]]] = {
    SEQUENTIAL_RESNET: (_in_sequential, "4.0.conv1.weight"),  # SimCLR, USCL
    "flat → stacked blocks": (_unstacked, "_blocks.0._depthwise_conv.weight"),  # EfficientNet
}
"""Name of the rule → the network's name for a tensor to that of a file in another layout, and a name that tells it."""

CONTRASTIVE_RULES: Final = frozenset({"encoder_q.", "base_encoder.", "encoder.module."})
"""Rules of files in which the last layer is a projection for contrastive training, and never a classifier."""


@dataclass(frozen=True)
class Renaming:
    """Which rules fired, in order, and what they made of each name of the file."""

    rules: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)


def described(rules: Iterable[str]) -> str:
    """Rules as a phrase: those of another layout by their name, the others by what they strip."""
    return ", ".join(rule if rule in LAYOUT_RULES else f"strip {rule}" for rule in rules) or "none needed"


def rename(names: Iterable[str], wanted: Collection[str]) -> Renaming:
    """The shortest chain of rules after which most names are among the wanted ones; no rule where none helps.

    A rule touches only names that are not wanted as they are, and never makes two names one.
    """
    wanted = set(wanted)
    best = Renaming((), {name: name for name in names})
    score = _matches(best, wanted)
    chains, seen = [best], {tuple(best.names.values())}
    for chain in chains:  # grows while it is read: breadth first, so that shorter chains come first
        for rule, names_after in _applied(chain.names, wanted):
            longer = Renaming((*chain.rules, rule), names_after)
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


def _applied(names: Mapping[str, str], wanted: Collection[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each rule with what it makes of the names."""
    for rule, pattern in RENAMING_RULES.items():
        yield rule, _changed(names, wanted, {name: re.sub(pattern, "", name) for name in names.values()})
    for rule, (to_layout, sign) in LAYOUT_RULES.items():
        if sign in names.values():
            yield rule, _changed(names, wanted, {to_layout(name): name for name in wanted})


def _changed(names: Mapping[str, str], wanted: Collection[str], changes: Mapping[str, str]) -> dict[str, str]:
    taken, result = set(names.values()), dict(names)
    for original, name in names.items():
        changed = name if name in wanted else changes.get(name, name)
        if changed not in taken:
            taken.add(changed)
            result[original] = changed
    return result


def _matches(renaming: Renaming, wanted: Collection[str]) -> int:
    return sum(name in wanted for name in renaming.names.values())
