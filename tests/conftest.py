"""What holds for all tests."""

from __future__ import annotations

import torch


def pytest_configure() -> None:
    """One thread: the tests' networks are too small for more, which wait for each other on a busy machine."""
    torch.set_num_threads(1)
