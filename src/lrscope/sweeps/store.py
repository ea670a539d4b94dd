"""The directory of a sweep: a manifest, one file per cell, and a table that remembers their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lrscope.records import PARTIAL, write_json, write_whole
from lrscope.sweeps.files import sealed, unsealed
from lrscope.sweeps.lock import Lock
from lrscope.sweeps.table import TYPES

MANIFEST, CELLS, TABLE, QUARANTINE, LOCK = "sweep.json", "cells", "table.parquet", "quarantine", "lock"
_STAMPS = b"lrscope.stamps"
"""Key of the table's metadata: size and time of each cell's file when its row was remembered."""

Row = dict[str, Any]
Stamp = tuple[int, int]


class Store:
    """The rows and records of one directory. Reading takes no lock; a driver opens it with :meth:`open`.

    Args:
        directory: A sweep's directory.

    Attributes:
        rows: Known rows by hash of their cell.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.rows = directory, dict[str, Row]()
        self._stamps: dict[str, Stamp] = {}
        self._lock: Lock | None = None
        self._changed = False  # since the table was written

    @property
    def manifest(self) -> dict[str, Any]:
        """What was asked for, and with what it was computed.

        Raises:
            ValueError: The directory holds no sweep.
        """
        path = self.directory / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{self.directory}: no directory of a sweep (it has no {MANIFEST})") from None
        except ValueError:
            raise ValueError(f"{path}: is damaged; restore it, or start anew in another directory") from None
        return found

    def read(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Load what is there. Cost: one listing and the table, and the files of cells that the table misses."""
        self._recall()
        for name in self._names() - self.rows.keys():
            self._take(name, say, move=False)

    def lock(self) -> None:
        """Become the directory's only driver, and make it if need be.

        Raises:
            ValueError: It holds something else than a sweep, or another driver is at work here.
        """
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"out: {self.directory} is a file; give a directory")
        names = set(os.listdir(self.directory)) if self.directory.is_dir() else set()
        # A driver killed at once leaves these and no manifest yet.
        if MANIFEST not in names and any(n not in (CELLS, LOCK) and not n.endswith(PARTIAL) for n in names):
            raise ValueError(f"out: {self.directory} holds something else than a sweep; give another directory")
        (self.directory / CELLS).mkdir(parents=True, exist_ok=True)
        self._lock = Lock(self.directory / LOCK)

    def open(self, say: Callable[[str], None]) -> None:
        """Load what is there, as its driver: damaged cells go to quarantine, half-written files away."""
        self._recall()
        known = self._stamps
        self._stamps, rows, self.rows = {}, self.rows, {}
        with os.scandir(self.directory / CELLS) as entries:
            for entry in entries:
                if entry.name.endswith(PARTIAL):
                    os.unlink(entry)
                elif entry.name.endswith(".json"):
                    name, status = entry.name[: -len(".json")], entry.stat()
                    stamp = status.st_size, status.st_mtime_ns
                    # Unchanged since its row was remembered; any other file is read whole and checked.
                    if name in rows and known.get(name) == stamp:
                        self.rows[name], self._stamps[name] = rows[name], stamp
                    else:
                        self._take(name, say, move=True)
        for name in self.directory.glob(f".*{PARTIAL}"):
            name.unlink(missing_ok=True)

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        write_json(self.directory / MANIFEST, manifest)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a cell's file, whole; any process of any machine that shares the directory may."""
        write_whole(self._file(record["cell"]), sealed(record))

    def note(self, row: Row) -> None:
        """Take the row of a file that was just written."""
        status = self._file(row["cell"]).stat()
        self._stamps[row["cell"]] = status.st_size, status.st_mtime_ns
        self.rows[row["cell"]] = row
        self._changed = True

    def record(self, name: str) -> dict[str, Any]:
        """Everything that is kept of a cell: config, row, events, curve, traceback.

        Raises:
            ValueError: There is no such cell, or its file is damaged.
        """
        try:
            return self._whole(name)
        except FileNotFoundError:
            raise ValueError(f"{self.directory}: has no cell {name!r}") from None
        except ValueError as error:
            raise ValueError(f"{self._file(name)}: is damaged ({error}); run the sweep again to replace it") from None

    def remember(self, axes: Iterable[str]) -> None:
        """Write the table, unless it has these rows already."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._changed:
            return
        rows = list(self.rows.values())
        names = dict.fromkeys([*axes, *(name for row in rows for name in row)])
        table = pa.table({name: _column(name, [row.get(name) for row in rows]) for name in names})
        stamps = json.dumps(self._stamps).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({_STAMPS: stamps}), sink)
        write_whole(self.directory / TABLE, sink.getvalue().to_pybytes())
        self._changed = False

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _whole(self, name: str) -> dict[str, Any]:
        record = unsealed(self._file(name).read_bytes())
        if record["cell"] != name:
            raise ValueError(f"it holds the cell {record['cell']}")
        return record

    def _file(self, name: str) -> Path:
        return self.directory / CELLS / f"{name}.json"

    def _names(self) -> set[str]:
        try:
            with os.scandir(self.directory / CELLS) as entries:
                return {e.name[: -len(".json")] for e in entries if e.name.endswith(".json")}
        except FileNotFoundError:
            return set()

    def _recall(self) -> None:
        """Rows of the table, which is only ever a memory of the cells' files: an unreadable one is passed over."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.directory / TABLE, memory_map=False)
            stamps = json.loads((table.schema.metadata or {})[_STAMPS])
            rows = {row["cell"]: row for row in table.to_pylist()}
        except (FileNotFoundError, pa.ArrowException, OSError, ValueError, KeyError):
            return
        there = self._names()
        self.rows = {name: row for name, row in rows.items() if name in there}
        self._stamps = {name: (size, when) for name, (size, when) in stamps.items() if name in self.rows}
        self._changed = len(self.rows) < len(rows)

    def _take(self, name: str, say: Callable[[str], None], *, move: bool) -> None:
        """Read a cell's file into the rows; a damaged one is told, and moved away by a driver."""
        path = self._file(name)
        try:
            record = self._whole(name)
        except FileNotFoundError:
            return
        except ValueError as error:
            if move:
                aside = self.directory / QUARANTINE
                aside.mkdir(exist_ok=True)
                path.replace(aside / path.name)
                say(f"{path} is damaged ({error}); moved to {QUARANTINE}, the cell runs again")
            else:
                say(f"{path} is damaged ({error}); left out; running the sweep again replaces it")
            return
        self.note(record["row"])


def _column(name: str, values: list[Any]) -> Any:
    """One type for all: an axis, say, may hold whole numbers in one group and fractions in another."""
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    kinds = {type(v) for v in values if v is not None} or {TYPES.get(name, float)}
    kind = kinds.pop() if len(kinds) == 1 else float if kinds == {int, float} else str
    return pa.array([None if v is None else kind(v) for v in values], types[kind])
