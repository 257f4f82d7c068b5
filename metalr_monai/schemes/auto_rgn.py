"""Auto-RGN: a block's rate follows the size of its gradient relative to that of its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sized
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.meta_batches import MetaBatches
from ..errors import BlockError, MetaDataError
from ..handlers.batch_loss import batch_loss
from ..rates.lookahead import MetaRandomStream, frozen_statistics, without_synchronisation
from .options import checked_count
from .scheme import Scheme

logger = logging.getLogger(__name__)
NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class AutoRGN(Scheme):
    """Auto-RGN of surgical fine-tuning (Lee et al., ICLR 2023), with one rate a block.

    At each epoch's start w_b = mean over some training batches of ‖g_b‖/‖θ_b‖, and lr_b = lr·w_b/max w, where lr is
    the rate that the block was built with. The batches are a stream of their own over the training data; order,
    random numbers, gradients and batch norm's statistics of training are as they would be without them.

    The published code has a rate for each tensor, ‖g‖/‖θ‖ of that tensor, and neither measures nor trains batch norm.
    Here g_b and θ_b are all of a block's tensors as one vector, the same thing where a block is one tensor; a mean of
    the tensors' ratios would be governed by biases near zero. Normalisation layers are left out of both norms, and
    train at their block's rate. A block of nothing but zeros, such as a fresh head may be, trains at its full rate.

    Args:
        batches: number of training batches a measurement, 1 or more (5 in the published code). An epoch of n steps
            costs about 1 + batches/n times as much.
        seed: of the order of these batches, their augmentation and the dropout on them.

    Raises:
        OptionError: `batches` is no whole number of at least 1.
        MetaDataError: when the run starts, the trainer's data is no `DataLoader` over a map-style data set.
        BlockError: when the run starts, every parameter is frozen.
    """

    def __init__(self, batches: int = 5, seed: int = 0) -> None:
        super().__init__()
        self._count, self._seed = checked_count("batches", batches, 1), seed
        self._batches: MetaBatches | None = None
        self._random: MetaRandomStream | None = None
        self._measured: dict[str, list[nn.Parameter]] = {}

    def start(self, engine: SupervisedTrainer) -> None:
        """Take hold of the training data and of what is measured."""
        self._batches = _stream(engine.data_loader, self._seed)
        modules = [m for m in engine.network.modules() if isinstance(m, NORMALISATIONS)]
        normalising = {id(p) for module in modules for p in module.parameters(recurse=False)}
        for name, parameters in self.blocks.items():
            if parameters:
                self._measured[name] = [p for p in parameters if id(p) not in normalising] or parameters
        if not self._measured:
            raise BlockError("AutoRGN has nothing to train: all parameters are frozen.")
        self._random = MetaRandomStream([p.device for ps in self._measured.values() for p in ps], self._seed)

    def start_epoch(self, engine: SupervisedTrainer) -> None:
        """Measure and set the epoch's rates; where no gradient was finite they stay."""
        norms = [self._gradient_norms(engine) for _ in range(self._count)]
        finite = [row for row in norms if bool(row.isfinite().all())]
        total = torch.stack(finite).sum(0) if finite else torch.zeros_like(norms[0])
        # Each rank has batches of its own, and all must have the same rates.
        summed = idist.all_reduce(torch.cat([total, total.new_tensor([len(finite)])]))
        *sums, count = torch.as_tensor(summed).tolist()
        if count == 0 or max(sums) == 0:
            logger.warning("Auto-RGN: no gradient was finite and above 0 in epoch %d.", engine.state.epoch)
            return
        weights = relative_gradient_norms(torch.tensor(sums, dtype=torch.float64) / count, self._weight_norms())
        self.set_rates({name: self.start_rates[name] * w for name, w in zip(self._measured, weights, strict=True)})

    def _gradient_norms(self, engine: SupervisedTrainer) -> Tensor:
        """‖g_b‖ of each measured block on the next batch, shape (d,); leaves no trace in network or random streams."""
        if self._batches is None or self._random is None:
            raise MetaDataError("AutoRGN has no batches; attach it to the trainer before the run.")
        scaler = engine.scaler if engine.amp else None
        parameters = [p for block in self._measured.values() for p in block if p.requires_grad]
        engine.network.train()  # as each training step does; a validation may have left it otherwise
        with (
            frozen_statistics(engine.network),
            without_synchronisation(engine.network),
            self._random.active(),
            torch.enable_grad(),
        ):
            loss = batch_loss(engine, next(self._batches))
            scaled = loss if scaler is None else scaler.scale(loss)
            found = torch.autograd.grad(scaled, parameters, allow_unused=True)
        gradients = {id(p): g for p, g in zip(parameters, found, strict=True) if g is not None}
        blocks = [[gradients[id(p)] for p in block if id(p) in gradients] for block in self._measured.values()]
        scale = 1.0 if scaler is None else scaler.get_scale()
        return torch.stack([_norm(block).to(loss.device) for block in blocks]) / scale

    def _weight_norms(self) -> Tensor:
        return torch.stack([_norm([p.detach() for p in block]).cpu() for block in self._measured.values()])

    def state_dict(self) -> dict[str, Any]:
        """Where the stream of batches and its random numbers are."""
        if self._batches is None or self._random is None:
            return {}
        return {"batches": self._batches.state_dict(), "random": self._random.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        if self._batches is not None and self._random is not None and state:
            self._batches.load_state_dict(state["batches"])
            self._random.load_state_dict(state["random"])


def relative_gradient_norms(gradient_norms: Tensor, weight_norms: Tensor) -> list[float]:
    """w_b/max w with w_b = ‖g_b‖/‖θ_b‖, in [0, 1]; 1 for a block whose weights are all zero.

    Args:
        gradient_norms: mean ‖g_b‖ over the batches, shape (d,), finite. (All batches see the same θ_b.)
        weight_norms: ‖θ_b‖, shape (d,).

    Example:
        >>> relative_gradient_norms(torch.tensor([1.0, 4.0, 1.0]), torch.tensor([4.0, 2.0, 0.0]))
        [0.125, 1.0, 1.0]
    """
    w = torch.where(weight_norms > 0, gradient_norms / weight_norms, torch.inf)
    largest = w[w.isfinite()].max() if bool(w.isfinite().any()) else w.new_tensor(1.0)
    found: list[float] = (w / largest if largest > 0 else w).clamp(max=1.0).tolist()
    return found


def _stream(loader: object, seed: int) -> MetaBatches:
    if not isinstance(loader, DataLoader):
        raise MetaDataError(
            f"The trainer's data is a {type(loader).__name__}, not a DataLoader, so AutoRGN can take no batches of its "
            f"own from it."
        )
    ranks, size = idist.get_world_size(), loader.batch_size
    if size is not None and isinstance(loader.dataset, Sized):  # training may have no more than one, incomplete batch
        size = max(1, min(size, len(loader.dataset) // ranks))
    return MetaBatches(loader, batch_size=size, seed=seed, rank=idist.get_rank(), world_size=ranks)


def _norm(tensors: list[Tensor]) -> Tensor:
    """‖·‖ of several tensors as one vector, float64, shape ()."""
    squares = [t.double().square().sum() for t in tensors]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)
