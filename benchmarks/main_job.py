"""The main job as a person meets it: wall time and memory of whole commands, and of imports.

    python benchmarks/main_job.py            # about 5 minutes on 2 cores
    python benchmarks/main_job.py --quick    # imports and help only

Prints a table and writes ``benchmarks/results/main_job.json``. Commands run in fresh directories, one at a time; each
import is timed in five fresh interpreters beside an empty one, and the median is given.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lrscope.records import environment

RESULTS = Path(__file__).parent / "results"
LRSCOPE = [sys.executable, "-m", "lrscope"]
JOBS = {
    "lrscope run digits": [*LRSCOPE, "run", "digits", "--json"],
    "lrscope run digits --optimizer sgd": [*LRSCOPE, "run", "digits", "--optimizer", "sgd", "--json"],
    "lrscope run topics --steps 400": [*LRSCOPE, "run", "topics", "--steps", "400", "--json"],
    "lrscope run topics --steps 400 --optimizer sgd": [
        *LRSCOPE, "run", "topics", "--steps", "400", "--optimizer", "sgd", "--json",
    ],
    "lrscope run examples/my_task.py:task": [
        *LRSCOPE, "run", str(Path(__file__).parents[1] / "examples" / "my_task.py") + ":task", "--json",
    ],
}  # fmt: skip
STARTS = {
    "empty interpreter": [sys.executable, "-c", "pass"],
    "import numpy": [sys.executable, "-c", "import numpy"],
    "import lrscope.schedules": [sys.executable, "-c", "import lrscope.schedules"],
    "import torch": [sys.executable, "-c", "import torch"],
    "lrscope --help": [*LRSCOPE, "--help"],
    "lrscope show (preview)": [*LRSCOPE, "show", "warmup(6%) > cosine(to=0)", "--steps", "10000"],
}


def job(command: list[str]) -> dict[str, float]:
    """Wall seconds and peak memory of one whole command, its children included."""
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        out = process.stdout.read()  # type: ignore[union-attr]
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        assert os.waitstatus_to_exitcode(status) == 0, command
    result = json.loads(out)
    return {
        "seconds": round(seconds, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
        "planning_share": round(result["plan"]["share"], 2),
        "final_loss": result["runs"]["planned"]["final"]["eval_loss"],
    }


def start(command: list[str], times: int = 5) -> float:
    """Median wall seconds of a short command over fresh interpreters, after one to warm the file cache."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def main() -> None:
    starts = {name: round(start(command), 3) for name, command in STARTS.items()}
    lines = ["| start | seconds | above the empty interpreter |", "|---|---|---|"]
    lines += [f"| {n} | {s:.3f} | {s - starts['empty interpreter']:.3f} |" for n, s in starts.items()]
    jobs = {}
    if "--quick" not in sys.argv:
        jobs = {name: job(command) for name, command in JOBS.items()}
        lines += ["", "| command | wall, s | peak memory, MB | planning, full runs |", "|---|---|---|---|"]
        lines += [f"| `{n}` | {j['seconds']} | {j['peak_mb']} | {j['planning_share']} |" for n, j in jobs.items()]
    print("\n".join(lines))
    if jobs:
        RESULTS.mkdir(exist_ok=True)
        record = {"environment": environment(), "starts": starts, "jobs": jobs}
        (RESULTS / "main_job.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
