"""What is wrong in a bundle's merged config, id by id, found without building anything of it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pydoc import locate
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.config_item import ConfigComponent, ConfigExpression
from monai.bundle.reference_resolver import ReferenceResolver

from ..errors import near_misses

_SEPARATOR = "::"
_VALUE = "_referred_to"  # stands for "@id" in an expression
_MONAI = tuple(
    f"monai.{part}"
    for part in ("transforms", "handlers", "data", "engines", "inferers", "losses", "metrics", "networks.nets")
)


@dataclass(frozen=True)
class Fault:
    """Something that will fail, or be passed over.

    Attributes:
        config: the files in which it was found, in words.
        id: of the config item, such as `train#handlers#2`; "" where it is the file as a whole.
        text: what is wrong, and what may be meant.
    """

    config: str
    id: str
    text: str

    def __str__(self) -> str:
        return f"{self.config}{', ' if self.id else ''}{self.id}: {self.text}"


def config_faults(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Ids and what is wrong with them, in the order of the config: references, targets, arguments, expressions.

    Modules that `_target_`s name are imported. Nothing is built, and no expression is evaluated.

    Args:
        config: as `ConfigParser.load_config_files` merges it.
    """
    parser = ConfigParser(dict(config))
    try:
        parser.parse()
    except (KeyError, ValueError, OSError) as error:  # a macro, "%id"
        yield "", f"a macro (%…) cannot be put in: {error}"
        return
    items = parser.ref_resolver.items
    for name, item in items.items():
        shown = name.replace(_SEPARATOR, "#")
        if isinstance(item, ConfigComponent):
            yield from ((shown, text) for text in _component_faults(item))
        elif isinstance(value := item.get_config(), str):
            yield from ((shown, text) for text in _reference_faults(value, tuple(items)))
            if isinstance(item, ConfigExpression):
                yield from ((shown, text) for text in _expression_faults(value))


def unused_keys(config: Mapping[str, Any], base: Mapping[str, Any], added: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of the top-level keys that an overlay adds to `base` those that nothing in the merged config refers to."""
    parser = ConfigParser(dict(config))
    parser.parse()
    texts = [item.get_config() for item in parser.ref_resolver.items.values()]
    used = {ref.split(_SEPARATOR)[0] for text in texts if isinstance(text, str) for ref in _references(text)}
    for key in added:
        if key not in base and key not in used and not key.startswith("+") and "#" not in key:
            yield key, f"nothing refers to it, so it changes nothing.{near_misses(key, base)}"


def _references(text: str) -> Mapping[str, int]:
    found: Mapping[str, int] = ReferenceResolver.match_refs_pattern(text)
    return found


def _reference_faults(text: str, known: Sequence[str]) -> Iterator[str]:
    for reference in _references(text):
        if reference not in known:
            near = near_misses(reference.replace(_SEPARATOR, "#"), [name.replace(_SEPARATOR, "#") for name in known])
            yield f"refers to @{reference.replace(_SEPARATOR, '#')}, which is not there.{near}"


def _expression_faults(text: str) -> Iterator[str]:
    code = ReferenceResolver.normalize_id(text)[1:]
    for reference in sorted(_references(text), key=len, reverse=True):
        code = code.replace(f"@{reference}", _VALUE)
    try:
        if ConfigExpression.is_import_statement(f"${code}"):
            module = code.split()[1].split(".")[0]
            if importlib.util.find_spec(module) is None:
                yield f"imports {module}, which is not installed."
            return
        compile(code, "<config>", "eval")
    except SyntaxError as error:
        yield f"is no Python expression ({error.msg}): {text}"


def _component_faults(item: ConfigComponent) -> Iterator[str]:
    name = item.get_config()["_target_"]
    if not isinstance(name, str) or name.startswith(("$", "@")):
        return
    try:
        found = locate(str(item.resolve_module_name()))
    except Exception as error:  # noqa: BLE001 - importing runs others' code
        yield f"_target_ is {name!r}, which cannot be imported: {error}"
        return
    if not callable(found):
        yield f"_target_ is {name!r}, which does not exist.{_near_targets(name)}"
        return
    arguments = item.resolve_args()
    try:
        signature = inspect.signature(found)
        (signature.bind_partial if item.get_config().get("_mode_") == "callable" else signature.bind)(**arguments)
    except TypeError as error:
        unknown = [key for key in arguments if key not in signature.parameters]
        near = near_misses(unknown[0], signature.parameters) if unknown else ""
        yield f"{name} does not take these arguments: {error}.{near}"
    except ValueError:  # built in, without a signature
        return


def _near_targets(name: str) -> str:
    """What is called alike in the module that was named, or in MONAI."""
    package, _, last = name.rpartition(".")
    try:
        modules = [importlib.import_module(module) for module in ([package] if package else _MONAI)]
    except ImportError:
        return ""
    return near_misses(last, sorted({known for module in modules for known in dir(module)}))
