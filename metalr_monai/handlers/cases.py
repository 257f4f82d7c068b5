"""The cases of an evaluator's run: what they are called, and what all ranks found of them, each case once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.data import MetaTensor
from monai.utils import string_list_all_gather

from ..errors import EngineError, OptionError


def outputs(engine: Engine, *keys: str) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Item and output of each case of the iteration.

    Raises:
        EngineError: the engine does not decollate its output, or an output lacks one of `keys`.
    """
    batch, output = engine.state.batch, engine.state.output
    if not isinstance(output, list) or not isinstance(batch, list):
        raise EngineError("The handler needs one output a case; give the evaluator decollate=True.")
    for item, result in zip(batch, output, strict=True):
        there = [key for key, value in result.items() if value is not None]  # MONAI sets a missing label to None
        missing = [key for key in keys if key not in there]
        if missing:
            raise EngineError(f"The evaluator's output has {', '.join(there)}; it lacks {' and '.join(missing)}.")
        yield item, result


def identify(item: Any) -> tuple[str, str]:  # noqa: ANN401 - a batch item is what the data set makes
    """What tells the case from all others, and what to call it: its `case_id`, else its image's file.

    Raises:
        OptionError: it has neither.
    """
    if isinstance(item, Mapping):
        if "case_id" in item:
            return str(item["case_id"]), str(item["case_id"])
        image = item.get("image")
        file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
        if file:
            return str(file), Path(str(file)).name
    raise OptionError(
        "A case has no name: its item has no case_id, and its image was not loaded from a file. Add a case_id to the "
        "items, so that each case is counted once and can be found in metrics.csv."
    )


def on_all_ranks(found: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """What all ranks found, each case once, sorted by name; the same on all ranks.

    Args:
        found: by identity (see `identify`), the case's name and what was found of it, in plain containers.

    Returns:
        name → what was found; cases of one name, as a file's in several folders, go by their identities.
    """
    local = [json.dumps([identity, *named]) for identity, named in found.items()]
    gathered: dict[str, tuple[str, Any]] = {}
    for line in string_list_all_gather(local):
        identity, name, content = json.loads(line)
        gathered.setdefault(identity, (name, content))
    names = Counter(name for name, _ in gathered.values())
    by_name = {name if names[name] == 1 else identity: content for identity, (name, content) in gathered.items()}
    return dict(sorted(by_name.items()))
