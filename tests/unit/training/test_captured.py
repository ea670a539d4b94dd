"""Captured programs: the plain ones, played from a tape."""

import dataclasses

import pytest
import torch

from cases import TASKS
from lrscope.isolation import mode_of
from lrscope.schedules import Linear
from lrscope.training import Cell, replicas
from lrscope.training.captured import Captured, Graphs
from lrscope.training.grouping import Feed
from lrscope.training.program import Program, examine


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def cells(rates=(0.02, 0.1), seeds=(0, 1), steps=40):
    return [Cell(Linear(0.0, lr, steps), seed=seed) for seed in seeds for lr in rates]


def both(task, optimizer, todo, steps, **options):
    pair = (replicas(task, optimizer, todo, steps, captured=c, **options) for c in (True, False))
    return zip(*pair, strict=True)


def same(a, b, rel=1e-9):
    assert (a.status, a.config, [(e.step, e.kind) for e in a.events]) == (
        b.status,
        b.config,
        [(e.step, e.kind) for e in b.events],
    )
    assert dataclasses.replace(a.cost, seconds=0) == dataclasses.replace(b.cost, seconds=0)
    for x, y in zip(a.rows, b.rows, strict=True):
        assert x.keys() == y.keys()
        assert list(x.values()) == pytest.approx(list(y.values()), rel=rel, abs=1e-13)


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_gives_the_plain_runs(name):
    task = TASKS[name](dtype=torch.float64)
    for a, b in both(task, "sgd", cells(steps=12), 12):
        same(a, b)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "tuple" else pytest.mark.slow) for n in TASKS])
def test_two_hundred_steps_are_the_plain_ones(name):
    task = TASKS[name](dtype=torch.float64)
    for a, b in both(task, "adamw", cells((0.001, 0.003), steps=200), 200, record_every=10):
        same(a, b, rel=1e-6)


def record(task, seeds=(0, 0, 0)):
    """A captured program before its first step, and its first batch."""
    batch, dims = Feed.of(task, seeds).next(seeds)
    program = Program(task, seeds, examine(task, seeds[0], task.batches(1)[0]))
    return Captured(program, Graphs()), batch, dims


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_can_be_captured(name):
    seeds = (0, 0, 0) if "dropout" in name or name == "linear_squared" else (0, 1, 1)
    captured, batch, dims = record(TASKS[name](dtype=torch.float64), seeds)
    with mode_of(captured.program.model, training=True):
        assert captured.tape(batch, dims) is not None
