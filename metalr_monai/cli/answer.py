"""What a verb answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a verb found: `data` for --json, `text` for people; `ok` is False where the input is bad."""

    data: Mapping[str, Any]
    text: str
    ok: bool = True
