"""What each choice of a plan may be, also where a person has set it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import monai.losses

from ..errors import OptionError, near_misses
from ..settings import Rule, check_settings
from .networks import CLASSES, DYNUNET, OPTIONS, divisors, on_meta_device, patch_fault

EVALUATED: Final = ("$", "@", "%")  # what MONAI takes for expressions and references
MOST_LABEL: Final = 255  # label maps are uint8
FAMILIES: Final = ("checkpoint", "scratch")


def _number(low: float, high: float = float("inf"), *, or_more: bool = True) -> Callable[[Any], bool]:
    """From `low` (or above it) up to `high`."""
    return lambda value: (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (low <= value if or_more else low < value)
        and value <= high
        and abs(value) != float("inf")
    )


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _axes(value: Any) -> bool:  # noqa: ANN401 - what a file holds may be anything
    return (
        isinstance(value, list) and all(_whole(0)(axis) and axis < 3 for axis in value) and len({*value}) == len(value)
    )


def _loss(value: Any) -> bool:  # noqa: ANN401
    target = value.get("_target_") if isinstance(value, Mapping) else None
    return isinstance(target, str) and isinstance(getattr(monai.losses, target, None), type)


def _truth(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, bool)


def _text(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and bool(value)


def _digest(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


# Those that `check_settings` has no rule for; they come in the order in which a plan shows them.
RULES: Final[Mapping[str, Rule]] = {
    "network": Rule(f"one of {', '.join(CLASSES)}", lambda value: value in tuple(CLASSES)),
    "checkpoint": Rule("a path, or null", _or_none(_text)),
    "checkpoint_sha256": Rule("64 hexadecimal digits, or null", _or_none(_digest)),
    "batch_statistics": Rule("'always' or 'standard'", lambda value: value in ("always", "standard")),
    "network_options": Rule("the options of DynUNet, by name", lambda value: isinstance(value, Mapping)),
    "passes": Rule("a whole number, 1 or more", _whole(1)),
    "foreground": Rule("a share of the patches, from 0 to 1", _number(0, 1)),
    "warmup": Rule("a share of the training, from 0 to 0.9", _number(0, 0.9)),
    "nesterov": Rule("true or false", _truth),
    "weight_decay": Rule("a number, 0 or more", _number(0)),
    "scheme": Rule("the name of an overlay in configs/schemes, or null", _or_none(_text)),
    "loss": Rule("a loss of monai.losses, as {'_target_': 'DiceCELoss', …}", _loss),
    "mirror_axes": Rule("a list of different axes, of 0, 1 and 2 for x, y and z", _axes),
    "folds": Rule("a whole number, 2 or more", _whole(2)),
    "memory_gb": Rule("a number above 0", _number(0, or_more=False)),
    "postprocessing": Rule("'undecided', or what was decided", lambda value: value is not None),
    "bundle": Rule("the folder of the bundle", _text),
}
_BY_SETTINGS: Final = (
    *("width", "hu_window", "value_range", "spacing", "patch_size", "batch_size", "patches_per_volume", "epochs"),
    *("val_interval", "lr", "momentum", "meta", "overlap", "match_norms", "bfloat16"),
)
_OPTIONAL: Final = ("bundle",)


def known_choices(network: str) -> tuple[str, ...]:
    """Names of the choices of a plan with this network; "bundle" may be left out."""
    of_others = {name for other, names in OPTIONS.items() if other != network for name in names}
    return tuple(name for name in (*RULES, *_BY_SETTINGS) if name not in of_others)


def plan_faults(
    family: str, values: Mapping[str, Any], regions: Mapping[str, Any], output_values: list[Any]
) -> list[str]:
    """All that is wrong with a plan's values, a line each.

    Args:
        family: "checkpoint" or "scratch".
        values: choice → value.
        regions: region → label values.
        output_values: a label value for each region.
    """
    if code := [*_code({**values, "regions": dict(regions)})]:
        return [f"{where} is {text!r}, which MONAI would evaluate; a plan holds values alone." for where, text in code]
    faults = [] if family in FAMILIES else [f"family is {family!r}; expected {' or '.join(map(repr, FAMILIES))}."]
    faults += _faults_of_names(values)
    faults += [
        f"{name} is {values[name]!r}; expected {rule.expected}."
        for name, rule in RULES.items()
        if name in values and not rule.holds(values[name])
    ]
    faults += _faults_by_settings(
        {**{name: values[name] for name in _BY_SETTINGS if name in values}, "regions": regions}
    )
    faults += _faults_of_outputs(regions, output_values)
    faults += _faults_of_passes(values)
    # Of a network that is not as it should be nothing more can be said.
    return faults or list(_network_faults(values, len(regions)))


def _code(value: Any, where: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """What a bundle's config would not take for a value: its place, and the text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = f"{where}: {key}" if where else str(key)
            if str(key)[:1] in (*EVALUATED, "_") and name != "loss: _target_":
                yield name, str(key)
            yield from _code(inner, name)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _code(inner, where)
    elif isinstance(value, str) and value.startswith(EVALUATED):
        yield where, value


def _faults_of_names(values: Mapping[str, Any]) -> Iterator[str]:
    known = known_choices(str(values.get("network")))
    if missing := [name for name in known if name not in values and name not in _OPTIONAL]:
        yield f"It has no {', '.join(missing)}; plan again, or add what is missing."
    for name in values:
        if name not in known:
            yield f"There is no choice {name!r}.{near_misses(name, known)}"


def _faults_by_settings(values: Mapping[str, Any]) -> list[str]:
    """Those that a bundle's own check finds; whether a patch fits the network is asked of the network."""
    try:
        check_settings({name: value for name, value in values.items() if name != "patch_size"})
    except OptionError as error:
        return str(error).splitlines()
    return []


def _faults_of_passes(values: Mapping[str, Any]) -> Iterator[str]:
    """Scans are held out of a training's list, in which each stands once for every pass."""
    if values.get("passes", 1) != 1 and values.get("meta") not in (None, "training"):
        yield (
            f"passes is {values['passes']!r} and meta {values['meta']!r}: a scan that is held out would be among those "
            f"that are trained on; set passes to 1, or meta to 'training'."
        )


def _faults_of_outputs(regions: Mapping[str, Any], output_values: list[Any]) -> Iterator[str]:
    values = [value for of_region in regions.values() if isinstance(of_region, list) for value in of_region]
    if high := [value for value in values if _whole(MOST_LABEL + 1)(value)]:
        yield f"regions has the label {high[0]}; expected label values of at most {MOST_LABEL}."
    if len(output_values) != len(regions) or not all(map(_whole(1), output_values)):
        yield (
            f"output_values is {output_values!r}; expected a label value, 1 or more, for each of the {len(regions)} "
            f"regions ({', '.join(regions)})."
        )
        return
    for (name, of_region), value in zip(regions.items(), output_values, strict=True):
        if isinstance(of_region, list) and value not in of_region:
            yield f"output_values has {value} for {name!r}, whose label values are {of_region}; expected one of those."
    if len({*output_values}) < len(output_values):
        yield f"output_values is {output_values!r}; expected different values, or one region would become another."


def _network_faults(values: Mapping[str, Any], out_channels: int) -> Iterator[str]:
    network = values["network"]
    options = {name: values[name] for name in OPTIONS[network]}
    name = "network_options" if network == DYNUNET else "width"
    try:
        on_meta_device(network, out_channels, options)
        steps = divisors(network, options)
    except (OptionError, LookupError, TypeError, ValueError) as error:
        yield f"{name} is {values[name]!r}: {error}"
        return
    if fault := patch_fault(values["patch_size"], steps):
        yield fault
