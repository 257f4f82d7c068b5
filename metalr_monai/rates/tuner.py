"""MetaLR for a plain PyTorch loop: Algorithm 1 of Chen et al., MICCAI 2023, around any optimizer's own step.

The tuner sits in the optimizer's step hooks, so whatever calls `optimizer.step()` (a loop, a GradScaler, an Ignite
engine, gradient accumulation) finds the parameters final when the call returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from ..errors import ConflictError, MetaDataError, OptimizerError, OptionError, StateError
from .blocks import Blocks
from .conflicts import name_of_scheduler, schedulers_of
from .history import RateHistory
from .hypergradient import Products, block_sums, hypergradient, products_along, products_in_backward
from .learned import LearnedRates
from .level_search import LevelSearch
from .lookahead import Displacement, MetaRandomStream, find_ddp, frozen_statistics, without_synchronisation
from .optimizer import groups_by_block, refuse_nonlinear_step
from .options import read_options
from .parameter_names import named_parameters

Loss = Callable[[], Tensor]


class MetaLR:
    """Learn one learning rate per block while training.

    Each step: the optimizer takes its step with the present rates, which is the look-ahead θ̂ (Eq. 2); the gradient of
    the meta batch there gives h_j = −⟨g_v,j , u_j⟩; the rates move by Eq. 3 or 5; the step is rescaled to them (Eq. 4).

    Args:
        optimizer: any torch optimizer whose step is linear in its rate, built from `param_groups`.
        network: the network that the losses run; its buffers (batch norm's statistics) are put back after a meta pass.
            May be wrapped by DDP (then d scalars are averaged over the ranks) or `torch.compile`.
        preset: "paper", or "reference" for the published code's behaviour, quirk by quirk (comparison only).
        scaler: the GradScaler of mixed-precision training, if there is one.
        **options: fields of `Options`, on top of the preset.

    Attributes:
        history: a `RateHistory`, one row an optimizer step.
        counts: `meta_steps`; `nonfinite` (NaN or infinity in a loss, a gradient or a rate that would come of them: step
            kept, rates untouched); `clipped` (block updates where β·h was beyond 1 under Eq. 5).
        meta_loss: zero-argument callable, for loops that call `optimizer.step()` themselves; `step` sets it for a step.
        train_loss: the same for the training batch's loss, which is only looked at for NaN and infinity.

    Raises:
        OptionError, OptimizerError, BlockError, ConflictError: nothing has been changed then.

    Example:
        >>> import torch, metalr_monai
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> groups = metalr_monai.param_groups(net, {"body": "0", "head": "2"}, lr=1e-3)
        >>> tuner = metalr_monai.MetaLR(torch.optim.Adam(groups), net, beta=0.1)
        >>> x, meta_x = torch.ones(16, 4), torch.ones(16, 4)
        >>> loss = tuner.step(lambda: net(x).square().mean(), lambda: net(meta_x).square().mean())
        >>> tuner.lrs["head"] > 1e-3  # training and meta gradient agree, so the rate rises
        True
    """

    def __init__(
        self,
        optimizer: Optimizer,
        network: nn.Module,
        *,
        preset: str = "paper",
        scaler: GradScaler | None = None,
        **options: Any,  # noqa: ANN401 - checked by read_options
    ) -> None:
        self.options = read_options(preset, options)
        self._group_numbers = groups_by_block(optimizer, rates_count=self.options.schedule is None)
        _refuse_rivals(optimizer)
        _refuse_unwrapped_replica(network)
        refuse_nonlinear_step(optimizer)
        self.optimizer, self.network, self.scaler = optimizer, network, scaler
        self.names = tuple(self._group_numbers)
        self._learned = LearnedRates(self.names, self._starting_values(), self.options)

        parameters = [[p for group in groups for p in group["params"]] for groups in self._block_groups()]
        self._displacement = Displacement(parameters)
        self._random = MetaRandomStream([p.device for block in parameters for p in block], self.options.seed)

        self.history = RateHistory(self.names)
        self.steps = 0
        self.epoch = 0
        self.meta_loss: Loss | None = None
        self.train_loss: Loss | None = None
        self._owns_gradients = False
        self._due = self._skips = False
        self._awaiting: list[float] | None = None  # rates of the step that the next training gradient will judge
        self._h: list[float] | None = None
        self._meta_loss_value = math.nan

        self._rates = self._write_rates()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # ------------------------------------------------------------------ what a loop calls

    def step(self, train_loss: Loss, meta_loss: Loss | None = None) -> Tensor:
        """One training step with learned rates: forward, backward, look-ahead, rates, step, zero_grad.

        It does what `train_loss().backward(); optimizer.step(); optimizer.zero_grad()` does; gradients of earlier
        `backward()` calls are included (accumulation). Gradients are freed before the meta pass, which therefore adds
        one copy of the trainable parameters to the memory and no more. Clip in `optimizer.register_step_pre_hook`.

        Args:
            train_loss: returns the scalar loss of the training batch.
            meta_loss: returns the scalar loss of the meta batch, at the parameters of the moment of the call.

        Returns:
            The training loss, detached, shape ().
        """
        if (meta_loss is None) != self.options.one_pass:
            expected = "no meta_loss with one_pass=True" if self.options.one_pass else "a meta_loss (or one_pass=True)"
            raise OptionError(f"step() expects {expected}.")
        loss = train_loss()
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
        self.meta_loss, self.train_loss, self._owns_gradients = meta_loss, loss.detach, True
        try:
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        finally:
            self.meta_loss, self.train_loss, self._owns_gradients = None, None, False
            self.optimizer.zero_grad()
        return loss.detach()

    def end_epoch(self) -> None:
        """Tell that an epoch is over: blocks may leave their hold; rates that stood still or collapsed are reported."""
        self.epoch += 1
        self._learned.end_epoch()
        if "rounded_rates" in self.options.quirks:
            self._rates = self._write_rates()

    @property
    def lrs(self) -> dict[str, float]:
        """Block → present learning rate."""
        return dict(zip(self.names, self._rates, strict=True))

    @property
    def counts(self) -> dict[str, int]:
        """What happened so far, see the class."""
        return self._learned.counts

    def describe(self) -> str:
        """A table of the blocks: tensors, parameters, trainable ones, present rate."""
        return self.blocks.table(self.lrs)

    @property
    def blocks(self) -> Blocks:
        """The blocks as the optimizer's groups have them."""
        known = named_parameters(self.network)
        name_of = {id(p): name for name, p in known.items()}
        tensors: dict[str, dict[str, nn.Parameter]] = {}
        for block, groups in zip(self.names, self._block_groups(), strict=True):
            parameters = [p for group in groups for p in group["params"]]
            tensors[block] = {name_of.get(id(p), f"{block}[{i}]"): p for i, p in enumerate(parameters)}
        return Blocks(tensors)

    def detach(self) -> None:
        """Take the tuner off the optimizer; the groups keep the rates learned so far."""
        for hook in self._hooks:
            hook.remove()

    # ------------------------------------------------------------------ around optimizer.step()

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure") is not None or any(callable(arg) for arg in args[1:]):
            raise OptimizerError("optimizer.step(closure) makes its gradients itself; call backward(), then step().")
        # A fused optimizer is called even for a step that the scaler skips, and skips it inside.
        found_inf = getattr(optimizer, "found_inf", None)
        self._skips = found_inf is not None and bool(found_inf)
        if self._skips:
            return
        self._refuse_changed_groups()
        self._h, self._meta_loss_value = None, math.nan
        if self._awaiting is not None:
            self._judge_by_training_gradient(self._awaiting)
        self._rates = self._write_rates()
        self._due = self.steps % self.options.meta_every == 0 and self._schedule_value() > 0
        if not self._due:
            return
        if not self.options.one_pass and self.meta_loss is None:
            raise MetaDataError("No meta batch: call tuner.step(train_loss, meta_loss), or set tuner.meta_loss first.")
        self._displacement.save()
        self._due = bool(self._displacement.moving_blocks)
        if self._due and self.options.lookahead == "sgd":
            self._judge_gradient_step()

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._skips:
            return
        try:
            if self._due and self.options.lookahead == "applied":
                self._displacement.measure()
                if self.options.one_pass:
                    self._awaiting = list(self._rates)
                else:
                    self._judge_applied_step()
        finally:  # the optimizer has stepped, whatever became of the meta pass
            self.history.add(self.steps, self.epoch, self._meta_loss_value, self._rates, self._h)
            self.steps += 1

    def _judge_applied_step(self) -> None:
        """Two passes: g_v at the step just taken, then the step rescaled to the new rates (Eq. 2, 3/5, 4)."""
        if self._owns_gradients:
            self.optimizer.zero_grad()
        old = self._rates
        products, loss = self._meta_pass(self._displacement.tensors)
        self._learn(products, old, loss, self._loss_scale())
        self._rates = self._write_rates()
        self._displacement.rescale([new / was for new, was in zip(self._rates, old, strict=True)])

    def _judge_gradient_step(self) -> None:
        """Eq. 2 to the letter: g_v at θ − α·g, back to θ, and the optimizer's step follows with the new rates."""
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise OptimizerError("lookahead='sgd' needs unscaled gradients; call scaler.unscale_(optimizer) first.")
        sign = -1.0 if "ascending_lookahead" in self.options.quirks else 1.0
        self._displacement.descend([sign * rate for rate in self._rates])
        try:
            products, loss = self._meta_pass([p.grad for p in self._displacement.parameters if p.grad is not None])
        finally:
            self._displacement.restore()
        self._learn(products, [sign] * len(self.names), loss, self._loss_scale())
        self._rates = self._write_rates()

    def _judge_by_training_gradient(self, rates: Sequence[float]) -> None:
        """One pass: the gradient that training computed at the last step's end is its g_v."""
        self._awaiting = None
        moved = zip(self._displacement.parameters, self._displacement.tensors, strict=True)
        products = [products_along(p.grad, delta, norms=self._norms) for p, delta in moved]
        # A fused optimizer unscales inside its step, so here its gradients are still scaled.
        self._learn(products, rates, None, getattr(self.optimizer, "grad_scale", None))

    def _meta_pass(self, directions: Sequence[Tensor]) -> tuple[Products, Tensor]:
        """Products of g_v with the directions, and the meta loss; leaves no trace in network or random streams."""
        if self.meta_loss is None:
            raise MetaDataError("No meta batch: call tuner.step(train_loss, meta_loss), or set tuner.meta_loss first.")
        with (
            frozen_statistics(self.network),
            without_synchronisation(self.network),
            self._random.active(),
            torch.enable_grad(),
        ):
            loss = self.meta_loss()
            scaled = loss if self.scaler is None else self.scaler.scale(loss)
            products = products_in_backward(scaled, self._displacement.parameters, directions, norms=self._norms)
        return products, loss.detach()

    @property
    def _norms(self) -> bool:
        return self.options.scale == "cosine"

    # ------------------------------------------------------------------ the rates

    def _learn(
        self, products: Products, distance: Sequence[float], loss: Tensor | None, loss_scale: Tensor | None
    ) -> None:
        """h from the products of g_v with Δ = distance·u, then the new rates; one transfer to the host."""
        sums = block_sums(products, self._displacement.block, len(self.names), norms=self._norms)
        for value in (loss, None if self.train_loss is None else self.train_loss()):
            if value is not None:
                sums = sums + 0 * value.detach().to(sums)  # NaN or infinity spoils h even where gradients are finite
        self._average_over_ranks(sums)
        if loss_scale is not None:
            sums[:2] /= loss_scale.to(sums)
            sums[1:2] /= loss_scale.to(sums)  # ‖g_v‖² carries the scale twice
        loss = sums.new_full((), math.nan) if loss is None else loss
        *flat, self._meta_loss_value = torch.cat([sums.flatten(), loss.reshape(1).to(sums)]).tolist()
        on_host = torch.tensor(flat, dtype=torch.float64).reshape(sums.shape)
        h = hypergradient(on_host, torch.tensor(distance, dtype=torch.float64))
        self._h = h.tolist()
        self._learned.update(h, self._displacement.moving_blocks, self.epoch, self._schedule_value())
        if self._search is not None:
            self._search.observe(self.steps - self.options.one_pass, float(on_host[0].sum()))

    def _average_over_ranks(self, sums: Tensor) -> None:
        """⟨mean g_v, u⟩ = mean of ⟨g_v, u⟩, for u is the same on all ranks. The cosine takes the ranks' mean ‖g_v‖²."""
        for ddp in find_ddp(self.network)[:1]:
            torch.distributed.all_reduce(sums, group=ddp.process_group)
            sums /= torch.distributed.get_world_size(ddp.process_group)

    def _loss_scale(self) -> Tensor | None:
        device = self._displacement.block.device
        return None if self.scaler is None else self.scaler.scale(torch.ones((), device=device))

    @property
    def _search(self) -> LevelSearch | None:
        return self.options.schedule if isinstance(self.options.schedule, LevelSearch) else None

    def _schedule_value(self) -> float:
        if self.options.schedule is None:
            return 1.0
        value: object = self.options.schedule(self.steps)
        rate = math.nan
        if isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1):
            rate = float(value)
        if not 0 <= rate < math.inf:
            raise OptionError(
                f"schedule({self.steps}) is {value!r}, of type {type(value).__name__}; "
                f"expected a finite rate of at least 0."
            )
        return rate

    def _block_groups(self) -> list[list[dict[str, Any]]]:
        """The optimizer's groups of each block."""
        return [[self.optimizer.param_groups[i] for i in numbers] for numbers in self._group_numbers.values()]

    def _write_rates(self) -> list[float]:
        """lr_j = s_t·m_j into the optimizer's groups."""
        rates: list[float] = (self._schedule_value() * self._learned.values).tolist()
        self._set(rates)
        return rates

    def _set(self, rates: Sequence[float]) -> None:
        for groups, rate in zip(self._block_groups(), rates, strict=True):
            for group in groups:
                group["lr"] = rate

    def _refuse_changed_groups(self) -> None:
        known = sum(map(len, self._group_numbers.values()))
        if len(self.optimizer.param_groups) != known:
            raise OptimizerError(
                f"The optimizer has {len(self.optimizer.param_groups)} groups, and had {known} when MetaLR was made; "
                f"detach() it and make it anew after add_param_group."
            )
        for name, groups, rate in zip(self.names, self._block_groups(), self._rates, strict=True):
            for group in groups:
                if group["lr"] != rate:
                    raise ConflictError(
                        f"The rate of block {name!r} was {rate:g} after the last step and is now {group['lr']:g}: "
                        f"{name_of_scheduler(self.optimizer)} overwrote it. Remove that, and give the schedule to "
                        f"MetaLR (schedule=lambda t: ...), which multiplies it by the learned multipliers. "
                        f"After loading an optimizer's state, load the tuner's too."
                    )

    def _starting_values(self) -> list[float]:
        """Rates of the groups, or their multipliers where there is a schedule."""
        key = "lr" if self.options.schedule is None else "multiplier"
        return [float(groups[0].get(key, 1.0)) for groups in self._block_groups()]

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain containers only; with the optimizer's own state it makes resuming exact."""
        awaiting = self._awaiting is not None
        return {
            "names": list(self.names),
            "relative": self.options.schedule is not None,
            "one_pass": self.options.one_pass,
            "learned": self._learned.state_dict(),
            "rates": list(self._rates),
            "search": None if self._search is None else self._search.state_dict(),
            "steps": self.steps,
            "epoch": self.epoch,
            "random": self._random.state_dict(),
            "awaiting": self._awaiting,
            "displacement": self._displacement.state_dict() if awaiting else {},
            "history": self.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken.

        Raises:
            StateError: the blocks, the mode or the schedule's search are others; nothing is changed.
        """
        if "names" not in state:
            raise StateError(f"This is no state of MetaLR: it has {', '.join(map(str, state)) or 'nothing'} in it.")
        if state["one_pass"] != self.options.one_pass:
            raise StateError(f"The saved state is of one_pass={state['one_pass']}; set one_pass accordingly.")
        if tuple(state["names"]) != self.names:
            raise StateError(
                f"The saved state has the blocks {', '.join(state['names'])}; here they are {', '.join(self.names)}. "
                f"Build the optimizer with the same block specification."
            )
        if state["relative"] != (self.options.schedule is not None):
            saved, here = ("multipliers", "rates") if state["relative"] else ("rates", "multipliers")
            raise StateError(
                f"The saved state has learned {saved}, this tuner learns {here}; set schedule= accordingly."
            )
        search = state.get("search")
        if (search is None) != (self._search is None):
            raise StateError(
                f"The saved state has {'no' if search is None else 'a'} LevelSearch; set schedule= accordingly."
            )
        if self._search is not None:
            self._search.load_state_dict(state["search"])
        self._learned.load_state_dict(state["learned"])
        self.steps, self.epoch = state["steps"], state["epoch"]
        self._random.load_state_dict(state["random"])
        self._awaiting = None if state["awaiting"] is None else list(state["awaiting"])
        self._displacement.load_state_dict(state["displacement"])
        self.history.load_state_dict(state["history"])
        if "rates" in state:  # those that the optimizer's own state has, whichever of the two is loaded first
            self._set(state["rates"])
            self._rates = list(state["rates"])
        else:
            self._rates = self._write_rates()


def _refuse_rivals(optimizer: Optimizer) -> None:
    hooks = optimizer._optimizer_step_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), MetaLR) for hook in hooks):
        raise ConflictError("This optimizer already has a MetaLR; call its detach() before making another.")
    if schedulers_of(optimizer):
        raise ConflictError(
            f"{name_of_scheduler(optimizer)} would overwrite the rates that MetaLR learns. Give the schedule to MetaLR "
            f"(schedule=lambda t: ..., t counts optimizer steps), which multiplies it by the learned multipliers."
        )


def _refuse_unwrapped_replica(network: nn.Module) -> None:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1 and not find_ddp(network):
        raise OptionError(
            f"A process group of {torch.distributed.get_world_size()} is up, but the network has no "
            f"DistributedDataParallel in it, so the ranks would learn different rates. Give MetaLR the wrapped network."
        )
