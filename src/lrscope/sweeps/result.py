"""A sweep as it lies in its directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrscope.records import Cost, Series
from lrscope.sweeps.store import Store
from lrscope.sweeps.table import SweepTable


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep that ran, or as far as it came.

    Attributes:
        directory: Where it is kept.
        table: One row per cell; see :class:`~lrscope.sweeps.SweepTable`.
        manifest: What was asked for, and the versions it was computed with.
    """

    directory: Path
    table: SweepTable
    manifest: Mapping[str, Any]

    @property
    def skipped(self) -> list[str]:
        """What an adaptive sweep left out, in sentences."""
        return list(self.manifest["skipped"])

    @property
    def axes(self) -> dict[str, list[Any]]:
        """Values of each axis by name, as the table shows them."""
        return {name: list(values) for name, values in self.manifest["axes"].items()}

    @property
    def cells(self) -> list[str]:
        """Hashes of the cells, in the order of the table."""
        return self.table["cell"] if len(self.table) else []

    @property
    def failed(self) -> SweepTable:
        """Rows of the cells that raised; the column ``error`` says what, :meth:`record` has the traceback."""
        return self.table.where(lambda row: row["status"] == "failed")

    @property
    def cost(self) -> Cost:
        """Work of all cells, in evaluations of one training batch."""
        rows = list(self.table.rows())
        gradients, seconds = (sum(row[name] or 0 for row in rows) for name in ("gradients", "seconds"))
        return Cost(gradients=gradients, updates=gradients, seconds=seconds)

    def record(self, cell: str) -> dict[str, Any]:
        """All that is kept of a cell: ``config``, ``row``, ``events``, ``curve`` and, where it raised, ``traceback``.

        Raises:
            ValueError: No such cell, or its file is damaged.
        """
        return Store(self.directory).record(cell)

    def curve(self, cell: str) -> Series:
        """Steps and training losses of a cell: spaced by equal ratios, and every step around its events."""
        import numpy as np

        kept = self.record(cell)["curve"]
        loss = [np.nan if v is None else v for v in kept["loss"]]
        return Series(np.asarray(kept["step"], dtype=np.int64), np.asarray(loss, dtype=np.float64))

    def to_dict(self) -> dict[str, Any]:
        return {
            "directory": str(self.directory),
            "manifest": dict(self.manifest),
            "table": self.table.to_dict(),
            "skipped": self.skipped,
            "cost": self.cost.to_dict(),
        }
