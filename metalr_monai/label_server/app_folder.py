"""A folder that MONAI Label can be started on: its own bundle app, and trained bundles in it. Nothing is downloaded."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import MetaLRError, first_few
from ..files import atomic_path
from ..handlers.final_model import trained_settings
from ..weights.describe import describe_checkpoint

TESTED = "0.8.5"  # of MONAI Label
PACKAGES = ("monailabel", "monai", "torch", "numpy")
SUFFIXES = (".nii", ".nii.gz", ".png", ".jpg", ".jpeg", ".bmp")
NOT_COPIED = shutil.ignore_patterns("runs", "phantoms", "__pycache__", ".*")
NEEDED = ("configs/inference.json", "configs/train.json", "configs/metadata.json", "models/model.pt")
IMPORTS = "import monailabel.interfaces.app, monailabel.tasks.infer.bundle, metalr_monai.label_server.server_app"


class LabelAppError(MetaLRError, ValueError):
    """MONAI Label is missing or does not work, or a bundle cannot be served."""


@dataclass(frozen=True)
class App:
    """A folder that is ready.

    Attributes:
        folder: of the app.
        bundles: names of those in it.
        kept: those of them that were there already, and were left as they are.
        versions: package → version.
        studies: number of images among the studies.
        labelled: number of labels that readers have saved.
        command: starts the server.
        warnings: what was unusual.
    """

    folder: Path
    bundles: list[str]
    kept: list[str]
    versions: dict[str, str]
    studies: int
    labelled: int
    command: str
    warnings: list[str]


def prepare_app(folder: Path, studies: Path, bundles: Sequence[Path], *, host: str, port: int) -> App:
    """Make the folder, or add to it; a bundle that is there already keeps its models and all else.

    Raises:
        LabelAppError: MONAI Label is not installed or cannot be imported, a bundle lacks something, or two have the
            same name.
        WeightsError: a bundle's model cannot be read with `weights_only`.
        StateError: the settings beside a bundle's model cannot be read.
    """
    if not studies.is_dir():
        raise LabelAppError(f"There is no folder {studies}; expected the one with the studies to label.")
    versions, warnings = _versions()
    _refuse_same_names(bundles)
    for bundle in bundles:
        _refuse_unready(bundle)
    _refuse_broken_server()
    if not (folder / "bundle_app.py").is_file():
        _copy_app(folder)
    kept = [bundle.name for bundle in bundles if (folder / "model" / bundle.name).exists()]
    for bundle in bundles:
        if bundle.name not in kept:
            _copy_bundle(bundle, folder / "model" / bundle.name)
    names = [bundle.name for bundle in bundles]
    images = [file for file in studies.iterdir() if file.name.lower().endswith(SUFFIXES)]
    if not images:
        warnings.append(f"{studies} holds no image yet ({', '.join(SUFFIXES)}).")
    final = studies / "labels/final"
    labels = [file for file in final.iterdir() if file.is_file()] if final.is_dir() else []
    command = _command(folder, studies, names, host, port)
    return App(folder, names, kept, versions, len(images), len(labels), command, warnings)


def trained_bundles(folder: Path) -> list[Path]:
    """The bundles below `folder` that have a model.

    Raises:
        LabelAppError: there is none.
    """
    found = [path for path in sorted(folder.glob("*")) if all((path / name).is_file() for name in NEEDED)]
    if not found:
        raise LabelAppError(
            f"There is no trained bundle in {folder}: expected folders with {' and '.join(NEEDED[-2:])}. Train one "
            f"first (docs/how-to/liver-ct.md), or name bundles with --bundles."
        )
    return found


def _versions() -> tuple[dict[str, str], list[str]]:
    try:
        found = {name: version(name) for name in PACKAGES}
    except PackageNotFoundError as error:
        raise LabelAppError(
            f"{error.name} is not installed for {sys.executable}. MONAI Label has an environment of its own: see "
            f"docs/how-to/monai-label.md."
        ) from None
    if int(found["numpy"].split(".")[0]) > 1:
        raise LabelAppError(f"numpy is {found['numpy']}; MONAI Label needs 1.26: pip install 'numpy<2'.")
    warnings = []
    if found["monailabel"] != TESTED:
        warnings.append(f"MONAI Label is {found['monailabel']}; {TESTED} was tested.")
    return found, warnings


def _refuse_broken_server() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise LabelAppError(f"MONAI Label cannot be imported: {reason[-1]} See docs/how-to/monai-label.md.")


def _refuse_same_names(bundles: Sequence[Path]) -> None:
    names = [bundle.name for bundle in bundles]
    same = [str(bundle) for bundle in bundles if names.count(bundle.name) > 1]
    if same:
        raise LabelAppError(
            f"Several bundles have the same name, by which the server tells them apart: {first_few(same)}. Rename a "
            f"folder, or name each bundle once."
        )


def _refuse_unready(bundle: Path) -> None:
    missing = [name for name in NEEDED if not (bundle / name).is_file()]
    if missing:
        train = " Train the bundle first." if missing == ["models/model.pt"] else ""
        raise LabelAppError(f"{bundle} cannot be served: {first_few(missing)} is missing.{train}")
    if not any(task in bundle.name for task in ("segmentation", "classification")):
        raise LabelAppError(
            f"{bundle.name} cannot be served: MONAI Label takes the task from the folder's name, which must contain "
            f"segmentation or classification."
        )
    describe_checkpoint(bundle / "models/model.pt")
    _output_names(bundle)


def _copy_app(folder: Path) -> None:
    """By the server's own command, which knows where it keeps its apps."""
    if folder.exists() and any(folder.iterdir()):
        raise LabelAppError(f"{folder} holds something else; name a new folder, or one that label-app has made.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder) as unfinished:
        words = ["monailabel.main", "apps", "--name", "monaibundle", "--download", "--output", str(unfinished)]
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, encoding="utf-8", check=False)
        copied = unfinished / "monaibundle"
        if not (copied / "main.py").is_file():
            raise LabelAppError(f"MONAI Label did not copy its bundle app: {(done.stderr or done.stdout).strip()}")
        for part in list(copied.iterdir()):
            part.rename(unfinished / part.name)
        copied.rmdir()
        (unfinished / "main.py").rename(unfinished / "bundle_app.py")
        shutil.copyfile(Path(__file__).with_name("main.py.txt"), unfinished / "main.py")
        (unfinished / "model").mkdir(exist_ok=True)
        if folder.exists():
            folder.rmdir()


def _copy_bundle(bundle: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as unfinished:
        shutil.copytree(bundle, unfinished, ignore=NOT_COPIED)
        if names := _output_names(bundle):
            _name_outputs(unfinished / "configs/metadata.json", names)


def _output_names(bundle: Path) -> list[str]:
    """What the reader sees: the classes or regions that this model was trained for; none where nothing was written."""
    settings = trained_settings(bundle / "models/model.pt", classes=(), regions=())
    return list(settings["classes"] or (settings["regions"] and ["background", *settings["regions"]]))


def _name_outputs(metadata: Path, names: Sequence[str]) -> None:
    content = json.loads(metadata.read_text(encoding="utf-8"))
    output = next(iter(content["network_data_format"]["outputs"].values()))
    output["channel_def"] = {str(number): name for number, name in enumerate(names)}
    metadata.write_text(json.dumps(content, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _command(folder: Path, studies: Path, names: Sequence[str], host: str, port: int) -> str:
    """By the module: the script `monailabel` takes paths with spaces apart."""
    conf = {"models": ",".join(names), "zoo_source": "local", "sam2": "false"}
    words = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(folder), "--studies", str(studies)]
    for key, value in conf.items():
        words += ["--conf", key, value]
    return shlex.join([*words, "--host", host, "--port", str(port)])
