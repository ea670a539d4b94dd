"""One training run: what was asked, what was seen at which step, how it ended.

A run is written while it happens, as lines of JSON that are only ever appended, so a killed process loses at most
the last flush; :meth:`Run.read` ignores a half-written last line and calls such a run ``interrupted``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from lrscope.records.cost import Cost
from lrscope.records.environment import environment
from lrscope.records.lines import drop_torn_line, read_lines
from lrscope.records.loggers import Logger, as_metrics
from lrscope.records.strict import strict_json
from lrscope.records.table import Table

Status = Literal["finished", "diverged", "interrupted"]


class Series(NamedTuple):
    """One quantity over time: ``step`` int64 and ``value`` float64, both ``(n,)``; steps increase."""

    step: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Event:
    """Something that happened at a step: ``catapult``, ``diverged``, ``interrupted``, ``resumed``…"""

    step: int
    kind: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A training run as data.

    Attributes:
        name: Short name, used in reports.
        config: All that defines the run, JSON-able: task, optimizer, schedule spec, steps, seed.
        rows: One mapping per recorded step; key ``step`` counts finished updates, so row 0 is before or at the
            first update. ``loss`` and ``lr`` are those of the update that starts at this step.
        status: ``finished``, ``diverged`` (the last row's step says when) or ``interrupted``.
        events: What happened on the way.
        environment: Versions and machine class.
        cost: Work spent, in evaluations of one training batch.
    """

    name: str
    config: Mapping[str, Any]
    rows: tuple[Mapping[str, float], ...] = ()
    status: Status = "finished"
    events: tuple[Event, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=environment)
    cost: Cost = field(default_factory=Cost)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(k for row in self.rows for k in row if k != "step"))

    @property
    def steps_done(self) -> int:
        """Finished updates."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    def __getitem__(self, column: str) -> Series:
        """Steps and values at which ``column`` was recorded.

        Raises:
            KeyError: It never was; the message lists the columns there are.
        """
        found = [(row["step"], row[column]) for row in self.rows if row.get(column) is not None]
        if not found:
            raise KeyError(
                f"no column {column!r} in run {self.name!r}; there are {', '.join(self.columns) or 'none'}"
            )
        steps, values = zip(*found, strict=True)
        return Series(np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64))

    def final(self, column: str) -> float:
        """Last recorded value of ``column``; ``nan`` if there is none or the run diverged."""
        if self.status == "diverged" or column not in self.columns:
            return math.nan
        return float(self[column].value[-1])

    def table(self) -> Table:
        return Table.of(self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "steps_done": self.steps_done,
            "config": dict(self.config),
            "environment": dict(self.environment),
            "cost": self.cost.to_dict(),
            "events": [{"step": e.step, "kind": e.kind, **e.detail} for e in self.events],
            "columns": {c: {"step": self[c].step.tolist(), "value": self[c].value.tolist()} for c in self.columns},
        }

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a run's line file, finished or not.

        Raises:
            ValueError: The file does not start with a run's header.
        """
        lines: list[dict[str, Any]] = []
        for line in read_lines(path):
            if line is None:  # the one a killed process was writing
                break
            lines.append(line)
        if not lines or lines[0].get("kind") != "run":
            raise ValueError(f"{path}: not a run file (its first line should be a run header)")
        header, rows, events, end = lines[0], [], [], {}
        for line in lines[1:]:
            if "event" in line:
                detail = {k: v for k, v in line.items() if k not in ("event", "step")}
                events.append(Event(line["step"], line["event"], detail))
                if line["event"] == "resumed":  # what was written after the checkpoint is run again
                    rows = [row for row in rows if row["step"] < line["step"]]
                    end = {}
            elif "end" in line:
                end = line
            else:
                rows.append(line)
        return cls(
            name=header["name"],
            config=header["config"],
            rows=tuple(rows),
            status=end.get("end", "interrupted"),
            events=tuple(events),
            environment=header["environment"],
            cost=Cost(**end.get("cost", {})),
        )


class RunWriter:
    """Appends a run's rows to a file as they come.

    Args:
        path: The line file; ``None`` keeps the rows in memory only.
        name, config: As in :class:`Run`.
        append: Continue an existing file (a resumed run) instead of starting a new one.
        flush_every: Seconds between flushes to disk: what a killed process loses at most.
        loggers: Also get every row, under the names of :func:`~lrscope.records.as_metrics`.
    """

    def __init__(
        self,
        path: Path | None,
        name: str,
        config: Mapping[str, Any],
        *,
        append: bool = False,
        flush_every: float = 1.0,
        loggers: Sequence[Logger] = (),
    ) -> None:
        for logger in loggers:
            if not callable(getattr(logger, "log", None)):
                raise TypeError(f"loggers: expected objects with log(metrics, step), got {type(logger).__name__}")
        self._loggers = tuple(loggers)
        self.name, self.config, self.path = name, dict(config), path
        self.rows: list[Mapping[str, float]] = []
        self.events: list[Event] = []
        self.environment = environment()
        self._flush_every, self._flushed = flush_every, time.monotonic()
        self._file = None
        if path is not None:
            append = append and path.exists()
            if append:
                before = Run.read(path)
                self.rows, self.events = list(before.rows), list(before.events)
                drop_torn_line(path)
            self._file = path.open("a" if append else "w", encoding="utf-8")
            if not append:
                self._write({"kind": "run", "name": name, "config": self.config, "environment": self.environment})
            self.flush()

    def row(self, step: int, **values: float | None) -> None:
        """One step's values; those that are missing or not finite are left out."""
        record = {"step": step, **{k: v for k, v in values.items() if v is not None and math.isfinite(v)}}
        self.rows.append(record)
        self._write(record)
        for logger in self._loggers:
            logger.log(as_metrics(record), step)
        if time.monotonic() - self._flushed > self._flush_every:
            self.flush()

    def event(self, step: int, kind: str, **detail: Any) -> None:
        self.events.append(Event(step, kind, detail))
        if kind == "resumed":
            self.rows = [row for row in self.rows if row["step"] < step]
        self._write({"event": kind, "step": step, **detail})
        self.flush()

    def end(self, status: Status, cost: Cost) -> Run:
        """Close the file and return the run."""
        self._write({"end": status, "cost": cost.to_dict()})
        self.close()
        return Run(
            name=self.name,
            config=self.config,
            rows=tuple(self.rows),
            status=status,
            events=tuple(self.events),
            environment=self.environment,
            cost=cost,
        )

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(strict_json(record) + "\n")


def add_events(path: Path, events: Iterable[tuple[int, str, Mapping[str, Any]]]) -> None:
    """Append what was found in a finished run's file; reading it gives them beside the others."""
    drop_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        for step, kind, detail in events:
            file.write(strict_json({"event": kind, "step": step, **detail}) + "\n")
