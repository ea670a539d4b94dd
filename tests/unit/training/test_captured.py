"""Captured programs: the plain ones, played from a tape."""

import contextlib
import dataclasses

import pytest
import torch
from torch import nn

from cases import TASKS, cells, cross_entropy, mlp
from lrscope.isolation import mode_of
from lrscope.schedules import Constant
from lrscope.tasks import digits, topics
from lrscope.training import Cell, choice, chunk, replicas, run_cells
from lrscope.training.captured import Captured, Drifted, Graphs, Lane
from lrscope.training.feed import Feed
from lrscope.training.lanes import keeps
from lrscope.training.program import Program, examine


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


SLOW = {"lstm", "attention", "attention_tied", "attention_dropout", "dict", "tensor", "loader"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else []) for n in TASKS])
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


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("name", ["tuple", "batch_norm"])
def test_lanes_and_chunks_change_nothing(name, lanes):
    """Seven cells in chunks of two: tapes are used again, the last chunk is smaller, and two share each wave."""
    task = TASKS[name](dtype=torch.float64)
    todo = [Cell(Constant(0.01 * (i + 1)), seed=i % 2, optimizer={"momentum": 0.1 * i}) for i in range(7)]
    got = replicas(task, "sgd", todo, 13, captured=True, lanes=lanes, chunk=2)
    for a, b in zip(got, replicas(task, "sgd", todo, 13, captured=False), strict=True):
        same(a, b)


def test_lanes_leave_the_number_of_threads_and_the_generators_as_found():
    torch.set_num_threads(2)
    try:
        before = torch.get_rng_state()
        seen = []
        replicas(TASKS["tuple"](), "sgd", cells(), 12, captured=True, chunk=1, on_progress=lambda *x: seen.append(x))
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.get_rng_state(), before)
        assert seen == sorted(seen)
        assert seen[-1] == (48, 48)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("at", "few"), [(0, 0), (8, 0), (10, 1_000), (23, 1_000)])
def test_diverged_replicas_leave_or_idle_and_disturb_nobody(at, few, monkeypatch):
    monkeypatch.setattr(chunk, "FEW_LEFT", few)
    task = TASKS["tuple"](dtype=torch.float64)
    huge = dataclasses.replace(
        task, loss_fn=lambda m, b: cross_entropy(m, b) + sum(p.square().sum() for p in m.parameters())
    )
    bombs = [Cell(Constant(1e9) if at == 0 else Constant(0.05, at).then(1e9), seed=s) for s in (0, 1)]
    calm = cells()
    mixed = [bombs[0], *calm[:3], bombs[1], *calm[3:]]
    got = replicas(huge, "adamw", mixed, 40, captured=True, at_end=lambda i, _: {"index": i})
    for a, b in zip(
        got, replicas(huge, "adamw", mixed, 40, captured=False, at_end=lambda i, _: {"index": i}), strict=True
    ):
        same(a, b)
    assert [run.status for run in got].count("diverged") == 2


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_seed_whose_runs_are_all_gone_is_fed_no_more(lanes, monkeypatch):
    monkeypatch.setattr(chunk, "FEW_LEFT", 0)
    task = TASKS["tuple"](dtype=torch.float64)
    huge = dataclasses.replace(
        task, loss_fn=lambda m, b: cross_entropy(m, b) + sum(p.square().sum() for p in m.parameters())
    )
    todo = [Cell(Constant(0.05, 8).then(1e9), seed=s) for s in (1, 2, 3)] + cells(seeds=(0,))
    pair = (replicas(huge, "adamw", todo, 40, captured=c, lanes=lanes, chunk=3) for c in (True, False))
    for a, b in zip(*pair, strict=True):
        same(a, b)


def test_a_model_that_counts_its_calls_is_trained_plainly():
    class Fades(nn.Module):
        """Looks the same for its first calls, so that a trace would agree with it."""

        def __init__(self):
            super().__init__()
            self.inner, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) * (1.0 if self.calls < 9 else 0.5)

    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), build=lambda seed: Fades().double())
    assert examine(task, 0, task.batches(1)[0]).counts
    for a, b in both(task, "sgd", cells(seeds=(0,)), 30):
        same(a, b)


@pytest.mark.parametrize("lanes", [1, 2])
def test_runs_begin_anew_without_the_tape_once_it_disagrees(lanes, monkeypatch):
    """Even where what went wrong is in a loss function, whose memory nobody can see."""
    told = []

    def disagrees(self, tape, batch, dims):
        told.append(1)
        return len(told) <= 3 * lanes  # when recorded, and at step 0; but not at step 10

    monkeypatch.setattr(Captured, "_agrees", disagrees)
    task, started = TASKS["tuple"](dtype=torch.float64), []
    got = replicas(
        task, "sgd", cells(), 30, captured=True, lanes=lanes, at_start=lambda i, _: started.append(i) or {"n": i}
    )
    assert len(told) > 3 * lanes
    assert sorted(started) == [0, 1, 2, 3]  # not again when the runs began anew
    monkeypatch.undo()
    for i, (a, b) in enumerate(zip(got, replicas(task, "sgd", cells(), 30, captured=False), strict=True)):
        assert a.rows[0].pop("n") == i
        same(a, b)


def test_a_tape_that_lies_is_noticed():
    task = TASKS["tuple"](dtype=torch.float64)
    captured, batch, dims = record(task)
    with mode_of(captured.program.model, training=True):
        captured.prepare(0, batch, dims)
        captured.program.loss_fn.loss_fn = lambda model, batch: 1.01 * cross_entropy(model, batch)
        with pytest.raises(Drifted):
            captured.prepare(10, batch, dims)


def test_what_cannot_be_traced_runs_plainly():
    def by_mask(model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x)[y > 0], y[y > 0])

    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), loss_fn=by_mask)
    todo = cells(seeds=(0,))
    captured, batch, dims = record(task)
    with mode_of(captured.program.model, training=True):
        assert captured.tape(batch, dims) is None
    for a, b in both(task, "sgd", todo, 15):
        same(a, b)


def test_more_kinds_of_batch_than_are_traced():
    g = torch.Generator().manual_seed(0)
    batches = [(torch.randn(n, 6, generator=g).double(), torch.randint(3, (n,), generator=g)) for n in range(3, 10)]
    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), train=batches)
    for a, b in both(task, "sgd", cells(seeds=(0,)), 15):
        same(a, b)


def test_a_lane_keeps_its_tapes_for_programs_of_one_kind():
    task = TASKS["batch_norm"](dtype=torch.float64)
    lane, seeds = Lane(Graphs()), (0, 0)
    batch, dims = Feed.of(task, seeds).next(seeds)
    programs = [Program(task, s, examine(task, 0, batch)) for s in ((0, 0), (1, 1), (0, 0, 0))]
    expected = programs[1].theta.clone()
    with contextlib.ExitStack() as stack:
        for program in programs:
            stack.enter_context(mode_of(program.model, training=True))
        first = lane.enter(programs[0])
        tape = first.tape(batch, dims)
        assert lane.enter(programs[1]) is first
        assert first.tape(batch, dims) is tape
        assert torch.equal(programs[1].theta, expected)
        losses, grads = (t.clone() for t in first.gradients(batch, dims))
        plain = Program(task, (1, 1), examine(task, 1, batch))
        stack.enter_context(mode_of(plain.model, training=True))
        for got, wanted in zip((losses, grads), plain.gradients(batch, dims), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)
        assert lane.enter(programs[2]) is not first


def test_batches_of_built_in_tasks_stay_what_they_are_and_may_be_drawn_ahead():
    for task in (digits(), topics()):
        assert keeps(task)
        batches = iter(task.train)
        first = next(batches)
        held = [t.clone() for t in first]
        next(batches)
        assert all(torch.equal(a, b) for a, b in zip(first, held, strict=True))


def test_other_loaders_are_asked_for_one_batch_at_a_time():
    """Such as those that fill the same memory again."""
    x, y = torch.randn(5, 4, 6, dtype=torch.float64), torch.randint(3, (5, 4))

    class Refills:
        def __iter__(self):
            memory = torch.empty_like(x[0]), torch.empty_like(y[0])
            for i in range(5):
                memory[0].copy_(x[i])
                memory[1].copy_(y[i])
                yield memory

    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), train=Refills())
    assert not keeps(task)
    for a, b in both(task, "sgd", cells(), 23):
        same(a, b)
    serial = run_cells(task, "sgd", cells(), 23, engine="serial")
    assert replicas(task, "sgd", cells(), 23, captured=True)[0]["loss"].value == pytest.approx(
        serial[0]["loss"].value, rel=1e-9
    )


def test_auto_tries_the_captured_program_where_it_pays(monkeypatch):
    monkeypatch.setattr(choice, "WORTH_A_TRACE", 0.0)
    task = dataclasses.replace(TASKS["tuple"](), name="worth a trace")
    runs = run_cells(task, "sgd", cells(), 12)
    assert "captured replicas" in runs[0].config["engine_note"]
    monkeypatch.setattr(choice, "WORTH_A_TRACE", 1e9)
    runs = run_cells(dataclasses.replace(task, name="not worth a trace"), "sgd", cells(), 12)
    assert "captured" not in runs[0].config["engine_note"]
