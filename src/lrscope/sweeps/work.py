"""Running cells of one group in this process: what every engine comes down to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Literal

from lrscope.records import Run
from lrscope.sweeps.cells import SweepCell
from lrscope.sweeps.measure import measures
from lrscope.sweeps.outcome import failure_of, record_of
from lrscope.sweeps.source import Source
from lrscope.sweeps.store import Row, Store
from lrscope.training import CannotBatch, run_cells
from lrscope.training.lanes import threads as using_threads

Within = Literal["auto", "serial", "replicas"]
Record = dict[str, Any]

ROWS_AT_ONCE = 400_000
"""Steps of all runs of one call together: a run in memory holds a few hundred bytes for each."""


@dataclass(frozen=True)
class Listener:
    """What running cells tells: records as they are known, steps done, and, by raising, that it shall stop."""

    on_record: Callable[[Record], None]
    on_steps: Callable[[int], None]


def most_at_once(steps: int) -> int:
    """Cells that one call runs, so that memory stays flat however many there are."""
    return max(32, min(256, ROWS_AT_ONCE // steps))


def run_unit(
    source: Source,
    cells: Sequence[SweepCell],
    listener: Listener,
    *,
    within: Within,
    threads: int | None,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Run cells of one group, each to a record; one that raises is recorded as failed and the others go on.

    Args:
        source: Makes their task.
        cells: Of one group.
        listener: What its functions raise stops everything and is passed on.
        within: Engine of :func:`lrscope.training.run_cells`.
        threads: Of torch while they run; ``None``: as it is set.
        how: Its other arguments.
    """
    guarded = _Guarded(listener)
    with using_threads(threads) if threads is not None else nullcontext():
        _run(source, list(cells), guarded, within, how)


class _Guarded:
    """Tells the listener's own errors, which stop the sweep, from those of cells, which do not."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.error: Exception | None = None

    def record(self, record: Record) -> None:
        self._call(self.listener.on_record, record)

    def steps(self, done: int) -> None:
        self._call(self.listener.on_steps, done)

    def _call(self, function: Callable[[Any], None], argument: Any) -> None:
        try:
            function(argument)
        except Exception as error:
            self.error = error
            raise


def _run(source: Source, cells: list[SweepCell], guarded: _Guarded, within: Within, how: Mapping[str, Any]) -> None:
    reported: set[str] = set()

    def on_run(index: int, run: Run) -> None:
        guarded.record(record_of(cells[index], run))
        reported.add(cells[index].hash)

    try:
        _train(source, cells, guarded, within, how, on_run)
        return
    except CannotBatch:  # asked for by name, so refused rather than recorded cell by cell
        raise
    except Exception as error:
        if error is guarded.error:
            raise
        left = [cell for cell in cells if cell.hash not in reported]
        if len(left) == 1:
            guarded.record(failure_of(left[0], error, engine=within))
        if len(left) <= 1:
            return
    # Whose fault it is, nobody says: halves find it in few steps, and keep their neighbours in one program.
    for half in (left[: len(left) // 2], left[len(left) // 2 :]):
        _run(source, half, guarded, within, how)


def _train(
    source: Source,
    cells: Sequence[SweepCell],
    guarded: _Guarded,
    within: Within,
    how: Mapping[str, Any],
    on_run: Callable[[int, Run], None],
) -> None:
    task, first = source.task(cells[0].settings), cells[0]
    before = 0

    def on_progress(done: int, _: int) -> None:
        nonlocal before
        guarded.steps(done - before)
        before = done

    hooks = measures(first.measure, task, [cell.seed for cell in cells])
    run_cells(
        task,
        first.optimizer,
        [cell.run_of(first.optimizer) for cell in cells],
        first.steps,
        engine=within,
        record_every=max(1, first.steps // 20_000),
        on_progress=on_progress,
        on_run=on_run,
        **how,
        **hooks,
    )


class WriteBehind:
    """Writes records while the next cells run: waiting for the disk costs a cell of 0.1 s two per cent.

    Use as a context; leaving it writes what is left.

    Raises:
        OSError: From any method, as soon as a write failed.
    """

    def __init__(self, store: Store, most: int = 64) -> None:
        self._store, self._most = store, most
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lrscope-store")
        self._pending: list[tuple[Future[None], Row]] = []

    def put(self, record: Record) -> list[Row]:
        """Take a record; rows of the records that are on disk since the last call."""
        self._pending.append((self._pool.submit(self._store.write, record), record["row"]))
        return self.landed()

    def landed(self, *, wait: bool = False) -> list[Row]:
        """Rows of the records that are on disk by now, or ``wait`` for all."""
        rows = []
        while self._pending and (wait or self._pending[0][0].done() or len(self._pending) > self._most):
            future, row = self._pending.pop(0)
            future.result()
            rows.append(row)
        return rows

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
