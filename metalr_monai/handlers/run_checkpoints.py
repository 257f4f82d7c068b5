"""Checkpoints of a whole run, so that one that was killed goes on where its last epoch ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.handlers import CheckpointLoader

PREFIX = "resume"


class RunCheckpoints:
    """Save network, optimizer, learned rates and the trainer itself after each epoch, and load them at the start.

    A thin use of Ignite's `Checkpoint` and MONAI's `CheckpointLoader`: a config cannot name the trainer in the handlers
    that the trainer is made of. Files are written whole or not at all, so a full disk leaves the last good one.

    Args:
        output_dir: folder of the run.
        objects: name → what has a `state_dict`; the trainer is added as `trainer`.
        resume_from: file to go on from, as `latest_checkpoint(output_dir)` finds it; None starts anew.
        keep: number of checkpoints that stay.
    """

    def __init__(
        self, output_dir: str | Path, objects: Mapping[str, Any], resume_from: str | Path | None = None, keep: int = 2
    ) -> None:
        self._folder, self._objects = Path(output_dir), dict(objects)
        self._resume_from, self._keep = resume_from, keep

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; stand before handlers that read what is loaded."""
        objects = {**self._objects, "trainer": engine}
        if self._resume_from is not None:
            device = engine.state.device
            CheckpointLoader(str(self._resume_from), objects, strict=True, map_location=device).attach(engine)
        saver = Checkpoint(
            objects,
            # MONAI's CheckpointSaver writes in place, and a run killed meanwhile would be left with a torn file
            DiskSaver(str(self._folder), atomic=True, require_empty=False),
            filename_prefix=PREFIX,
            n_saved=self._keep,
            global_step_transform=lambda e, _: e.state.epoch,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED, saver)


def latest_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of a run's last whole epoch, or None where there is none."""
    found = {}
    for file in Path(output_dir).glob(f"{PREFIX}*.pt"):
        match = re.search(r"_(\d+)\.pt$", file.name)
        if match:
            found[int(match[1])] = file
    return str(found[max(found)]) if found else None
