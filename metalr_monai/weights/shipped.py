"""The network that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..checksum import sha256
from ..errors import WeightsError

GENESIS_SMALL: Final = Path(__file__).with_name("genesis_small.pt")
GENESIS_SMALL_SHA256: Final = "8a9debd503ed1f70e52ddc6baeeb6484e69d29d0f57b825a6a6322a9be7f2033"


def genesis_small_file() -> Path:
    """Where the package has its own initial network, pre-trained on CT without labels; 3.7 MB, Apache 2.0.

    A `GenesisUNet3D` of width 8, 299,000 parameters, in the layout of Models Genesis' checkpoint; for CT at 3 mm and HU
    of [−1000, 1000] scaled to [0, 1]. What it was made of, and by which command: docs/models/genesis_small.md.

    Raises:
        WeightsError: the file is missing, or its SHA-256 is not the one that it was shipped with.
    """
    try:
        found = sha256(GENESIS_SMALL)
    except OSError as error:
        raise WeightsError(f"{GENESIS_SMALL} cannot be read ({error.strerror}); install metalr_monai again.") from error
    if found != GENESIS_SMALL_SHA256:
        raise WeightsError(
            f"{GENESIS_SMALL} has been changed: its SHA-256 is {found}, and was {GENESIS_SMALL_SHA256}. Install "
            f"metalr_monai again, or name the changed file itself as checkpoint."
        )
    return GENESIS_SMALL
