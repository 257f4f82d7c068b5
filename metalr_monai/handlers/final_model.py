"""The trained network as a file, at the end of a run, and what it was trained with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from ..errors import StateError
from ..files import atomic_path
from .run_facts import plain

logger = logging.getLogger(__name__)


class FinalModel:
    """Write the network's state dict when the run has completed.

    (MONAI's `CheckpointSaver` writes in place, and after a failure too: the last good model would be lost.) Until the
    new file is whole the old one stays; a run that fails leaves it as it was.

    Args:
        network: not wrapped in `DistributedDataParallel`, whose keys begin with `module.`.
        path: of the file; its folder is made if missing.
        settings: what the run was configured with, written beside the file with the ending `.json`; see
            `trained_settings`. None writes nothing.
    """

    def __init__(self, network: nn.Module, path: str | Path, settings: Mapping[str, Any] | None = None) -> None:
        self._network, self._path, self._settings = network, Path(path), settings

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; only the first rank writes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.COMPLETED, self.save)

    def save(self) -> None:
        """Write the files now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path) as temporary, temporary.open("wb") as file:
            torch.save(self._network.state_dict(), file)
        if self._settings is not None:
            write_settings(self._path, self._settings)
        logger.info("The trained network is in %s.", self._path)


def is_finite(network: nn.Module) -> bool:
    """Whether no weight or buffer is NaN or infinite."""
    return all(bool(t.isfinite().all()) for t in network.state_dict().values() if t.is_floating_point())


def write_settings(network: Path, settings: Mapping[str, Any]) -> None:
    """Write what a network was trained with beside its file, for `trained_settings`."""
    with atomic_path(settings_file(network)) as temporary:
        text = json.dumps(plain(settings, network.parent), indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def trained_settings(ckpt_path: str | Path | None, **defaults: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was set
    """What a network was trained with, so that inference takes the same: the settings beside its file.

    Args:
        ckpt_path: the network's file, as `FinalModel` writes it; None for the defaults.
        defaults: the settings that are asked for, with what they are where none were written.

    Raises:
        StateError: the settings' file cannot be read.

    Example:
        >>> trained_settings("another network.pt", classes=["benign", "malignant"])
        {'classes': ['benign', 'malignant']}
    """
    if ckpt_path is None:
        return defaults
    file = settings_file(Path(ckpt_path))
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return defaults
    except (OSError, ValueError) as error:
        raise StateError(f"{file} cannot be read: {error}. Restore it, or train again.") from error
    if not isinstance(found, dict):
        raise StateError(f"{file} holds a {type(found).__name__}; expected the settings of a training, by name.")
    return {name: found.get(name, default) for name, default in defaults.items()}


def settings_file(network: Path) -> Path:
    """The file that stands beside a network's, with what it was trained with."""
    return network.with_suffix(".json")
