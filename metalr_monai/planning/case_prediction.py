"""Label maps of a plan's networks: the bundle's own inference under an overlay, case by case, so that one that fails
does not stop the others."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import SaveImage
from tqdm import tqdm

from ..data.largest_component import LargestComponentd
from ..errors import DataError, StateError, first_few, own_error
from ..files import atomic_path
from ..weights.read import find_state_dict, read_checkpoint
from .file_marks import mark
from .fold_training import bundle_of
from .networks import network_config
from .plan import Plan

logger = logging.getLogger(__name__)
UNFINISHED = ".unfinished"
MARK = "predicted_by.json"
AS_PLANNED = ("hu_window", "value_range", "spacing", "patch_size", "overlap", "bfloat16")


@dataclass(frozen=True)
class Predicted:
    """What became of the cases.

    Attributes:
        files: case → its label map, those that were there before among them.
        failed: case → why it has none.
    """

    files: Mapping[str, Path]
    failed: Mapping[str, str]


def predict_cases(
    plan: Plan,
    networks: Sequence[Path],
    items: Sequence[Mapping[str, Any]],
    output: Path,
    *,
    keep: Sequence[Sequence[int]] = (),
    mirroring: bool = True,
    progress: bool = True,
) -> Predicted:
    """Write `<case>.nii.gz` for each item: the data set's labels, uint8, on the grid of the item's image.

    Args:
        plan: what the networks were trained by.
        networks: their files; several are averaged.
        items: "image" and "case_id"; a case whose file is there is left as it is.
        output: folder of the label maps.
        keep: sets of labels of which the largest component is kept, one after the other.
        mirroring: as the plan has it; False leaves it out.
        progress: show a bar with the time left on standard error.

    Raises:
        StateError: there are label maps in `output` that were made otherwise.
    """
    overlay = inference_overlay(plan, len(networks), keep, mirroring=mirroring)
    files = {str(item["case_id"]): output / f"{item['case_id']}.nii.gz" for item in items}
    todo = [item for item in items if not files[str(item["case_id"])].exists()]
    _mark(output, [*files.values()], {"networks": [mark(file)["sha256"] for file in networks], "overlay": overlay})
    failed: dict[str, str] = {}
    bundle: _Bundle | None = None
    for item in tqdm(todo, desc="predict", unit="case", disable=not (progress and todo)):
        case = str(item["case_id"])
        bundle = bundle or _open_bundle(plan, networks, overlay)
        try:
            _write(bundle.label(item), files[case])
        except Exception as error:
            failed[case] = _reason(error)
            logger.error("Case %s failed: %s", case, failed[case], exc_info=own_error(error) is None)
            bundle = None  # Ignite's next run would end at once, and leave this one's output
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    return Predicted({case: file for case, file in files.items() if case not in failed}, failed)


def _mark(output: Path, files: Sequence[Path], made_by: Mapping[str, Any]) -> None:
    """Label maps that are there count as done only if they were made alike."""
    file, text = output / MARK, json.dumps(made_by, indent=1, ensure_ascii=False) + "\n"
    there = [path.name for path in files if path.exists()]
    if there and (not file.is_file() or file.read_text(encoding="utf-8") != text):
        raise StateError(
            f"{output} holds label maps that were made otherwise, by other networks or settings: {first_few(there)}. "
            f"Name another folder, or remove them."
        )
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class _Bundle:
    """What the bundle's inference.json makes, with the networks' weights."""

    evaluator: SupervisedEvaluator
    preprocessing: Any

    def label(self, item: Mapping[str, Any]) -> MetaTensor:
        """(1, H, W, D), on the grid of the image's file."""
        self.evaluator.data_loader = DataLoader(Dataset([{"image": item["image"]}], self.preprocessing), batch_size=1)
        self.evaluator.state.epoch_length = 1  # which MONAI has set for the data set of the config, an empty one
        self.evaluator.run()
        output = self.evaluator.state.output[0]
        if not bool(output["image"].isfinite().all()):
            raise DataError(f"{item['image']} has voxels that are NaN; correct the image.")
        label: MetaTensor = output["pred"]
        self.evaluator.state.output = None  # or the case would stay in memory beside the next
        return label


def _write(label: MetaTensor, file: Path) -> None:
    """Whole or not at all: a file that is there counts as done."""
    unfinished = file.parent / UNFINISHED
    save = SaveImage(
        output_dir=unfinished,
        output_postfix="",
        output_dtype="uint8",
        separate_folder=False,
        resample=False,
        print_log=False,
        output_name_formatter=partial(_named, file.name),
    )
    save(label)
    os.replace(unfinished / file.name, file)


def _named(name: str, meta: dict[str, Any], saver: Any) -> dict[str, Any]:  # noqa: ANN401 - as MONAI calls it
    return {"subject": name, "idx": None}


def _open_bundle(plan: Plan, networks: Sequence[Path], overlay: Mapping[str, Any]) -> _Bundle:
    bundle = bundle_of(plan)
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs/inference.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="inference",
        bundle_root=str(bundle),
        **overlay,
    )
    workflow.initialize()
    parser = workflow.parser
    ensemble = parser.get_parsed_content("network_def")
    for network, file in zip(ensemble.networks, networks, strict=True):
        network.load_state_dict(find_state_dict(read_checkpoint(file), str(file)).tensors)
    return _Bundle(parser.get_parsed_content("evaluator"), parser.get_parsed_content("preprocessing"))


def inference_overlay(plan: Plan, networks: int, keep: Sequence[Sequence[int]], *, mirroring: bool) -> dict[str, Any]:
    """The keys of the bundle's inference.json that a plan sets; cases are given one by one, and saved by the caller."""
    config = network_config(plan)
    largest = [
        {"_target_": f"metalr_monai.{LargestComponentd.__name__}", "keys": "pred", "applied_labels": list(labels)}
        for labels in keep
    ]
    return {
        **{name: plan[name] for name in AS_PLANNED},
        "regions": plan.regions,
        **{name: value for name, value in config.items() if name == "network"},
        "network_def": {
            "_target_": "metalr_monai.FoldEnsemble",
            "networks": [config["network_def"]] * networks,
            "mirror_axes": plan["mirror_axes"] if mirroring else [],
        },
        "dataset#data": [],
        "handlers": [],
        "postprocessing#transforms": [
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {
                "_target_": "metalr_monai.InvertToLabeld",
                "keys": "pred",
                "orig_keys": "image",
                "transform": "@preprocessing",
                "values": plan.output_values,
            },
            *largest,
        ],
        "initialize": [],
    }


def _reason(error: BaseException) -> str:
    """In a line: the first error of this package that led to it, else the error itself."""
    known = own_error(error)
    return str(known) if known else f"{type(error).__name__}: {error}".splitlines()[0]
