"""What a sweep's store and progress cost: overhead per cell, opening a large directory, memory.

    python benchmarks/sweep_store.py [--cells 1000] [--open 10000]

Three measurements, in one run:

1. Overhead: the same cells (of about 0.1 s each: a sleep of that length in place of training, so that the machine's
   noise is not what is measured) run through a bare loop that builds the same records, and through the serial
   engine with files, rows and progress; in turns, block by block. The share is of the wall time.
2. Opening: a directory of so many cells, written by the store itself, opened by ``lrs.sweeps.read`` in a new process
   after its table was written, and by a driver (``Store.open``), which also looks at every file.
3. Memory: peak resident memory after a tenth and after all of the cells of the first measurement.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lrscope.records import Cost, Run, environment
from lrscope.sweeps import engines
from lrscope.sweeps.grid import Grid
from lrscope.sweeps.manifest import manifest_of
from lrscope.sweeps.outcome import record_of
from lrscope.sweeps.source import Source
from lrscope.sweeps.store import Store
from lrscope.sweeps.tally import Tally

STEPS = 300
RESULTS = Path(__file__).parent / "results" / "sweep_store.json"


def cells_of(count: int) -> tuple[Grid, list]:
    grid = Grid(Source("digits"), given={"lr": list(np.geomspace(1e-4, 10, count))}, steps=STEPS)
    return grid, list(grid.cells())


def run_of(cell, losses: np.ndarray) -> Run:
    """What training would give: a finished run of as many rows, with an evaluation."""
    rows = [{"step": t, "loss": float(v), "lr": cell.lr} for t, v in enumerate(losses)]
    rows.append({"step": STEPS, "eval_loss": float(losses[-1]), "accuracy": 0.5})
    config = {"engine": "serial"}
    return Run(cell.hash, config, tuple(rows), environment=KNOWN, cost=Cost(gradients=STEPS, updates=STEPS))


KNOWN = environment()
CURVE = 2.0 * np.exp(-np.arange(STEPS) / 80) + 0.3 + 0.05 * np.random.default_rng(0).standard_normal(STEPS)


def memory() -> float:
    """Peak resident memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def overhead(count: int, seconds: float, blocks: int) -> dict:
    """Blocks of cells without and with the store, in turns."""
    grid, cells = cells_of(count)
    size = count // blocks
    bare, kept, peak = [], [], []

    def work(source, unit, listener, **_):  # noqa: ARG001 - stands in for run_unit
        (cell,) = unit
        for _ in range(10):  # progress is told now and then, as a training loop does
            time.sleep(seconds / 10)
            listener.on_steps(STEPS // 10)
        listener.on_record(record_of(cell, run_of(cell, CURVE)))

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s")
        store.lock()
        store.open(print)
        store.write_manifest(manifest_of(grid, cells[0], None))
        shown = []
        job = engines.Job(grid.source, store, Tally(lambda p: shown.append(f"{p.done}/{p.total} {p.rate:.0f}")))
        job.tally.ask(cells, {})
        engines.run_unit = work
        for i in range(blocks):
            part = cells[i * size : (i + 1) * size]
            started = time.perf_counter()
            for cell in part:
                for _ in range(10):
                    time.sleep(seconds / 10)
                record_of(cell, run_of(cell, CURVE))
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            engines.run_here(job, [[cell] for cell in part], "serial", None)
            kept.append(time.perf_counter() - started)
            peak.append(memory())
        started = time.perf_counter()
        store.remember(grid.axes)
        table = time.perf_counter() - started
        store.close()
    ratios = [b / a - 1 for a, b in zip(bare, kept, strict=True)]
    total = (sum(kept) + table) / sum(bare) - 1
    return {
        "cells": size * blocks,
        "bare_seconds": bare,
        "kept_seconds": kept,
        "table_seconds": table,
        "overhead_median": statistics.median(ratios),
        "overhead_total": total,
        "peak_mib": peak,
        "progress_lines": len(shown),
    }


READ = """
import sys, time
import lrscope.sweeps
started = time.perf_counter()
found = lrscope.sweeps.read(sys.argv[1])
print(time.perf_counter() - started, len(found.table))
"""


def opening(count: int) -> dict:
    """Seconds to open a directory of ``count`` cells, as a reader and as a driver."""
    grid, cells = cells_of(count)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "s"
        store = Store(where)
        store.lock()
        store.open(print)
        store.write_manifest({**manifest_of(grid, cells[0], None)})
        record = record_of(cells[0], run_of(cells[0], CURVE))
        started = time.perf_counter()
        for cell in cells:
            row = {**record["row"], "cell": cell.hash, "lr": cell.lr}
            store.write({**record, "cell": cell.hash, "row": row})
            store.note(row)
        writing = time.perf_counter() - started
        started = time.perf_counter()
        store.remember(grid.axes)
        table = time.perf_counter() - started
        store.close()
        read = []
        for _ in range(3):
            said = subprocess.run([sys.executable, "-c", READ, where], capture_output=True, text=True, check=True)
            seconds, rows = said.stdout.split()
            assert int(rows) == count
            read.append(float(seconds))
        driver = []
        for _ in range(3):
            again = Store(where)
            again.lock()
            started = time.perf_counter()
            again.open(print)
            driver.append(time.perf_counter() - started)
            again.close()
        (where / "table.parquet").unlink()
        started = time.perf_counter()
        without = Store(where)
        without.read(print)
        missing = time.perf_counter() - started
        size = sum(p.stat().st_size for p in (where / "cells").iterdir())
    return {
        "cells": count,
        "read_seconds": read,
        "driver_seconds": driver,
        "read_without_table_seconds": missing,
        "write_seconds_per_cell": writing / count,
        "table_seconds": table,
        "bytes_per_cell": size / count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--open", type=int, default=10_000)
    options = parser.parse_args()
    found = {"environment": KNOWN, "opening": opening(options.open)}
    found["overhead"] = overhead(options.cells, options.seconds, 10)
    o, s = found["opening"], found["overhead"]
    print(f"{'overhead of store and progress, ' + str(s['cells']) + ' cells':50} {s['overhead_total']:8.2%}")
    print(f"{'  median of 10 blocks':50} {s['overhead_median']:8.2%}")
    print(f"{'peak memory after 10 % and all of them, MiB':50} {s['peak_mib'][0]:8.1f} {s['peak_mib'][-1]:8.1f}")
    print(
        f"{'opening ' + str(o['cells']) + ' cells, s (median of 3)':50} {statistics.median(o['read_seconds']):8.2f}"
    )
    print(f"{'  as a driver, which checks every file':50} {statistics.median(o['driver_seconds']):8.2f}")
    print(f"{'  without its table':50} {o['read_without_table_seconds']:8.2f}")
    print(f"{'writing a cell, ms (synced)':50} {o['write_seconds_per_cell'] * 1e3:8.2f}")
    print(f"{'bytes per cell':50} {o['bytes_per_cell']:8.0f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
