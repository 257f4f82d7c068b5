"""A real gloo process group of two: the same rates on both ranks, d scalars on the wire."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from small import batch, groups, mlp, squared_error
from small_trainer import make_trainer, record_cases
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import metalr_monai
from metalr_monai import LevelSearch, MetaLR, MetaLRHandler

WORLD, STEPS = 2, 6
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")


def in_two_processes(work, folder: Path) -> list[dict]:
    """Run `work(rank)` in two processes that share a gloo group; what each returns."""
    torch.multiprocessing.start_processes(_join, (work, str(folder)), nprocs=WORLD, start_method="spawn")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def _join(rank: int, work, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(WORLD)})
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def half(data, rank):
    return tuple(part[rank::WORLD] for part in data)


OPTIONS = [{}, {"one_pass": True}, {"lookahead": "sgd"}]
# Not what one process has: ‖g_v‖ is the mean of the ranks' own.
COSINES = [{"scale": "cosine"}, {"scale": "cosine", "one_pass": True}]
SEARCHED = 16  # steps of a training with a search
SEARCHING = {"one_pass": True, "renormalize": True}  # with a LevelSearch, which has a state: one for each tuner


def learn(network, tuner, one_pass, take=lambda data: data, steps=STEPS):
    for t in range(steps):
        train, meta = take(batch(t)), take(batch(100 + t))
        meta_loss = () if one_pass else (lambda meta=meta: squared_error(network, meta),)
        tuner.step(lambda train=train: squared_error(network, train), *meta_loss)


def two_ranks(rank: int) -> dict:
    found = {}
    for number, options in enumerate(OPTIONS):
        network = DistributedDataParallel(mlp())
        network.register_comm_hook(None, allreduce_hook)  # DDP reduces through `all_reduce`, where it is counted
        tuner = MetaLR(torch.optim.SGD(groups(network.module), momentum=0.9), network, **options)
        with counted_bytes() as sent:
            learn(network, tuner, options.get("one_pass", False), lambda data: half(data, rank))
        found[str(number)] = {
            "rates": tuner.history.rates,
            "weights": [p.detach() for p in network.parameters()],
            "bytes": list(sent),
        }
    return found


class counted_bytes(list):
    """The sizes of what `torch.distributed.all_reduce` is given inside."""

    def __enter__(self):
        self._original = torch.distributed.all_reduce

        def counting(tensor, *args, **kwargs):
            self.append(tensor.numel() * tensor.element_size())
            return self._original(tensor, *args, **kwargs)

        torch.distributed.all_reduce = counting
        return self

    def __exit__(self, *_):
        torch.distributed.all_reduce = self._original


def test_two_processes_equal_one_on_the_joined_batch_and_reduce_d_scalars(tmp_path):
    ranks = in_two_processes(two_ranks, tmp_path)
    for number, options in enumerate(OPTIONS):
        first, second = (found[str(number)] for found in ranks)
        network = mlp()
        tuner = MetaLR(torch.optim.SGD(groups(network), momentum=0.9), network, **options)
        learn(network, tuner, options.get("one_pass", False))
        assert torch.equal(first["rates"], second["rates"])
        torch.testing.assert_close(first["rates"], tuner.history.rates, rtol=1e-6, atol=0)
        for p, q in zip(first["weights"], network.parameters(), strict=True):
            torch.testing.assert_close(p, q.detach(), rtol=0, atol=1e-6)
        d, float64 = 3, 8
        meta_steps = STEPS - options.get("one_pass", False)
        gradient = sum(p.numel() for p in network.parameters()) * float64  # training's own, one bucket a step
        assert sorted(first["bytes"]) == [d * float64] * meta_steps + [gradient] * STEPS
        assert not torch.equal(first["rates"][0], first["rates"][-1])


def by_cosine_and_with_a_loss_that_is_none_on_one_rank(rank: int) -> dict:
    found = {}
    for number, options in enumerate([*COSINES, {}]):
        network = DistributedDataParallel(mlp())
        tuner = MetaLR(torch.optim.SGD(groups(network.module), momentum=0.9), network, **options)
        learn(network, tuner, options.get("one_pass", False), lambda data: half(data, rank))
        found[str(number)] = tuner.history.rates
    train, meta = half(batch(0), rank), half(batch(1), rank)
    spoilt = math.nan if rank == 1 else 1.0
    before = tuner.lrs
    tuner.step(lambda: squared_error(network, train), lambda: squared_error(network, meta) + 0 * spoilt)
    return {**found, "kept": tuner.lrs == before, "nonfinite": tuner.counts["nonfinite"]}


def test_ranks_agree_by_cosine_and_where_one_of_them_has_no_loss(tmp_path):
    first, second = in_two_processes(by_cosine_and_with_a_loss_that_is_none_on_one_rank, tmp_path)
    for number in range(len(COSINES) + 1):
        assert torch.equal(first[str(number)], second[str(number)])
        assert not torch.equal(first[str(number)][0], first[str(number)][-1])
    for found in (first, second):
        assert found["kept"] and found["nonfinite"] == 1


def search_on_a_rank(rank: int) -> dict:
    network = DistributedDataParallel(mlp())
    tuner = MetaLR(torch.optim.SGD(groups(network.module)), network, schedule=search(), **SEARCHING)
    learn(network, tuner, True, lambda data: half(data, rank), SEARCHED)
    return {"rates": tuner.history.rates}


def search() -> LevelSearch:
    """Half of the steps search, from a level that some of them disapprove of."""
    return LevelSearch(SEARCHED, 100.0, 0.5)


def test_two_processes_find_the_level_that_one_finds_on_the_joined_batch(tmp_path):
    first, second = in_two_processes(search_on_a_rank, tmp_path)
    network = mlp()
    tuner = MetaLR(torch.optim.SGD(groups(network)), network, schedule=search(), **SEARCHING)
    learn(network, tuner, True, steps=SEARCHED)
    assert torch.equal(first["rates"], second["rates"])
    torch.testing.assert_close(first["rates"], tuner.history.rates, rtol=1e-6, atol=0)
    level = tuner.history.rates.log().mean(1)  # multipliers have a geometric mean of 1
    assert (level[: SEARCHED // 2].diff() > 0.1).any() and (level[: SEARCHED // 2].diff() < -0.1).any()


def unwrapped_and_inside(rank: int) -> dict:
    inner = DistributedDataParallel(mlp())
    holder = nn.ModuleDict({"net": inner})
    tuner = MetaLR(torch.optim.SGD(groups(inner.module)), holder)
    learn(inner, tuner, False, lambda data: half(data, rank))
    try:
        MetaLR(torch.optim.SGD(groups(inner.module)), inner.module)
        refused = ""
    except metalr_monai.MetaLRError as error:
        refused = str(error)
    return {"rates": tuner.history.rates, "refused": refused}


def test_a_replica_inside_the_network_is_found_and_an_unwrapped_one_refused(tmp_path):
    first, second = in_two_processes(unwrapped_and_inside, tmp_path)
    assert torch.equal(first["rates"], second["rates"])
    assert "the ranks would learn different rates. Give MetaLR the wrapped network" in first["refused"]


def batch_norm_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()


def plain_and_tuned(rank: int) -> dict:
    found = {}
    for tuned in (False, True):
        network = DistributedDataParallel(batch_norm_net())
        optimizer = torch.optim.Adam(metalr_monai.param_groups(network, "auto", 1e-3))
        tuner = MetaLR(optimizer, network, beta=0.0) if tuned else None
        for t in range(STEPS):
            train, meta = half(batch(t), rank), half(batch(100 + t), rank)
            if tuner is None:
                squared_error(network, train).backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                tuner.step(
                    lambda n=network, d=train: squared_error(n, d), lambda n=network, d=meta: squared_error(n, d)
                )
        found[str(tuned)] = dict(network.state_dict())
    return found


def test_with_beta_zero_distributed_training_is_plain_and_so_are_its_broadcast_buffers(tmp_path):
    for found in in_two_processes(plain_and_tuned, tmp_path):
        plain, tuned = found["False"], found["True"]
        assert all(torch.equal(plain[name], tuned[name]) for name in plain)


def trainer_on_rank(rank: int) -> dict:
    handler = MetaLRHandler(meta="training")
    trainer = make_trainer([handler], epochs=1, distributed=True)
    cases = record_cases(trainer)
    trainer.run()
    return {"rates": handler.tuner.history.rates, "meta": [",".join(batch) for batch in cases[1::2]]}


def hold_out_on_rank(rank: int) -> dict:
    handler = MetaLRHandler(meta=4)
    trainer = make_trainer([handler], epochs=3, distributed=True)
    cases = record_cases(trainer)
    trainer.run()
    return {"train": handler.split["train"], "seen": [name for batch in cases[::2] for name in batch]}


def test_the_rest_of_a_hold_out_is_dealt_out_anew_each_epoch(tmp_path):
    first, second = in_two_processes(hold_out_on_rank, tmp_path)
    share = 3  # of six cases
    epochs = [slice(start, start + share) for start in (0, share, 2 * share)]
    assert all(sorted(first["seen"][e] + second["seen"][e]) == first["train"] for e in epochs)
    assert len({tuple(first["seen"][e]) for e in epochs}) == 3


def test_the_handler_deals_meta_batches_out_to_the_ranks_and_learns_one_set_of_rates(tmp_path):
    first, second = in_two_processes(trainer_on_rank, tmp_path)
    assert torch.equal(first["rates"], second["rates"])
    assert not torch.equal(first["rates"][0], first["rates"][-1])
    both = ",".join(first["meta"][:2] + second["meta"][:2]).split(",")
    assert len(both) == len(set(both)) == 8  # one round over ten cases, two a batch, on two ranks
