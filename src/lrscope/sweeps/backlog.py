"""Work handed to others that may die: every cell comes back with a result, or is said to kill whoever runs it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from lrscope.sweeps.cells import SweepCell

LIVES = 5
"""Deaths that a cell may cause, or be near to, before it is given up."""

Unit = list[SweepCell]


class Backlog:
    """Units of cells to hand out."""

    def __init__(self, pieces: Iterable[Sequence[SweepCell]]) -> None:
        self._waiting: deque[Unit] = deque(list(piece) for piece in pieces)
        self._deaths: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> Unit | None:
        """The next unit, if there is one."""
        return self._waiting.popleft() if self._waiting else None

    def back(self, cells: Sequence[SweepCell], suspects: Sequence[SweepCell]) -> list[SweepCell]:
        """Take back the cells of a worker that died without a result for them.

        Args:
            cells: All of them.
            suspects: Those that ran when it died. They come last and one by one, so that the next death tells
                which it was and costs no neighbours.

        Returns:
            Suspects that have died often enough to be called failed.
        """
        dead, under_suspicion = [], {cell.hash for cell in suspects}
        untouched = [cell for cell in cells if cell.hash not in under_suspicion]
        if untouched:
            self._waiting.appendleft(untouched)
        for cell in suspects:
            self._deaths[cell.hash] += 1
            if self._deaths[cell.hash] >= LIVES:
                dead.append(cell)
            else:
                self._waiting.append([cell])
        return dead
