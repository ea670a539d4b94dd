"""Train a grid of short runs, keep each in a directory, and give back their table."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrscope.errors import LrscopeWarning
from lrscope.schedules import Schedule
from lrscope.sweeps import measure as measuring
from lrscope.sweeps.adaptive import Adaptive
from lrscope.sweeps.cells import SweepCell
from lrscope.sweeps.engines import Engine, Job, engine_of
from lrscope.sweeps.grid import Grid
from lrscope.sweeps.manifest import manifest_of, other_versions, refuse_others, sort_rows
from lrscope.sweeps.phases import regimes
from lrscope.sweeps.processes import WORKER
from lrscope.sweeps.result import Sweep
from lrscope.sweeps.source import Source
from lrscope.sweeps.store import MANIFEST, Store
from lrscope.sweeps.table import TYPES, SweepTable
from lrscope.sweeps.tally import OnProgress, Tally
from lrscope.tasks import Task


def sweep(
    task: Task | Callable[..., Task] | str,
    *,
    optimizer: Any = "sgd",
    steps: int | Sequence[int] | str | None = None,
    schedule: str | Schedule | Sequence[str | Schedule] | None = None,
    out: str | Path | None = None,
    engine: Engine | str = "auto",
    seeds: int = 1,
    resume: bool = True,
    adaptive: bool = False,
    measure: Sequence[str] = (),
    device: str | None = None,
    on_progress: OnProgress | None = None,
    **axes: Any,
) -> Sweep:
    """Train one short run per cell of a grid, and return their table.

    Every other keyword is an axis: ``lr``, a ``{placeholder}`` of the schedule's text such as ``warmup``, an option
    of the optimizer such as ``momentum`` or ``weight_decay``, a setting of the task's function such as ``width`` or
    ``batch_size``, or ``seed``. Its values are a list, one value, or text as in ``"2^-9:2^3"``, ``"1e-4:1:9"`` or
    ``"1,5%,33%"``; see :func:`lrscope.sweeps.ranges.expand`.

    Args:
        task: A :class:`~lrscope.Task`, a function returning one, or a name for :func:`lrscope.tasks.load`.
        optimizer: The update rule; several are an axis.
        steps: Updates of each run; several are an axis; ``None``: the task's own.
        schedule: Shape of the learning rate as a factor of ``lr``: text with ``{axis}`` where an axis goes, as in
            ``"warmup({warmup}) > cosine(to=0)"``, or a schedule; several are an axis; ``None``: a warmup over the
            axis ``warmup``, where there is one, and then constant.
        out: Directory; one that holds the same sweep, or a smaller or larger grid of it, goes on. ``None``: a
            temporary one, gone with the result.
        engine: ``"auto"``, ``"serial"``, ``"replicas"``, ``"processes"``, ``"ray"``, or an engine with its options,
            as in ``lrs.sweeps.Processes(workers=4)``.
        seeds: How many, counted from 0.
        resume: Go on with what is in ``out``; otherwise it is moved aside, nothing is deleted.
        adaptive: Put points near the largest learning rate that trains and near the best one, instead of all.
        measure: ``"sharpness"``: the largest Hessian eigenvalue at the start and at the end of each run.
        device: Where to compute; ``None``: the task's own.
        on_progress: Called now and then; a ``KeyboardInterrupt`` raised in it is a clean stop.

    Returns:
        The sweep; cells that raised are rows with ``status="failed"``, and the others are unharmed.

    Raises:
        ValueError, TypeError, ScheduleError, TaskError: Before anything ran: an axis nobody knows, a value that
            cannot be meant, a directory of another sweep or one that another process writes to.
        OSError: A file cannot be written; what was written before stays and the same call goes on from there.
        KeyboardInterrupt: Passed on when every finished cell is written.

    Example:
        >>> found = sweep("digits", lr="2^-6:2^-4", steps=20, engine="serial")
        >>> found.table["status"]
        ['finished', 'finished', 'finished']
    """
    if on_progress is not None and not callable(on_progress):
        raise TypeError(f"on_progress: expected a function of a SweepProgress, got {type(on_progress).__name__}")
    prepared = prepare(
        task,
        optimizer=optimizer,
        steps=steps,
        schedule=schedule,
        engine=engine,
        seeds=seeds,
        measure=measure,
        device=device,
        adaptive=adaptive,
        **axes,
    )
    temporary = Path(tempfile.mkdtemp(prefix="lrscope-sweep-")) if out is None else None
    directory = temporary or Path(str(out))
    try:
        with opened(directory, prepared, fresh=not resume) as (store, manifest):
            found = run_opened(prepared, store, manifest, on_progress=on_progress)
    except BaseException:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    if temporary is not None:
        weakref.finalize(found, shutil.rmtree, temporary, ignore_errors=True)
    return found


@dataclass(frozen=True)
class Prepared:
    """A sweep whose arguments are good."""

    grid: Grid
    cells: Sequence[SweepCell]
    engine: Engine
    planner: Adaptive | None

    @property
    def config(self) -> dict[str, Any]:
        """What its cells share, whatever the values of the axes."""
        return self.grid.config

    @property
    def size(self) -> int:
        return len(self.cells)


def prepare(
    task: Any,
    *,
    engine: Any = "auto",
    device: str | None = None,
    measure: Any = (),
    adaptive: bool = False,
    **options: Any,
) -> Prepared:
    """Read the arguments of :func:`sweep` and try the task; nothing is written. Errors as there."""
    if os.environ.get(WORKER):
        raise ValueError(
            "sweep: called while a worker process imports this script; put the call under if __name__ == '__main__':"
        )
    chosen = engine_of(engine)
    source = Source(task, device)
    own = {name: options.pop(name) for name in ("optimizer", "schedule", "steps", "seeds") if name in options}
    grid = Grid(source, **own, measure=measuring.check(measure), given=options)
    planner = Adaptive({name: axis.shown for name, axis in grid.axes.items()}) if adaptive else None
    cells = list(grid.cells())
    source.task(cells[0].settings).check()
    return Prepared(grid, cells, chosen, planner)


def run_opened(
    prepared: Prepared,
    store: Store,
    manifest: dict[str, Any],
    *,
    on_progress: OnProgress | None = None,
) -> Sweep:
    """Run what the store of :func:`opened` does not have yet; errors as of :func:`sweep`."""
    job = Job(prepared.grid.source, store, Tally(on_progress))
    manifest["skipped"] = _run(prepared, job)
    store.write_manifest(manifest)
    return Sweep(store.directory, _table(store, manifest), manifest)


def read(directory: str | Path) -> Sweep:
    """The sweep in a directory, finished or not, while another process may be writing to it.

    Cost: one listing and the table's file; cells that the table does not have yet are read one by one.

    Raises:
        ValueError: It holds no sweep.
    """
    store = Store(Path(directory))
    manifest = store.manifest
    store.read(_say)
    return Sweep(Path(directory), _table(store, manifest), manifest)


@contextmanager
def opened(
    directory: Path, prepared: Prepared, *, fresh: bool = False, say: Callable[[str], None] | None = None
) -> Iterator[tuple[Store, dict[str, Any]]]:
    """The directory's store, ours alone, of the same sweep; its table is up to date when it is left."""
    store = Store(directory)
    store.lock()
    try:
        if fresh and (directory / MANIFEST).exists():
            store.close()
            numbered = (directory.with_name(f"{directory.name}.before-{n}") for n in range(1, 10_000))
            directory.rename(next(path for path in numbered if not path.exists()))
            store.lock()
        before = store.manifest if (directory / MANIFEST).exists() else None
        manifest = manifest_of(prepared.grid, prepared.cells[0], before)
        if before is not None:
            refuse_others(directory, before, manifest)
            for text in other_versions(directory, before, manifest):
                (say or _say)(text)
        store.open(say or _say)
        store.write_manifest(manifest)
        try:
            yield store, manifest
        finally:
            store.remember(manifest["axes"])
    finally:
        store.close()


def _run(prepared: Prepared, job: Job) -> list[str]:
    """Run what is missing; what an adaptive sweep skipped."""
    grid, engine, planner = prepared.grid, prepared.engine, prepared.planner
    if planner is None:
        _run_cells(engine, job, prepared.cells)
        return []
    asked: dict[str, SweepCell] = {}
    while points := planner.next(SweepTable.of(job.store.rows[name] for name in asked)):
        proposed = [cell for cell in map(grid.cell, points) if cell.hash not in asked]
        if not proposed:
            break
        asked |= {cell.hash: cell for cell in proposed}
        _run_cells(engine, job, proposed)
    return planner.skipped()


def _run_cells(engine: Engine, job: Job, cells: Sequence[SweepCell]) -> None:
    job.tally.ask(cells, job.store.rows)
    missing = [cell for cell in cells if cell.hash not in job.store.rows]
    if missing:
        engine.run(job, missing)
    lost = [cell.hash for cell in missing if cell.hash not in job.store.rows]
    if lost:
        raise RuntimeError(f"sweep: {len(lost)} cells came back without a result, the first is {lost[0]}")
    job.tally.tell(now=True)


def _table(store: Store, manifest: Mapping[str, Any]) -> SweepTable:
    """Rows in the order of the grid, with their regimes, which depend on the others."""
    if not store.rows:
        return SweepTable({name: [] for name in (*manifest["axes"], *TYPES)})
    table = SweepTable.of(sort_rows(store.rows.values(), manifest["axes"]))
    for name, regime in zip(table["cell"], regimes(table, optimizer=manifest["config"]["optimizer"]), strict=True):
        store.rows[name]["regime"] = regime
    return SweepTable.of(sort_rows(store.rows.values(), manifest["axes"]))


def _say(text: str) -> None:
    warnings.warn(f"sweep: {text}", LrscopeWarning, stacklevel=4)
