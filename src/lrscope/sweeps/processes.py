"""Worker processes on one machine: one per core, or per device."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, ClassVar

from lrscope.errors import MeasurementError, TaskError
from lrscope.sweeps.backlog import Backlog
from lrscope.sweeps.cells import SweepCell, units
from lrscope.sweeps.engines import Job
from lrscope.sweeps.outcome import failure_of
from lrscope.sweeps.source import Source
from lrscope.sweeps.work import Within, most_at_once

WORKER = "LRSCOPE_SWEEP_WORKER"
"""Environment variable of worker processes, which must not start sweeps of their own."""
SHARES = 8
"""Units per worker, so that the last ones end at about the same time."""
RESTARTS = 3
"""Workers in a row that may end before they are ready; five times as many where somebody killed them."""


@dataclass(frozen=True)
class Processes:
    """Worker processes on this machine; each writes the files of its cells.

    The numbers are those of :class:`~lrscope.sweeps.Serial` with the same ``threads``, bit for bit. A worker that
    dies is replaced and its cells run again; a cell at which five have died is recorded as failed.

    Args:
        workers: How many; ``None``: one per ``threads`` cores, or one per CUDA device for a sweep with
            ``device="cuda"``.
        threads: Of torch, in each.
        within: What each runs its cells with: ``"serial"``, ``"replicas"``, or ``"auto"`` for the faster.
    """

    name: ClassVar[str] = "processes"
    workers: int | None = None
    threads: int = 1
    within: Within = "serial"

    def __post_init__(self) -> None:
        for name, count in {"workers": self.workers, "threads": self.threads}.items():
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
                raise ValueError(f"{name}: expected a positive whole number, got {count!r}")

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        count = min(self.workers or self._default_workers(job.source), len(cells))
        share = max(1, -(-len(cells) // (count * (SHARES if self.within == "serial" else 2))))
        cap = 16 if self.within == "serial" else 10**9
        backlog = Backlog(units(cells, lambda steps: min(share, cap, most_at_once(steps))))
        payload, workers = pickled(job.source), [_Worker(i) for i in range(count)]
        try:
            for worker in workers:
                worker.start(job.source)
            _drive(workers, backlog, job, self._order(job, payload))
        finally:
            for worker in workers:
                worker.stop()

    def _default_workers(self, source: Source) -> int:
        if source.device is not None and source.device.startswith("cuda"):
            import torch

            return max(1, torch.cuda.device_count()) if source.device == "cuda" else 1
        return max(1, cores() // self.threads)

    def _order(self, job: Job, payload: bytes) -> dict[str, Any]:
        return {
            "path": sys.path,
            "source": payload,
            "directory": str(job.store.directory.resolve()),
            "within": self.within,
            "threads": self.threads,
        }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pickled(source: Source) -> bytes:
    """What another process makes the tasks from.

    Raises:
        TaskError: It cannot be sent.
    """
    try:
        return pickle.dumps(source)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TaskError(
            f"task: cannot be sent to another process ({said}); give a function of a module instead of a lambda or a "
            "nested one, or its name as file.py:function"
        ) from None


@dataclass
class _Worker:
    """One process, the socket to it, and what it was given."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    connection: Connection | None = None
    idle: bool = False
    unit: list[SweepCell] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    ready: bool = False
    stillborn: int = 0

    def start(self, source: Source) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "lrscope.sweeps.worker", str(theirs.fileno())]
            environment = {**os.environ, WORKER: "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            if source.device == "cuda":
                import torch

                visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
                devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
                environment["CUDA_VISIBLE_DEVICES"] = devices[self.number % len(devices)]
            # What the user's code prints belongs beside the progress: stdout is for results.
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdout=2)
        self.connection = Connection(ours.detach())
        self.idle, self.ready, self.unit, self.started = False, False, [], set()

    def give(self, unit: list[SweepCell]) -> None:
        self.idle, self.unit, self.started = False, unit, set()
        self.tell(unit)

    def tell(self, message: Any) -> None:
        assert self.connection is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the end of the socket says it
            self.connection.send(message)

    def stop(self) -> None:
        """End the process at once: files are whole or absent whenever it ends."""
        if self.connection is not None:
            self.connection.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.connection = self.process = None
        self.unit = []


def _drive(workers: Sequence[_Worker], backlog: Backlog, job: Job, order: dict[str, Any]) -> None:
    """Hand out the backlog until every cell has a result."""
    while backlog or any(worker.unit for worker in workers):
        for worker in workers:
            if worker.idle and (unit := backlog.next()):
                worker.give(unit)
        busy = {worker.connection: worker for worker in workers if worker.connection is not None}
        for connection in wait(list(busy), timeout=0.1):
            worker = busy[connection]  # type: ignore[index]
            try:
                message = connection.recv()  # type: ignore[union-attr]
            except (EOFError, OSError):  # the process is gone, perhaps in the middle of a message
                _bury(worker, backlog, job)
                if backlog:
                    worker.start(job.source)
            else:
                _hear(worker, message, job, order)
        job.tally.tell()


def _hear(worker: _Worker, message: tuple[Any, ...], job: Job, order: dict[str, Any]) -> None:
    match message:
        case ("here",):
            worker.tell(order)
        case ("ready",):
            worker.idle, worker.ready, worker.stillborn = True, True, 0
        case ("started", hashes):
            worker.started = set(hashes)
            job.tally.started(len(hashes))
        case ("steps", count):
            job.tally.steps(count)
        case ("rows", rows):
            landed = {row["cell"] for row in rows}
            worker.unit = [cell for cell in worker.unit if cell.hash not in landed]
            job.done(rows)
        case ("idle", count):
            job.tally.steps(count)
            worker.idle = True
        case ("broken", kind, said, trace):
            raise _error(kind, said, trace)


def _bury(worker: _Worker, backlog: Backlog, job: Job) -> None:
    """A worker is gone: its cells go back, or are given up where they killed too many."""
    assert worker.process is not None
    code = worker.process.wait()
    if not worker.ready:
        worker.stillborn += 1
        if worker.stillborn >= (RESTARTS if code >= 0 else 5 * RESTARTS):
            raise MeasurementError(
                f"engine: worker processes end before they are ready (exit code {code}); try serial"
            )
        time.sleep(min(0.2 * worker.stillborn, 1.0))
    suspects = [cell for cell in worker.unit if cell.hash in worker.started]
    dead = backlog.back(worker.unit, suspects)
    for cell in dead:
        said = f"the process that ran this cell died each time it was tried, the last time with exit code {code}"
        record = failure_of(cell, said, engine="processes")
        job.store.write(record)
        job.done([record["row"]])
    job.tally.started(-(len(suspects) - len(dead)))
    worker.stop()


def _error(kind: str, said: str, trace: str) -> Exception:
    """What a worker could not deal with, as the error it would have been here."""
    if kind in ("OSError", "PermissionError", "FileNotFoundError"):
        return OSError(said)
    if kind in ("CannotBatch", "MeasurementError"):
        return MeasurementError(said)
    if kind == "ImportError":
        return TaskError(f"task: {said}")
    return RuntimeError(f"a worker process broke off with\n{trace}")
