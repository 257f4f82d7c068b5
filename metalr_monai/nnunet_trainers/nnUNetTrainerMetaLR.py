"""nnU-Net's own training, with one learned rate per block.

`nnUNetv2_train DATASET 3d_fullres 0 -tr nnUNetTrainerMetaLR`, and the commands that use what it trained, find this file
when the environment variable `nnUNet_extTrainer` names its folder (nnU-Net 2.8).
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, autocast, nn
from torch.optim import Optimizer

from metalr_monai import MetaLR, RateHistory, blocks, param_groups, save_rates
from metalr_monai.errors import OptionError, StateError
from metalr_monai.rates.parameter_names import named_parameters

OPTIONS_VARIABLE: Final = "nnUNet_metalr"
OPTIONS: Final[Mapping[str, Any]] = {"rule": "exponential", "scale": "cosine", "renormalize": True, "one_pass": True}

# name of a block ← names of parameters in nnU-Net's U-Nets, plain and residual
_STAGES: Final = {
    "encoder.stem": r"encoder\.stem\.",
    r"encoder.stages.\1": r"encoder\.stages\.(\d+)\.",
    r"decoder.stages.\1": r"decoder\.(?:transpconvs|stages)\.(\d+)\.",
    "decoder.seg_layers": r"decoder\.seg_layers\.",
}
_STATE_KEY: Final = "metalr"


class nnUNetTrainerMetaLR(nnUNetTrainer):  # type: ignore[misc]  # nnU-Net is untyped
    """nnU-Net's trainer, in which each block b of the network has its own rate lr_b = s·m_b.

    s is the rate that nnU-Net's schedule has for the epoch (poly: lr0·(1 − epoch/epochs)^0.9), and m_b the block's
    multiplier, which `metalr_monai.MetaLR` learns at every step; their geometric mean stays 1. Blocks are the stages of
    encoder and decoder (a transposed convolution is with the stage that it leads to) and, together, the layers that
    make the segmentations; networks of another build get the blocks of `metalr_monai.blocks(network, "auto")`.

    Everything else is nnU-Net's: network, loss, deep supervision, optimizer and its settings, clipping, mixed
    precision, augmentation, `-pretrained_weights` and `--c`. Rates and multipliers are in the `optimizer_state` of its
    checkpoints; `rates.csv` in the output folder has a row an epoch: the rates of the epoch's last step, and the
    mean h of its steps. (The "Current learning rate" of nnU-Net's log and picture is the first block's.)

    The gradient by which rates are judged is that of the next training batch, after nnU-Net's clipping, which costs no
    pass. `nnUNet_metalr='{"one_pass": false}'` takes another batch of the training data for it, which doubles a step.
    This environment variable holds any options of `metalr_monai.MetaLR` as JSON, on top of `OPTIONS`; `--c` and `--val`
    need it as it was.

    Attributes:
        tuner: the `MetaLR`, from `initialize` on.
        rates: a `RateHistory` with one row an epoch.
    """

    tuner: MetaLR
    rates: RateHistory

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """nnU-Net's optimizer over one group a block; its schedule goes on writing into one that never steps."""
        self._stock_optimizer, scheduler = super().configure_optimizers()
        groups = param_groups(self.network, blocks(self.network, _block_patterns(self.network)), self.initial_lr)
        return type(self._stock_optimizer)(groups, **self._stock_optimizer.defaults), scheduler

    def initialize(self) -> None:
        """Make network and optimizer as nnU-Net does, and the tuner for them.

        Raises:
            OptionError: the environment variable `nnUNet_metalr` holds no options of MetaLR.
        """
        self._options = _options()
        super().initialize()
        # The network has its wrappers by now: torch.compile, DDP.
        self.tuner = MetaLR(
            self.optimizer, self.network, scaler=self.grad_scaler, schedule=self._common_rate, **self._options
        )
        if not self.tuner.options.one_pass:
            self.tuner.meta_loss = self._meta_loss
        self.rates = RateHistory(self.tuner.names)
        self._carry_state()
        self.print_to_log_file(
            f"MetaLR learns the rates of these blocks with {self._options}:\n{self.tuner.describe()}"
        )

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the epoch's rates; they are in the checkpoint that nnU-Net may write after the validation."""
        super().on_train_epoch_end(train_outputs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.tuner.end_epoch()
        for warning in caught:
            self.print_to_log_file(f"WARNING: MetaLR: {warning.message}")
        self._close_epoch()
        rates = ", ".join(f"{name} {rate:.2e}" for name, rate in self.tuner.lrs.items())
        counts = ", ".join(f"{count} {name}" for name, count in self.tuner.counts.items())
        self.print_to_log_file(f"MetaLR: {self._common_rate():.2e} became {rates} ({counts})")

    def _common_rate(self, step: int = 0) -> float:
        """s of the present epoch, whatever the step."""
        return float(self._stock_optimizer.param_groups[0]["lr"])

    def _meta_loss(self) -> Tensor:
        """The loss of another training batch, as in nnU-Net's `train_step`."""
        batch = next(self.dataloader_train)
        data, target = _on_device(batch["data"], self.device), _on_device(batch["target"], self.device)
        with autocast(self.device.type) if self.device.type == "cuda" else nullcontext():
            loss: Tensor = self.loss(self.network(data), target)
        return loss

    def _close_epoch(self) -> None:
        """One row of the steps' records: a whole training has too many for memory and checkpoints."""
        steps = self.tuner.history
        if len(steps):
            step, epoch, meta_loss, *_ = next(steps.rows(len(steps) - 1))
            rates, h = steps.rates[-1].tolist(), steps.hypergradients.nanmean(dim=0).tolist()
            self.rates.add(int(step), int(epoch), meta_loss, rates, h)
        self.tuner.history = RateHistory(self.tuner.names)
        if self.local_rank == 0:
            save_rates(self.rates, Path(self.output_folder) / "rates.csv")

    def _carry_state(self) -> None:
        """Let nnU-Net's checkpoints, which hold the optimizer's state, hold the tuner's with it."""

        def add(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
            own = {"tuner": self.tuner.state_dict(), "rates": self.rates.state_dict(), "options": self._options}
            return {**state, _STATE_KEY: own}

        def take(optimizer: Optimizer, state: dict[str, Any]) -> None:
            if _STATE_KEY not in state:
                raise StateError(
                    "The checkpoint has no rates of MetaLR: another trainer wrote it. "
                    "To start from its weights, give it to -pretrained_weights instead of --c."
                )
            before = state[_STATE_KEY]["options"]
            if before != self._options:
                raise StateError(
                    f"The checkpoint was trained with the options {json.dumps(before)}, and now they are "
                    f"{json.dumps(self._options)}. Set {OPTIONS_VARIABLE} to the former."
                )
            loaded.update(state[_STATE_KEY])

        def restore(optimizer: Optimizer) -> None:
            self.tuner.load_state_dict(loaded["tuner"])
            self.rates.load_state_dict(loaded["rates"])
            loaded.clear()

        loaded: dict[str, Any] = {}
        self.optimizer.register_state_dict_post_hook(add)
        self.optimizer.register_load_state_dict_pre_hook(take)
        self.optimizer.register_load_state_dict_post_hook(restore)


def _block_patterns(network: nn.Module) -> str | dict[str, list[str]]:
    """The spec for `metalr_monai.blocks`: the stages, which are registered in the order of their use; or "auto"."""
    found: dict[str, set[str]] = {}
    for name in named_parameters(network):
        matches = ((block, re.match(pattern, name)) for block, pattern in _STAGES.items())
        block, match = next(((block, match) for block, match in matches if match), ("", None))
        if match is None:
            return "auto"
        found.setdefault(match.expand(block), set()).add(match[0].removesuffix("."))
    return {block: sorted(prefixes) for block, prefixes in found.items()}


def _options() -> dict[str, Any]:
    text = os.environ.get(OPTIONS_VARIABLE) or "{}"
    try:
        given = json.loads(text)
    except ValueError as error:
        raise OptionError(f"{OPTIONS_VARIABLE} is {text!r}, which is no JSON: {error}.") from error
    if not isinstance(given, dict) or "schedule" in given:
        raise OptionError(
            f"{OPTIONS_VARIABLE} is {text!r}; expected options of MetaLR other than schedule, which is nnU-Net's, "
            f'as {{"beta": 0.05}}.'
        )
    return {**OPTIONS, **given}


def _on_device(value: Tensor | list[Tensor], device: torch.device) -> Any:  # noqa: ANN401 - as it came
    if isinstance(value, list):  # one target a resolution, for deep supervision
        return [tensor.to(device, non_blocking=True) for tensor in value]
    return value.to(device, non_blocking=True)
