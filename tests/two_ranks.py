"""An evaluator's scores on two ranks against those of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.data import DistributedSampler

WORLD = 2
FILES = ("metrics.csv", "metrics.json")
needs_gloo = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")


def score_on_rank(
    rank: int, folder: str, data: Sequence[Any], make: Callable[[Sequence[Any], Path, Any], Engine]
) -> None:
    """Run `make(data, output_dir, sampler)` in one of the processes, with even shares and without, and keep scores."""
    torch.set_num_threads(1)
    os.environ.update({"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(WORLD)})
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    for even in (True, False):
        sampler = DistributedSampler(data, even_divisible=even, shuffle=False)
        evaluator = make(data, Path(folder, str(even)), sampler)
        evaluator.run()
        torch.save(
            {"metrics": dict(evaluator.state.metrics), "own": len(sampler), "best": evaluator.state.best_metric},
            f"{folder}/{even}_{rank}.pt",
        )
    torch.distributed.destroy_process_group()


def assert_both_ranks_score_as(
    alone: Engine, on_rank: Callable[[int, str], None], folder: Path, even: list[int], uneven: list[int]
) -> None:
    """`alone` has run and written to folder/alone; `even` and `uneven` are the cases of each rank."""
    torch.multiprocessing.start_processes(on_rank, (str(folder),), nprocs=WORLD, start_method="spawn")
    for kind, cases in ((True, even), (False, uneven)):
        ranks = [torch.load(folder / f"{kind}_{rank}.pt", weights_only=True) for rank in range(WORLD)]
        assert [found["own"] for found in ranks] == cases
        for found in ranks:
            assert found["metrics"] == alone.state.metrics
            assert found["best"] == alone.state.best_metric
        for file in FILES:
            assert (folder / str(kind) / file).read_bytes() == (folder / "alone" / file).read_bytes()
