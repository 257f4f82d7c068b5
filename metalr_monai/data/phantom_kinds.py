"""Which phantoms there are, by the kind of data whose layout they have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .ct_phantom import write_lits_phantoms
from .prepare_images import PHANTOM_WRITERS

PHANTOMS: dict[str, Callable[..., list[Path]]] = {"lits": write_lits_phantoms, **PHANTOM_WRITERS}
"""Kind → writer(folder, number of scans, videos or images, seed=…)."""
