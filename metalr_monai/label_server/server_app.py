"""What is added to MONAI Label's own bundle app; the only module that imports the server, and runs in it alone.

Reasons are given to whoever asked (the server would say "Internal Server Error"), a file that is no model of the bundle
is refused, trainings of one bundle run one at a time, and studies can be ranked by the network's doubt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from filelock import FileLock, Timeout
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from torch import nn

from ..errors import DataError, MetaLRError, OptionError, WeightsError, near_misses, own_error
from ..handlers.report_page import REPORT_FILE
from ..handlers.served_training import model_files, part_served, safe_request
from ..weights.read import UNREADABLE
from .scores import EpistemicScore, OnePassScore

logger = logging.getLogger(__name__)

DROPOUT = 0.2


class ServedBundles:
    """Mixin before the server's `MyApp` of its bundle app: see the module."""

    models: dict[str, str]
    conf: dict[str, str]

    def init_infers(self) -> dict[str, Any]:
        """One task a bundle, which takes only files that hold all of its network's weights."""
        return {name: ServedInferTask(path, self.conf, load_strict=True) for name, path in self.models.items()}

    def init_trainers(self) -> dict[str, Any]:
        """One task a bundle."""
        tasks = {name: ServedTrainTask(path, self.conf) for name, path in self.models.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Two a bundle, `NAME_one_pass` and `NAME_epistemic`."""
        passes = int(self.conf.get("epistemic_simulation_size", "5"))
        dropout = float(self.conf.get("epistemic_dropout", str(DROPOUT)))
        methods: dict[str, Any] = {}
        for name, path in self.models.items():
            methods[f"{name}_one_pass"] = OnePassScore(ServedInferTask.raw(path, self.conf), f"{name}_one_pass")
            task = ServedInferTask.raw(path, self.conf, dropout=dropout)
            methods[f"{name}_epistemic"] = EpistemicScore(task, f"{name}_epistemic", passes)
        return methods

    def init_strategies(self) -> dict[str, Any]:
        """The server's own, and for each score the study of the highest one."""
        strategies: dict[str, Any] = super().init_strategies()  # type: ignore[misc]  # of the class behind
        for name in self.models:
            for kind, words in (("one_pass", "in one pass"), ("epistemic", "between passes with dropout")):
                key = f"{name}_{kind}"
                strategies[key] = Epistemic(key=key, desc=f"The study that the network doubts most, {words}")
        return strategies

    def infer(self, request: dict[str, Any], datastore: Any = None) -> Any:  # noqa: ANN401
        """As the server's; what was wrong with the study or the model is told."""
        image = request.get("image")
        store = datastore or self.datastore()  # type: ignore[attr-defined]
        if isinstance(image, str) and not Path(image).exists() and not store.get_image_uri(image):
            near = near_misses(image, store.list_images())
            raise HTTPException(404, f"There is no study {image!r}.{near}")
        with _told():
            return super().infer(request, datastore)  # type: ignore[misc]

    def batch_infer(self, request: dict[str, Any], datastore: Any = None) -> Any:  # noqa: ANN401
        """As the server's; a study that fails does not stop the others."""

        def one(request: dict[str, Any], datastore: Any = None) -> Any:  # noqa: ANN401
            try:
                return self.infer(request, datastore)
            except HTTPException as error:
                logger.error("%s: %s", request.get("image"), error.detail)
                return {"error": error.detail}

        gpus = torch.cuda.is_available() and request.get("multi_gpu", True)  # the server's default, also without a GPU
        known = {**request, "multi_gpu": gpus}
        return self._batch_infer(known, datastore or self.datastore(), one)  # type: ignore[attr-defined]

    def train(self, request: dict[str, Any]) -> Any:  # noqa: ANN401
        """As the server's; what was wrong with labels or options is told."""
        with _told():
            return super().train(request)  # type: ignore[misc]


class ServedInferTask(BundleInferTask):  # type: ignore[misc]  # MONAI Label is untyped
    """The server's task of a bundle; in passes with dropout nothing but the dropout layers is in training mode."""

    @classmethod
    def raw(cls, path: str, conf: dict[str, str], dropout: float = 0.0) -> ServedInferTask:
        """A task that returns probabilities on the network's own grid, as scores need them."""
        return cls(path, conf, load_strict=True, skip_writer=True, dropout=dropout, add_post_restore=False)

    def post_transforms(self, data: Any = None) -> Any:  # noqa: ANN401
        """The bundle's; of a raw task only what makes probabilities of the network's output, the first of them."""
        found = super().post_transforms(data)
        return found[:1] if self.skip_writer else found

    def run_pre_transforms(self, data: Any, transforms: Any) -> Any:  # noqa: ANN401
        """What a reader of files says of one that it cannot read comes from many libraries; here it gets a name."""
        try:
            return super().run_pre_transforms(data, transforms)
        except MetaLRError:
            raise
        except Exception as error:
            study, model = Path(str(data.get("image_path") or data.get("path_image"))).name, Path(self.bundle_path).name
            wanted = "a volume: NIfTI" if self.dimension == 3 else "a picture: PNG or JPEG"
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"{study} cannot be read for {model}, which takes {wanted}. {reason}") from error

    def _get_network(self, device: str, data: Any) -> nn.Module:  # noqa: ANN401
        try:
            network: nn.Module = super()._get_network(device, data)
        except UNREADABLE as error:
            reason = (str(error) or type(error).__name__).splitlines()
            raise WeightsError(
                f"The model of {Path(self.bundle_path).name} is refused: it does not hold the weights of this network "
                f"({'; '.join(line.strip() for line in reason[:3])}). Put the right file into "
                f"{Path(self.bundle_path) / 'models'}."
            ) from error
        if self.dropout:
            for module in network.modules():
                if isinstance(module, nn.modules.dropout._DropoutNd):
                    module.train()
        return network


class ServedTrainTask(BundleTrainTask):  # type: ignore[misc]
    """The server's task of a bundle, for clients that leave options out, and one at a time."""

    def config(self) -> dict[str, Any]:
        """The options panel."""
        return {**super().config(), "model_filename": self._models()}

    def stats(self) -> dict[str, Any]:
        """What Slicer shows as the accuracy, and the scores before and after, of the last training."""
        try:
            report = json.loads((Path(self.bundle_path) / "runs/label_server" / REPORT_FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        key = report.get("key_metric") or {}
        return {
            "epoch": len(report.get("epochs", [])),
            "best_metric": key.get("last") or 0.0,
            "before": key.get("before"),
            "status": report.get("status"),
            "warnings": report.get("warnings"),
        }

    def __call__(self, request: dict[str, Any], datastore: Any) -> Any:  # noqa: ANN401
        """Train, in one process: the server takes no notice of several that fail."""
        panel = {**self.bundle_config.get_parsed_content("displayable_configs"), "model_filename": self._models()}
        known = safe_request(request, panel, Path(self.bundle_path) / "models")
        try:
            with FileLock(Path(self.bundle_path) / ".training.lock", timeout=0):
                return super().__call__(known, datastore)
        except Timeout:
            name = Path(self.bundle_path).name
            raise OptionError(f"{name} is being trained already; wait for it, or stop that training.") from None

    def _partition_datalist(self, datalist: Any, request: Any, shuffle: bool = False) -> Any:  # noqa: ANN401
        return part_served(datalist, request.get("val_split", 0.2))

    def _models(self) -> list[str]:
        return model_files(Path(self.bundle_path) / "models")


@contextmanager
def _told() -> Iterator[None]:
    """An error as an answer of the server with its message: 400 what this package refuses, 500 anything else."""
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:  # whatever a config, MONAI or the server wrapped it in
        told = own_error(error)
        if told is None:
            logger.exception("A request failed")
            raise HTTPException(500, f"{type(_first_cause(error)).__name__}: {_first_cause(error)}") from error
        raise HTTPException(400, f"{type(told).__name__}: {told}") from error


def _first_cause(error: BaseException) -> BaseException:
    """Without what MONAI wraps around it, which says only where in a config it was."""
    return error if error.__cause__ is None else _first_cause(error.__cause__)
