"""Checkpoints of a whole run, so that one that was killed goes on where its last epoch ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch.amp.grad_scaler import GradScaler

from ..errors import StateError
from ..files import atomic_path
from .run_facts import plain

PREFIX = "resume_checkpoint_"
# No step depends on them.
MAY_CHANGE = ("epochs", "val_interval", "patience", "check", "device", "num_workers", "cache_rate")


class RunCheckpoints:
    """Save network, optimizer, learned rates and the trainer itself after each epoch, and load them at the start.

    The trainer's GradScaler is one of them.

    Ignite's `Checkpoint` removes an old file before the new one is there, and forgets the files of a run that it
    resumes; its `DiskSaver` leaves files of random names when it is killed. Here a file is written whole or not at all,
    the old ones go when it stands, and those of an earlier run go when a run starts anew.

    Epochs that a handler added to the run (as `AutoLR` does for each one that it repeats) are saved and added again.

    Let it stand last among the handlers: the checkpoint says that its epoch is done, with all that they wrote of it.

    Args:
        output_dir: folder of the run.
        objects: name → what has a `state_dict`, or None for what this run has not; the trainer is added as `trainer`.
        resume_from: file to go on from, as `latest_checkpoint(output_dir)` finds it; None starts anew.
        settings: what the run was configured with, for `latest_checkpoint` to compare.
        keep: number of checkpoints that stay, 1 or more.

    Raises:
        StateError: at `attach`, the checkpoint is of a later epoch than the trainer's last.
    """

    def __init__(
        self,
        output_dir: str | Path,
        objects: Mapping[str, Any],
        resume_from: str | Path | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        keep: int = 2,
    ) -> None:
        self._folder, self._settings = Path(output_dir), settings or {}
        self._objects = {name: held for name, held in objects.items() if held is not None}
        self._resume_from, self._keep = resume_from, keep
        self._asked: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; only the first rank writes."""
        self._asked = engine.state.max_epochs
        if self._resume_from is not None:
            self._load_at_start(engine, Path(self._resume_from))
        if idist.get_rank() == 0:
            if self._resume_from is None:
                engine.add_event_handler(Events.STARTED, self._remove_all_but, 0)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load_at_start(self, engine: Engine, file: Path) -> None:
        done, added = _epoch_of(file), _saved(file, "added_epochs", 0)
        if self._asked is not None:
            if done is not None and done > self._asked + added:
                raise StateError(
                    f"{file} was made after epoch {done}, and this run is to end after epoch {self._asked + added}. "
                    f"Ask for at least {done - added} epochs, or start anew with --resume False."
                )
            engine.state.max_epochs = self._asked + added  # CheckpointLoader keeps it
        objects = {**self._objects, "trainer": engine}
        CheckpointLoader(str(file), objects, strict=True, map_location=engine.state.device).attach(engine)
        engine.add_event_handler(Events.STARTED, _load_scaler, file)

    def _save(self, engine: Engine) -> None:
        content = {name: held.state_dict() for name, held in {**self._objects, "trainer": engine}.items()}
        scaler = _scaler_of(engine)
        content["scaler"] = {} if scaler is None else scaler.state_dict()
        content["settings"] = plain(self._settings, self._folder)
        content["added_epochs"] = 0 if self._asked is None else engine.state.max_epochs - self._asked
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._folder / f"{PREFIX}{engine.state.epoch}.pt") as temporary, temporary.open("wb") as file:
            torch.save(content, file)
        self._remove_all_but(self._keep)

    def _remove_all_but(self, newest: int) -> None:
        found = _checkpoints(self._folder)
        for epoch in sorted(found, reverse=True)[newest:]:
            found[epoch].unlink()


def latest_checkpoint(output_dir: str | Path, settings: Mapping[str, Any] | None = None) -> str | None:
    """The checkpoint of a run's last whole epoch, or None where there is none.

    Args:
        output_dir: folder of the run.
        settings: what the run that goes on is configured with, as for `RunCheckpoints`; None compares nothing.

    Raises:
        StateError: the checkpoint was made with other settings, those in `MAY_CHANGE` aside; with both values of each.
    """
    found = _checkpoints(Path(output_dir))
    if not found:
        return None
    file = found[max(found)]
    if settings is not None:
        _refuse_changes(file, plain(settings, Path(output_dir)))
    return str(file)


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Epoch → file."""
    found = {_epoch_of(file): file for file in folder.glob(f"{PREFIX}*.pt")}
    return {epoch: file for epoch, file in found.items() if epoch is not None}


def _epoch_of(file: Path) -> int | None:
    match = re.fullmatch(rf"{PREFIX}(\d+)\.pt", file.name)
    return int(match[1]) if match else None


def _scaler_of(engine: Engine) -> GradScaler | None:
    """MONAI's trainer makes its GradScaler when it runs, so that it cannot be named among the objects before."""
    return getattr(engine, "scaler", None)


def _load_scaler(engine: Engine, file: Path) -> None:
    """Go on with the loss scale; a run on another kind of device may have none, before or now."""
    scaler, state = _scaler_of(engine), _saved(file, "scaler", {})
    if scaler is not None and state:
        scaler.load_state_dict(state)


def _saved(file: Path, name: str, default: Any) -> Any:  # noqa: ANN401 - whatever was saved
    # Mapped, not read: a checkpoint may have gigabytes, and this is a few bytes.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True).get(name, default)


def _refuse_changes(file: Path, now: Mapping[str, Any]) -> None:
    before = _saved(file, "settings", {})
    changes = [
        f"{name} was {before.get(name, 'not set')!r} and is {now.get(name, 'not set')!r}"
        for name in dict.fromkeys([*before, *now])
        if name not in MAY_CHANGE and before.get(name, "not set") != now.get(name, "not set")
    ]
    if changes:
        raise StateError(
            f"{file} was made with other settings: {'; '.join(changes)}. Give the old ones to go on, start anew with "
            f"--resume False (which replaces this run), or name another output_dir."
        )
