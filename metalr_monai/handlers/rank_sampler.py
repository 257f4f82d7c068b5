"""Cases of an evaluation over the processes, each case once."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import ignite.distributed as idist
from monai.data import DistributedSampler
from torch.utils.data import Dataset

from ..errors import DataError


def each_case_once(dataset: Dataset[Any]) -> DistributedSampler:
    """MONAI's `DistributedSampler` in the data set's order, with no case repeated to make the processes' shares even.

    Raises:
        DataError: fewer cases than processes.
    """
    cases = len(dataset) if isinstance(dataset, Sized) else 0
    processes, rank = idist.get_world_size(), idist.get_rank()
    if cases < processes:
        raise DataError(
            f"{processes} process(es) are to score {cases} case(s), at least one each. Start at most {max(cases, 1)} "
            f"(torchrun --nproc_per_node), or choose a split with more cases to validate or test."
        )
    return DistributedSampler(dataset, even_divisible=False, num_replicas=processes, rank=rank, shuffle=False)
