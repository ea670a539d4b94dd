"""Who runs a sweep's cells; whoever it is, the results are the same to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from lrscope.sweeps.cells import SweepCell, units
from lrscope.sweeps.source import Source
from lrscope.sweeps.store import Row, Store
from lrscope.sweeps.tally import Tally
from lrscope.sweeps.work import Listener, Within, WriteBehind, most_at_once, run_unit
from lrscope.training import precision
from lrscope.training.precision import MatmulPrecision


@dataclass(frozen=True)
class Job:
    """What an engine works with: where tasks come from, where results go, and who counts."""

    source: Source
    store: Store
    tally: Tally

    def done(self, rows: Sequence[Row]) -> None:
        """Rows of cells whose files are written."""
        for row in rows:
            self.store.note(row)
        if rows:
            self.tally.done(rows)


class Engine(Protocol):
    """Runs cells so that each has a file in the store when :meth:`run` returns."""

    name: ClassVar[str]

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None: ...


@dataclass(frozen=True)
class Serial:
    """One run after the other over ``torch.optim``, in this process.

    Args:
        threads: Of torch; more than one seldom helps runs as short as those of a sweep.
    """

    name: ClassVar[str] = "serial"
    threads: int = 1

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        run_here(job, units(cells, lambda _: 1), "serial", self.threads)


@dataclass(frozen=True)
class Replicas:
    """Many runs as one batched tensor program, in this process.

    Args:
        threads: Of torch; ``None``: as it is set.
        compile: As in :func:`lrscope.training.replicas`; each group of cells is compiled for itself.
        matmul_precision: As there. Less than ``"highest"`` changes numbers, so the table's ``engine`` says it; keep
            such a sweep in a directory of its own.
    """

    name: ClassVar[str] = "replicas"
    threads: int | None = None
    compile: bool = False
    matmul_precision: MatmulPrecision = "highest"

    def __post_init__(self) -> None:
        precision.check(self.matmul_precision)
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile: expected True or False, got {self.compile!r}")

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        how = {"compile": self.compile, "matmul_precision": self.matmul_precision}
        run_here(job, units(cells, most_at_once), "replicas", self.threads, how)


def run_here(
    job: Job,
    pieces: Sequence[Sequence[SweepCell]],
    within: Within,
    threads: int | None,
    how: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Run units of cells in this process, one after the other; ``how`` as in :func:`run_unit`."""
    with WriteBehind(job.store) as behind:
        listener = Listener(lambda record: job.done(behind.put(record)), job.tally.steps)
        try:
            for unit in pieces:
                job.tally.started(len(unit))
                run_unit(job.source, unit, listener, within=within, threads=threads, how=how)
        finally:
            job.done(behind.landed(wait=True))


def engine_of(given: Any) -> Engine:
    """An engine from itself or its name.

    Raises:
        ValueError: No engine has that name.
        TypeError: Neither an engine nor a name.
    """
    from lrscope.sweeps.auto import Auto
    from lrscope.sweeps.on_ray import Ray
    from lrscope.sweeps.processes import Processes

    known: dict[str, Any] = {engine.name: engine for engine in (Auto, Serial, Replicas, Processes, Ray)}
    if isinstance(given, str):
        if given not in known:
            raise ValueError(f"engine: expected one of {', '.join(known)}, got {given!r}")
        return known[given]()
    if not callable(getattr(given, "run", None)) or isinstance(given, type):
        raise TypeError(f"engine: expected a name or an engine such as Processes(workers=4), got {given!r}")
    return given
