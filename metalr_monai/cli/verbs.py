"""What the command line can do: each verb is a thin function over the library.

A verb's signature and docstring are its usage: positional arguments are words, keyword-only ones are flags.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from monai.bundle import run as run_config

from .. import (
    check_images,
    check_volumes,
    data_list,
    describe_checkpoint,
    image_list,
    write_report_page,
)
from ..data.ct_lists import READERS
from ..data.image_lists import IMAGE_READERS
from ..data.phantom_kinds import PHANTOMS
from ..doctor.bundle import diagnose
from ..errors import MetaLRError, OptionError, first_few, near_misses, own_error
from ..handlers import run_facts
from ..planning.stages import open_plan
from ..planning.workspace import workspace
from . import planning_verbs
from .answer import Answer

if TYPE_CHECKING:
    from ..study.study import Outcome


class BundleError(MetaLRError, ValueError):
    """A bundle lacks what a verb needs of it, or did nothing."""


Verb = Callable[..., Answer]


def info() -> Answer:
    """Show the versions of the packages, and the machine."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = {"versions": run_facts.versions(), "machine": run_facts.machine(device)}
    rows = [(name, value) for part in data.values() for name, value in part.items()]
    return Answer(data, "\n".join(f"{name:<16}{value}" for name, value in rows))


def inspect_checkpoint(checkpoint: str) -> Answer:
    """Say what a checkpoint holds: network, tensors, names, epoch; or a file of nnU-Net's, its axes turned to x, y, z.

    CHECKPOINT: its file; or nnU-Net's nnUNetPlans.json or dataset_fingerprint.json.
    """
    if checkpoint.endswith(".json"):
        return planning_verbs.inspect_nnunet(checkpoint)
    found = describe_checkpoint(checkpoint)
    return Answer(found.to_dict(), str(found))


def doctor(bundle: str, *, overlays: str | None = None) -> Answer:
    """Name what is wrong with a bundle, id by id, without running it; exit code 2 if there is something.

    References that lead nowhere, targets that do not exist, arguments that a target does not take, expressions that are
    no Python, keys of an overlay that change nothing, packages that are missing; then the network is built, and
    models/model.pt loaded into it. A bundle's config is code: look only into those of people you trust.

    BUNDLE: its folder.
    --overlays: config files, with commas between, to be read on top of the bundle's train.json, as a training would.
    """
    named = [Path(name.strip()).expanduser().absolute() for name in (overlays or "").split(",") if name.strip()]
    found = diagnose(Path(bundle).expanduser().absolute(), named)
    rows = [f"{name}: {count} ids, no fault" for name, count in found.checked.items() if count]
    rows += [f"Note: {note}" for note in found.notes]
    rows += [f"FAULT in {fault}" for fault in found.faults]
    return Answer(dataclasses.asdict(found), "\n".join(rows), not found.faults)


def phantoms(
    kind: str,
    folder: str,
    *,
    count: int | None = None,
    seed: int = 0,
    phase: str | None = None,
    size: Sequence[int] | None = None,
) -> Answer:
    """Write generated, labelled images into a new folder.

    KIND: lits, abdominal CT with liver and tumours; pocus, frames of lung ultrasound; busi, breast ultrasound.
    --count: lits: scans, 131 unless told otherwise; pocus: videos a class (40); busi: images a class (100).
    --seed: the series of images, 0 unless told otherwise.
    --phase: lits alone: contrast medium, plain (none), venous or mixed, which it is unless told otherwise.
    --size: lits alone: voxels such as 112,112,64, of the same 340×340×200 mm; 64,64,32 unless told otherwise.
    """
    if kind not in PHANTOMS:
        raise OptionError(
            f"There are no phantoms of kind {kind!r}; known: {', '.join(PHANTOMS)}.{near_misses(kind, PHANTOMS)}"
        )
    given = {name: value for name, value in (("phase", phase), ("size", size)) if value is not None}
    if given and kind != "lits":
        name, value = next(iter(given.items()))
        raise OptionError(f"--{name} is {value!r}, and is for phantoms of kind lits; those of kind {kind} have none.")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise OptionError(f"count is {count!r}; expected how many phantoms to write, a whole number, 1 or more.")
    written = PHANTOMS[kind](folder, *([] if count is None else [count]), seed=seed, **given)
    files = [str(path) for path in written]
    about = {"kind": kind, "folder": folder, "count": len(files), "seed": seed}
    what = "volumes" if kind == "lits" else "images"
    return Answer({**about, **given, what: files}, f"{len(files)} phantoms of kind {kind} in {folder}")


def check_data(kind: str, folder: str, *, voxels: bool = False, labels: Sequence[int] | None = None) -> Answer:
    """Name everything that is wrong with a data set; exit code 2 if there are errors.

    KIND: layout of the folder: lits, msd, nnunet or pairs for CT; pocus, busi or chest_xray for labelled images, which
    are decoded in any case.
    --voxels: read the voxels besides the headers.
    --labels: the values that a label may hold, such as 0,1,2 (which it is unless told otherwise); reads the voxels.
    """
    if kind in IMAGE_READERS:
        if labels is not None:
            raise OptionError(f"--labels is for masks of CT; images of kind {kind} have classes, by folder or name.")
        pictures = check_images(image_list(kind, folder))
        return Answer(pictures.to_dict(), str(pictures), pictures.ok)
    if kind not in READERS:
        known_kinds = (*READERS, *IMAGE_READERS)
        raise OptionError(
            f"Unknown kind of data {kind!r}; known: {', '.join(known_kinds)}.{near_misses(kind, known_kinds)}"
        )
    known: dict[str, Any] = {} if labels is None else {"labels": _label_values(labels)}
    found = check_volumes(data_list(kind, folder), voxels=voxels or labels is not None, **known)
    return Answer(found.to_dict(), str(found), found.ok)


def report(folder: str, *, mixed: bool = False) -> Answer:
    """Write report.html anew from the files of a run's folder, or all results of a study's.

    --mixed: of a study, take runs of different code, data or source networks together.
    """
    if (Path(folder) / "study.json").is_file():
        _refuse_windows()
        from ..study.study import Outcome, report_study

        page, skipped = report_study(Path(folder), mixed=mixed)
        return _study_answer(Outcome(page, (), skipped))
    page = write_report_page(folder)
    return Answer({"page": str(page)}, str(page))


def study(
    file: str,
    output: str,
    *,
    data: str | None = None,
    checkpoint: str | None = None,
    seeds: int | None = None,
    schemes: str | None = None,
    workers: int = 1,
    executor: str = "local",
    dry_run: bool = False,
    mixed: bool = False,
) -> Answer:
    """Compare fine-tuning schemes: run what a study file asks for, and write tables, figures and a report.

    FILE: such as configs/studies/xray_to_busi.yaml. OUTPUT: folder of the study; what is done there is not run again.
    --data: the folder that the study's data is in.
    --checkpoint: pre-trained weights, in place of the study's source network.
    --seeds: how many; those of the file unless told otherwise.
    --schemes: some of the study's, such as "all layers; MetaLR"; in a sweep each with all its start rates.
    --workers: trainings at a time, 1 unless told otherwise.
    --executor: local, or ray for the cluster of RAY_ADDRESS.
    --dry-run: only say what would run, and how long it would take.
    --mixed: take runs of different code, data or source networks together.
    """
    _refuse_windows()
    from ..study.study import plan_study, run_study
    from ..study.study_file import read_study

    for name, value in (("seeds", 1 if seeds is None else seeds), ("workers", workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"--{name} is {value!r}; expected a whole number, 1 or more.")
    read, folder = read_study(file), Path(output).expanduser().absolute()
    place, weights = (None if path is None else Path(path).expanduser().absolute() for path in (data, checkpoint))
    names = None if schemes is None else [name.strip() for name in schemes.split(";")]
    if dry_run:
        plan = plan_study(read, folder, data=place, checkpoint=weights, seeds=seeds, schemes=names, workers=workers)
        return Answer({"plan": plan}, plan)
    words = [
        "python -m metalr_monai study",
        file,
        "OUTPUT",
        *(["--data DATA"] if data else []),
        *(["--checkpoint FILE"] if checkpoint else []),
    ]
    flags = [
        f"--seeds {read.seeds if seeds is None else seeds}",
        *([f'--schemes "{schemes}"'] if schemes else []),
        *([f"--workers {workers}"] if workers > 1 else []),
        *([f"--executor {executor}"] if executor != "local" else []),
        *(["--mixed"] if mixed else []),
    ]
    command = " ".join([*words, *flags])
    return _study_answer(
        run_study(
            read,
            folder,
            command=command,
            data=place,
            checkpoint=weights,
            seeds=seeds,
            schemes=names,
            workers=workers,
            executor=executor,
            mixed=mixed,
        )
    )


def predict(
    bundle: str,
    input: str,
    output: str,
    *,
    dicom_seg: bool = False,
    fold: int | str = "all",
    no_mirroring: bool = False,
) -> Answer:
    """Run a trained bundle, or the folds of a plan, on a folder of images.

    BUNDLE: folder of the bundle, with configs/inference.json and models/model.pt; or a plan.json, or its folder.
    INPUT: folder of the images, NIfTI files or DICOM series of CT, or pictures to classify, in it or below it.
    OUTPUT: folder for the results; is made if it is missing.
    --dicom-seg: of each DICOM series a DICOM SEG, too (extra dicom); not by a plan.
    --fold: of a plan, one fold's network in place of the mean of all.
    --no-mirroring: of a plan from scratch, 8 times as fast.
    """
    root, images, results = (Path(path).expanduser().absolute() for path in (bundle, input, output))
    run: Callable[[Path, Path], Answer]
    if workspace(root).plan.is_file():
        if dicom_seg:
            raise OptionError("--dicom-seg is for bundles; by a plan label maps are written as NIfTI.")
        run = partial(planning_verbs.predict_by_plan, open_plan(root), fold=fold, mirroring=not no_mirroring)
    else:
        if fold != "all" or no_mirroring:
            raise OptionError(f"--fold and --no-mirroring are for plans; {root} is a bundle, or has no plan.json.")
        run = partial(_predict_by_bundle, root, _inference_config(root, dicom_seg), dicom_seg)
    if not images.exists():
        raise OptionError(f"There is no {images}; expected the folder of the images to predict.")
    if results.exists() and not results.is_dir():
        raise OptionError(f"{results} is a file; results are written into a folder. Name a new or an existing folder.")
    return run(images, results)


def label_app(
    folder: str,
    *,
    studies: str | None = None,
    bundles: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> Answer:
    """Prepare a folder that MONAI Label is started on, for readers in 3D Slicer; nothing is downloaded.

    FOLDER: of the app; made, or, if this verb made it before, left as it is but for bundles that it lacks.
    --studies: folder of the images to label, and of the labels; required.
    --bundles: folders of trained bundles, with commas between; those below ./bundles unless told otherwise.
    --host, --port: where the server will listen, 127.0.0.1 and 8000 unless told otherwise.
    """
    from ..label_server.app_folder import prepare_app, trained_bundles

    if studies is None:
        raise OptionError("label-app needs --studies FOLDER, where the images to label are.")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise OptionError(f"--port is {port!r}; expected a whole number, 1 … 65,535.")
    place, images = (Path(path).expanduser().absolute() for path in (folder, studies))
    named = [Path(name.strip()).expanduser().absolute() for name in (bundles or "").split(",") if name.strip()]
    app = prepare_app(place, images, named or trained_bundles(Path("bundles").absolute()), host=host, port=port)
    data = {**dataclasses.asdict(app), "folder": str(app.folder)}
    rows = [
        *(f"{name:<12}{value}" for name, value in app.versions.items()),
        f"{'app':<12}{app.folder}",
        *(f"{'bundle':<12}{name}{' (was there, left as it is)' if name in app.kept else ''}" for name in app.bundles),
        f"{'studies':<12}{app.studies} in {images}, {app.labelled} labelled",
        *(f"{'warning':<12}{line}" for line in app.warnings),
        "Start the server:",
        f"  {app.command}",
        f"and name it in Slicer's MONAI Label module: http://{host}:{port}",
    ]
    return Answer(data, "\n".join(rows))


VERBS: dict[str, Verb] = {
    "info": info,
    "doctor": doctor,
    "inspect": inspect_checkpoint,
    "phantoms": phantoms,
    "check-data": check_data,
    "report": report,
    "predict": predict,
    "study": study,
    "label-app": label_app,
    "plan": planning_verbs.plan,
    "preprocess": planning_verbs.preprocess,
    "train": planning_verbs.train,
    "evaluate": planning_verbs.evaluate,
    "postprocess": planning_verbs.postprocess,
    "run-all": planning_verbs.run_all,
    "import-nnunet": planning_verbs.import_nnunet,
    "export-nnunet": planning_verbs.export_nnunet,
}


def _refuse_windows() -> None:
    """Why studies are imported late: the import itself fails there."""
    if os.name != "posix":
        raise OptionError("Studies need Linux or macOS: runs are forked, and their folders are locked.")


def _study_answer(outcome: Outcome) -> Answer:
    failed = [f"failed: {failure.scheme}, seed {failure.seed}: {failure.reason}" for failure in outcome.failures]
    skipped = [f"not in the results: {folder} ({reason})" for folder, reason in outcome.skipped.items()]
    page = "No run of the baseline has been scored yet." if outcome.page is None else str(outcome.page)
    data = {"page": outcome.page and str(outcome.page), "failed": failed, "skipped": skipped}
    return Answer(data, "\n".join([*failed, *skipped, page]), outcome.ok)


def _label_values(labels: object) -> tuple[int, ...]:
    values = tuple(labels) if isinstance(labels, (tuple, list)) else (labels,)
    if not values or any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise OptionError(f"--labels is {labels!r}; expected the values that a label may hold, such as 0,1,2.")
    return values


def _inference_config(root: Path, dicom_seg: bool) -> Path:
    """The bundle's inference.json, once it is known that it can run and takes what is overridden."""
    config, model = root / "configs" / "inference.json", root / "models" / "model.pt"
    if not root.is_dir():
        raise BundleError(f"There is no folder {root}; expected a bundle.")
    if not config.is_file():
        raise BundleError(f"{config} is missing; expected a bundle with a config for inference.")
    if not model.is_file():
        raise BundleError(f"{model} is missing; train the bundle first, or put trained weights there.")
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{config} is not valid JSON: {error}.") from error
    missing = [key for key in ("bundle_root", "dataset_dir", "output_dir") if key not in content]
    if missing:
        raise BundleError(f"{config} has no {', '.join(missing)}; expected the keys that choose input and output.")
    if dicom_seg and "dicom_seg" not in content:
        raise BundleError(f"{config} has no dicom_seg: this bundle writes no DICOM SEG.")
    return config


def _predict_by_bundle(root: Path, config: Path, dicom_seg: bool, images: Path, results: Path) -> Answer:
    results.mkdir(parents=True, exist_ok=True)
    before = _moments(results)
    asked = {"dicom_seg": True} if dicom_seg else {}
    try:
        common = {"bundle_root": str(root), "dataset_dir": str(images), "output_dir": str(results)}
        run_config(config_file=str(config), **common, **asked)
    except RuntimeError as error:
        if (wrapped := own_error(error)) is None:
            raise
        raise wrapped from None
    written = sorted(str(path) for path, moment in _moments(results).items() if before.get(path) != moment)
    if not written:
        raise BundleError(f"{config} ran, but wrote nothing into {results}; does it use its key output_dir?")
    data = {"bundle": str(root), "input": str(images), "output": str(results), "files": written}
    return Answer(data, f"{len(written)} file(s) in {results}: {first_few([Path(path).name for path in written])}")


def _moments(folder: Path) -> dict[Path, int]:
    """When each file below `folder` was last written, ns."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
