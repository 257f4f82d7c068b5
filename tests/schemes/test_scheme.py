"""What all schemes do by their base class."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.engines import SupervisedEvaluator
from scheme_runs import BLOCKS, STEPS, train
from small_trainer import Net, make_trainer
from two_ranks import WORLD, needs_gloo

from metalr_monai import FrozenBlocks, ProbeThenTune
from metalr_monai.errors import BlockError, EngineError, OptimizerError
from metalr_monai.schemes.scheme import Scheme


class EachEpoch(Scheme):
    """Train the n-th of these sets of blocks in the n-th epoch."""

    def __init__(self, *blocks):
        super().__init__()
        self._by_epoch = blocks

    def start_epoch(self, engine):
        self.tune(self._by_epoch[engine.state.epoch - 1])


@pytest.mark.parametrize("names", [["head"], ["conv"], ["conv", "head"], list(BLOCKS)])
def test_the_named_blocks_train_and_no_other(names):
    trainer, steps = train(EachEpoch(names), epochs=1)
    assert steps.moved() == [set(names)] * STEPS
    learns = {group["name"]: {p.requires_grad for p in group["params"]} for group in trainer.optimizer.param_groups}
    assert learns == {name: {name in names} for name in BLOCKS}


def test_a_block_frozen_again_is_moved_by_neither_momentum_nor_weight_decay():
    optimizer = partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)
    _, steps = train(EachEpoch(BLOCKS, ["head"], BLOCKS), epochs=3, lr=0.1, optimizer=optimizer)
    assert steps.moved() == [set(BLOCKS)] * 5 + [{"head"}] * 5 + [set(BLOCKS)] * 5


def test_a_parameter_that_was_frozen_before_stays_frozen():
    def optimizer(groups):
        groups[0]["params"][0].requires_grad_(False)
        return torch.optim.Adam(groups)

    scheme = EachEpoch(["head"], BLOCKS)
    trainer, steps = train(scheme, optimizer=optimizer)
    weight, bias = trainer.network.body[0].parameters()
    assert not weight.requires_grad and torch.equal(weight, steps.before[0]["conv"][0])
    assert bias.requires_grad
    assert scheme.blocks["conv"] == [bias]


def test_rates_are_set_by_name_and_the_others_kept():
    class Halve(Scheme):
        def start(self, engine):
            self.set_rates({"norm": self.start_rates["norm"] / 2})

    scheme = Halve()
    assert scheme.names == ()
    _, steps = train(scheme, lr=0.5, epochs=1)
    assert steps.rates == [{"conv": 0.5, "norm": 0.25, "head": 0.5}] * STEPS
    assert scheme.rates == {"conv": 0.5, "norm": 0.25, "head": 0.5}
    assert scheme.start_rates == dict.fromkeys(BLOCKS, 0.5)
    assert scheme.names == BLOCKS


def test_the_blocks_of_frozen_blocks_keep_their_weights():
    _, steps = train(FrozenBlocks(["norm"]), lr=0.5)
    assert steps.moved() == [{"conv", "head"}] * 2 * STEPS


def test_a_block_that_does_not_exist_is_refused_with_what_it_may_mean():
    says = (
        r"FrozenBlocks names the block 'nrom', which does not exist\. Did you mean norm\? Blocks are conv, norm, head\."
    )
    with pytest.raises(BlockError, match=says):
        train(FrozenBlocks(["nrom"]))


def test_rates_of_a_block_that_does_not_exist_are_refused():
    class Wrong(Scheme):
        def start(self, engine):
            self.set_rates({"heed": 0.1})

    with pytest.raises(BlockError, match=r"Wrong names the block 'heed', which does not exist\. Did you mean head\?"):
        train(Wrong())


def test_freezing_all_blocks_is_refused():
    with pytest.raises(BlockError, match=r"No block is left to train\. Blocks are conv, norm, head\."):
        train(FrozenBlocks(BLOCKS))


def test_another_engine_is_refused():
    with pytest.raises(EngineError, match=r"Scheme is attached to SupervisedEvaluator, not a SupervisedTrainer\."):
        SupervisedEvaluator(torch.device("cpu"), [], Net(), val_handlers=[Scheme()])


def test_an_optimizer_without_block_names_is_refused():
    def optimizer(groups):
        return torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1)

    trainer = make_trainer([Scheme()], optimizer=optimizer)
    with pytest.raises(OptimizerError, match=r"has no block name .*metalr_monai\.param_groups"):
        trainer.run()
    assert trainer.state.iteration == 0


def test_rates_before_the_run_are_refused():
    with pytest.raises(EngineError, match=r"Scheme has no trainer yet; attach it to one\."):
        _ = Scheme().rates


def _on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(WORLD)})
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    trainer, steps = train(ProbeThenTune(2, 0.5), distributed=True)
    found = {"moved": [sorted(names) for names in steps.moved()], "weights": steps.after[-1]}
    found["losses_of_own_data"] = trainer.state.output[0]["loss"]
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@needs_gloo
def test_two_processes_keep_the_same_weights_when_blocks_are_unfrozen(tmp_path: Path):
    torch.multiprocessing.start_processes(_on_rank, (str(tmp_path),), nprocs=WORLD, start_method="spawn")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD))
    assert first["moved"] == second["moved"] == [["head"]] * 3 + [sorted(BLOCKS)] * 3
    assert first["losses_of_own_data"] != second["losses_of_own_data"]
    for name in BLOCKS:
        assert all(map(torch.equal, first["weights"][name], second["weights"][name]))


def test_a_trainer_that_goes_on_keeps_its_start_rates_and_its_blocks():
    scheme = ProbeThenTune(2, 0.5)
    trainer, steps = train(scheme, epochs=1)
    start, trainer.state.max_epochs = scheme.start_rates, 2
    trainer.run()
    assert steps.moved() == [{"head"}] * STEPS + [set(BLOCKS)] * STEPS
    assert scheme.start_rates == start
