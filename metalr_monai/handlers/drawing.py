"""Where pictures are drawn: on the first rank, if matplotlib is there, which the base install has not."""

from __future__ import annotations

import importlib.util
import logging

import ignite.distributed as idist

logger = logging.getLogger(__name__)


def draws_here(what: str) -> bool:
    """Whether this process is to draw; where only matplotlib is missing the log says so.

    Args:
        what: the pictures, in the log.
    """
    if idist.get_rank() != 0:
        return False
    if importlib.util.find_spec("matplotlib") is None:
        logger.info("No %s: matplotlib is missing. Get it with pip install metalr_monai[report].", what)
        return False
    return True
