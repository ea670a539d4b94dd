"""A sweep of cells that take a while, to be disturbed; importable by worker processes."""

import os
import time
from functools import partial
from pathlib import Path

import torch

from cases import TASKS
from lrscope.sweeps import Sweep, sweep
from lrscope.tasks import Task

AXES = {"lr": [0.01, 0.1, 1.0], "warmup": [0, "50%"], "seeds": 2, "steps": 12}
CELLS = 12


def loss_fn(inner, pause, model, batch):
    time.sleep(pause)
    return inner(model, batch)


def killing(good, victim, seed):
    if seed == victim:
        os._exit(9)
    return good(seed)


def make(pause: float = 0.008, victim: int = -1) -> Task:
    good = TASKS["tuple"](dtype=torch.float64)
    build = partial(killing, good.build, victim)
    return Task(build, partial(loss_fn, good.loss_fn, pause), good.train, good.evaluate, good.metrics, name="slow")


def slow_sweep(out: Path, engine, **more) -> Sweep:
    return sweep(make, pause=[0.012], **{**AXES, **more}, out=out, engine=engine)


def outcomes(found: Sweep) -> list[dict]:
    """Rows without what depends on who ran them."""
    return [{k: v for k, v in row.items() if k not in ("engine", "seconds", "error")} for row in found.table.rows()]


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it ended meanwhile
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found
