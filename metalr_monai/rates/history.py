"""What the rates did, step by step: a record that costs a tuple a step and travels in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


class RateHistory:
    """One row an optimizer step: the rate that the step was taken with and the hypergradient, by block.

    Steps without a meta update have no hypergradient and no meta loss: NaN there.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._rows: list[tuple[float, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def columns(self) -> tuple[str, ...]:
        """`step`, `epoch`, `meta_loss`, then `lr/BLOCK` and `h/BLOCK` for each block."""
        rates = tuple(f"lr/{name}" for name in self.names)
        return ("step", "epoch", "meta_loss", *rates, *(f"h/{name}" for name in self.names))

    def add(self, step: int, epoch: int, meta_loss: float, rates: Sequence[float], h: Sequence[float] | None) -> None:
        """Append the row of one step."""
        self._rows.append((step, epoch, meta_loss, *rates, *(h or [math.nan] * len(self.names))))

    def rows(self, start: int = 0) -> Iterator[tuple[float, ...]]:
        """The rows from number `start` on, each in the order of `columns`; steps and epochs as whole numbers."""
        for step, epoch, *values in self._rows[start:]:
            yield (int(step), int(epoch), *values)

    @property
    def steps(self) -> Tensor:
        """Step numbers, shape (T,), int64, from 0."""
        return torch.tensor([int(row[0]) for row in self._rows], dtype=torch.int64)

    @property
    def rates(self) -> Tensor:
        """Learning rates, shape (T, d), float64."""
        return self._table()[:, 3 : 3 + len(self.names)]

    @property
    def hypergradients(self) -> Tensor:
        """h_j, shape (T, d), float64; NaN at steps without a meta update."""
        return self._table()[:, 3 + len(self.names) :]

    def _table(self) -> Tensor:
        return torch.tensor(self._rows, dtype=torch.float64).reshape(-1, len(self.columns))

    def state_dict(self) -> dict[str, Any]:
        """Names and one float64 table, shape (T, 3 + 2d)."""
        return {"names": list(self.names), "table": self._table()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved history."""
        self.names = tuple(state["names"])
        self._rows = [tuple(row) for row in state["table"].tolist()]
