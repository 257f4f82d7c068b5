"""A bundle as its tests run it: in this process, or by its command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from metalr_monai import MetaLRError

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT.parent / "shared/facts/meta_schema_20240725.json"
CONFIGS_ARE_CODE = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI's reminder


@dataclass(frozen=True)
class Bundle:
    """A folder below `bundles/`."""

    name: str

    @property
    def configs(self) -> Path:
        return ROOT / "bundles" / self.name / "configs"

    @property
    def metadata(self) -> Path:
        return self.configs / "metadata.json"

    @property
    def scored_before_training_alone(self) -> dict[str, int]:
        """For a run of one epoch, validated at an interval of two: later scores would take the place of the first."""
        handlers = json.loads((self.configs / "train.json").read_text(encoding="utf-8"))["train"]["handlers"]
        place = next(i for i, handler in enumerate(handlers) if handler["_target_"] == "ValidationHandler")
        return {f"train#handlers#{place}#interval": 2}

    def workflow(self, *names: str | Path, kind: str = "train", **options: object) -> ConfigWorkflow:
        files = [str(self.configs / name) for name in names]
        return ConfigWorkflow(files, str(self.metadata), False, workflow_type=kind, **options)

    def run(self, *names: str | Path, root: Path, **options: object) -> None:
        """Run configs in this process, and leave its global state as it was."""
        kind = "inference" if names[0] == "inference.json" else "train"
        bundle = self.workflow(*names, kind=kind, bundle_root=str(root), **options)
        try:
            bundle.initialize()
            bundle.run()
            bundle.finalize()
        finally:
            set_determinism(None)

    def faults(self, *names: str | Path, kind: str = "train", **options: object) -> object:
        """What MONAI finds missing in a config that is ready to run."""
        bundle = self.workflow(*names, kind=kind, **options)
        try:
            bundle.initialize()
            return bundle.check_properties()
        finally:
            set_determinism(None)

    def command(self, *names: str | Path, root: Path, ranks: int = 1, **options: object) -> list[str]:
        """The bundle's command line."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        files = str([str(self.configs / name) for name in names])
        files_and_root = ["--config_file", files, "--meta_file", str(self.metadata), "--bundle_root", str(root)]
        pairs = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return [sys.executable, *launcher, "-m", "monai.bundle", "run", *files_and_root, *pairs]


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def call(arguments: list[str]) -> None:
    done = subprocess.run(arguments, env=one_thread(), capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def weights(root: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(root / "models/model.pt", weights_only=True)
    return state


def own_error(error: BaseException | None) -> MetaLRError:
    """The library's error behind MONAI's wrappers."""
    while not isinstance(error, MetaLRError):
        assert error is not None
        error = error.__cause__
    return error


def refusal(bundle: Bundle, root: Path, **options: object) -> MetaLRError:
    """The error of a training that was refused before it began."""
    with pytest.raises(RuntimeError) as caught:
        bundle.run("train.json", root=root, **options)
    assert not list(root.rglob("*.pt"))
    assert not list(root.rglob("rates.csv"))
    return own_error(caught.value)
