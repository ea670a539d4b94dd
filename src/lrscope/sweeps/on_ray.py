"""Cells as tasks of Ray: on this machine, or on a cluster by its address."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lrscope.errors import MeasurementError, MissingExtraError, TaskError
from lrscope.sweeps.backlog import Backlog, Unit
from lrscope.sweeps.cells import SweepCell, units
from lrscope.sweeps.engines import Job
from lrscope.sweeps.outcome import failure_of
from lrscope.sweeps.processes import SHARES, WORKER, pickled
from lrscope.sweeps.work import Listener, Record, Within, WriteBehind, most_at_once, run_unit

AHEAD = 2
"""Units in flight per slot of the cluster: enough to keep it busy, so few that results never pile up in its store."""


@dataclass(frozen=True)
class Ray:
    """Tasks of Ray; results come back to this process, which alone writes files.

    A task of a lost node or a killed worker runs again; a cell at which five were lost is recorded as failed. Tasks
    are stateless, so one that runs twice changes nothing. The address of a running Ray in this process is used.

    Args:
        address: Of a cluster, as in ``ray.init``; ``None``: a Ray on this machine, ended afterwards.
        threads: Of torch, in each task.
        within: What each task runs its cells with; as in :class:`~lrscope.sweeps.Processes`.
        cpus, gpus: Resources of a task; ``None``: as many cores as ``threads``.
        runtime_env: As in ``ray.init``; ``{"working_dir": "."}`` sends the folder of a task named as
            ``file.py:function``.

    Raises:
        MissingExtraError: From :meth:`run`: Ray is not installed.
    """

    name: ClassVar[str] = "ray"
    address: str | None = None
    threads: int = 1
    within: Within = "serial"
    cpus: float | None = None
    gpus: float = 0
    runtime_env: Mapping[str, Any] | None = None

    def run(self, job: Job, cells: Sequence[SweepCell]) -> None:
        ray = _ray()
        payload = pickled(job.source)
        ours = not ray.is_initialized()
        if ours:
            self._connect(ray)
        try:
            self._drive(ray, job, cells, payload)
        finally:
            if ours:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        env = {"env_vars": {WORKER: "1"}, **(self.runtime_env or {})}
        try:
            _knock(self.address)
            ray.init(address=self.address, runtime_env=env, include_dashboard=False, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise MeasurementError(f"engine: no Ray at {self.address or 'this machine'} ({said})") from error

    def _drive(self, ray: Any, job: Job, cells: Sequence[SweepCell], payload: bytes) -> None:
        share = max(1, -(-len(cells) // (self._slots(ray) * SHARES)))
        backlog = Backlog(units(cells, lambda steps: min(share, 16, most_at_once(steps))))
        # The data of the task go to each node once, not with each unit.
        shared = ray.put(payload)
        resources = {"num_cpus": self.cpus if self.cpus is not None else self.threads, "num_gpus": self.gpus}
        remote = ray.remote(max_retries=0, **resources)(run_there)
        flying: dict[Any, Unit] = {}
        with WriteBehind(job.store) as behind:
            try:
                while backlog or flying:
                    while len(flying) < AHEAD * self._slots(ray) and (unit := backlog.next()):
                        flying[remote.remote(shared, unit, self.within, self.threads)] = unit
                        job.tally.started(len(unit))
                    for ref in ray.wait(list(flying), timeout=0.2)[0]:
                        self._land(ray, ref, flying.pop(ref), backlog, job, behind)
                    job.tally.tell()
            finally:
                for ref in flying:
                    ray.cancel(ref, force=True)
                job.done(behind.landed(wait=True))

    def _land(self, ray: Any, ref: Any, unit: Unit, backlog: Backlog, job: Job, behind: WriteBehind) -> None:
        """Take what a task returned, or its cells back."""
        try:
            records = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            raise _error(error) from error
        except ray.exceptions.RayError as error:  # of the worker, its node, or the way back
            dead = backlog.back(unit, unit)
            said = f"Ray lost the task of this cell each time ({type(error).__name__})"
            records = [failure_of(cell, said, engine="ray") for cell in dead]
            job.tally.started(len(dead) - len(unit))
        for record in records:
            job.done(behind.put(record))
        job.tally.steps(sum(cell.steps for cell in unit) if len(records) == len(unit) else 0)

    def _slots(self, ray: Any) -> int:
        """Tasks that the cluster can run at a time."""
        there = ray.cluster_resources()
        slots = there.get("CPU", 1.0) / (self.cpus or self.threads)
        return max(1, int(min(slots, there.get("GPU", 0.0) / self.gpus) if self.gpus else slots))


def run_there(payload: bytes, cells: Sequence[SweepCell], within: Within, threads: int) -> list[Record]:
    """Run a unit somewhere else; its records."""
    import pickle

    os.environ[WORKER] = "1"
    try:
        source = _SOURCES.get(payload) or pickle.loads(payload)
        _ = source.maker
    except Exception as error:
        raise TaskError(
            f"task: cannot be loaded in a worker of Ray ({type(error).__name__}: {error}); runtime_env= can send it"
        ) from error
    _SOURCES.clear()
    _SOURCES[payload] = source
    records: list[Record] = []
    listener = Listener(records.append, lambda _: None)
    for unit in [[cell] for cell in cells] if within == "serial" else [list(cells)]:
        run_unit(source, unit, listener, within=within, threads=threads)
    return records


_SOURCES: dict[bytes, Any] = {}
"""The last task of this worker, which Ray uses again and again."""


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.exceptions  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("engine: 'ray' needs Ray; pip install 'lrscope[ray]'") from error
    return ray


def _knock(address: str | None) -> None:
    """Raise at once where nobody listens: Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _error(error: Any) -> Exception:
    """What a task could not deal with, as the error it would have been here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, (TaskError, MeasurementError, OSError)):
        return cause
    return RuntimeError(f"a task of Ray broke off with\n{error}")
