"""What to call an item in a message: its file, else its case."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any


def item_name(item: Mapping[Hashable, Any], key: Hashable) -> str:
    """The file that the image at `key` was read from, else the item's `case_id`, else the key."""
    meta = getattr(item[key], "meta", {})
    return str(meta.get("filename_or_obj") or item.get("case_id") or key)
