"""Batched replicas against one run after the other: the same numbers, the same record, and no trace."""

import contextlib
import dataclasses
import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cases import TASKS, cross_entropy, mlp
from lrscope.errors import TaskError
from lrscope.records import Cost
from lrscope.schedules import Constant, Linear
from lrscope.tasks import Task
from lrscope.training import CannotBatch, Cell, choice, engines, replicas, run_cells
from lrscope.training.choice import Choice
from lrscope.training.lanes import threads


def warm(peak, steps=40):
    return Linear(0.0, peak, steps // 4).then(Linear(peak, 0.0, steps - steps // 4))


def cells(rates=(0.02, 0.1), seeds=(0, 1), steps=40):
    return [Cell(warm(lr, steps), seed=seed) for seed in seeds for lr in rates]


def same(got, expected, rtol=1e-9):
    """Two runs hold the same record, but for who made it and how long it took."""
    assert (got.status, got.name) == (expected.status, expected.name)
    assert [(e.step, e.kind) for e in got.events] == [(e.step, e.kind) for e in expected.events]
    assert {**got.config, "engine": 0} == {**expected.config, "engine": 0}
    assert dataclasses.replace(got.cost, seconds=0) == dataclasses.replace(expected.cost, seconds=0)
    assert [r.keys() for r in got.rows] == [r.keys() for r in expected.rows]
    for a, b in zip(got.rows, expected.rows, strict=True):
        assert list(a.values()) == pytest.approx(list(b.values()), rel=rtol, abs=1e-13)


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_gives_the_serial_runs(name):
    task = TASKS[name](dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = replicas(task, "sgd", cells(steps=20), 20)
    for a, b in zip(got, run_cells(task, "sgd", cells(steps=20), 20, engine="serial"), strict=True):
        assert (a.config["engine"], b.config["engine"]) == ("replicas", "serial")
        assert a.rows[-1].keys() >= ({"step", "eval_loss"} if task.evaluate is not None else {"step"})
        same(a, b)


@pytest.mark.parametrize("optimizer", ["sgd(nesterov=True, weight_decay=0.01)", "adam", "adamw(betas=(0.9, 0.95))"])
def test_two_hundred_steps_of_every_rule_are_the_serial_ones(optimizer):
    task = TASKS["tuple"](dtype=torch.float64)
    todo = cells((0.003, 0.01), steps=200)
    for a, b in zip(
        replicas(task, optimizer, todo, 200), run_cells(task, optimizer, todo, 200, engine="serial"), strict=True
    ):
        same(a, b)


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("name", ["tuple", "dropout", "batch_norm"])
def test_a_run_does_not_depend_on_its_company(name, chunk):
    task = TASKS[name](dtype=torch.float64)
    todo = [Cell(warm(lr), seed=seed) for lr in (0.02, 0.1, 0.05) for seed in (3, 1)]
    alone = [replicas(task, "sgd", [cell], 15)[0] for cell in todo]
    for a, b in zip(replicas(task, "sgd", todo, 15, chunk=chunk), alone, strict=True):
        same(a, b, rtol=1e-12)


def test_single_precision_agrees_to_rounding():
    task, todo = TASKS["conv"](), cells((1e-3, 3e-3))
    for a, b in zip(
        replicas(task, "adamw", todo, 40), run_cells(task, "adamw", todo, 40, engine="serial"), strict=True
    ):
        assert a.final("eval_loss") == pytest.approx(b.final("eval_loss"), rel=1e-3)


# -- divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 8, 9, 10, 23, 38])
def test_a_replica_that_diverges_is_recorded_at_its_step_and_disturbs_nobody(at):
    task = TASKS["linear_squared"](dtype=torch.float64)
    bomb = Cell(Constant(1e9) if at == 0 else Constant(0.05, at).then(1e9), name="bomb")
    calm = cells()
    mixed = [*calm[:1], bomb, *calm[1:]]
    got = replicas(task, "sgd", mixed, 40)
    assert got[1].status == "diverged"
    assert got[1].events[0].kind == "diverged"
    assert got[1].events[0].step == got[1].steps_done == got[1].cost.updates == at + 1
    same(got[1], run_cells(task, "sgd", [bomb], 40, engine="serial")[0])
    for a, b in zip([got[0], *got[2:]], replicas(task, "sgd", calm, 40), strict=True):
        same(a, b, rtol=1e-12)


def test_a_last_update_that_ruins_the_model_is_divergence_too():
    task = TASKS["linear_squared"](dtype=torch.float64)
    bomb = [Cell(Constant(0.05, 11).then(1e9))]
    for engine in ("replicas", "serial"):
        (run,) = run_cells(task, "sgd", bomb, 12, engine=engine)
        assert (run.status, run.events[0].step, run.cost.gradients) == ("diverged", 12, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_losses_that_are_no_numbers_are_divergence_and_stay_out_of_the_rows(value):
    task = TASKS["tuple"](dtype=torch.float64)
    broken = dataclasses.replace(task, loss_fn=lambda model, batch: cross_entropy(model, batch) * value)
    got = replicas(broken, "adam", cells(), 12)
    assert [r.status for r in got] == ["diverged"] * 4
    assert all(r.rows == ({"step": 0, "lr": 0.0},) for r in got)
    assert got[0].events[0].detail == {"loss": None}
    for a, b in zip(got, run_cells(broken, "adam", cells(), 12, engine="serial"), strict=True):
        same(a, b)


# -- what cannot run as one program -------------------------------------------------------------------------------


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        out = self.inner(x)
        return out if out.mean().item() > 0 else -out


def unbatchable(build=lambda seed: LooksAtValues(), **changes):
    return dataclasses.replace(TASKS["tuple"](), build=build, name="looks", **changes)


def test_a_model_that_looks_at_values_is_refused_with_torchs_reason_and_runs_serially():
    with pytest.raises(CannotBatch, match="item"):
        replicas(unbatchable(), "sgd", cells(), 5)
    with pytest.raises(CannotBatch):
        run_cells(unbatchable(), "sgd", cells(), 5, engine="replicas")
    runs = run_cells(unbatchable(), "sgd", cells(), 5)
    assert [r.config["engine"] for r in runs] == ["serial"] * 4
    assert "item" in runs[0].config["engine_note"]
    assert all(r.status == "finished" for r in runs)


def test_running_means_over_all_batches_name_the_obstacle():
    task = dataclasses.replace(
        TASKS["tuple"](), build=lambda seed: nn.Sequential(mlp(), nn.BatchNorm1d(3, momentum=None))
    )
    with pytest.raises(CannotBatch, match="item"):
        replicas(task, "sgd", cells(), 5)


def test_parameters_of_mixed_dtype_are_refused_but_run_serially():
    def build(seed):
        model = mlp()
        model.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        return model

    task = unbatchable(build)
    with pytest.raises(CannotBatch, match="share one dtype"):
        replicas(task, "sgd", cells(), 5)
    assert run_cells(task, "sgd", cells(), 5)[0].config["engine"] == "serial"


def test_models_that_differ_in_shape_between_seeds_are_refused():
    task = unbatchable(lambda seed: mlp(width=8 + seed))
    with pytest.raises(CannotBatch, match=r"build\(0\) and build\(1\)"):
        replicas(task, "sgd", cells(), 5)


def test_a_program_that_computes_something_else_is_refused():
    class Shrinks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.calls = 0

        def forward(self, x):
            self.calls += 1  # state that torch does not know of
            return self.inner(x) / self.calls

    shared = Shrinks()
    with pytest.raises(CannotBatch, match="first gradient differs"):
        replicas(unbatchable(lambda seed: shared), "sgd", cells(seeds=(0,)), 5)


def test_a_metric_in_plain_python_does_not_stop_the_program():
    task = dataclasses.replace(
        TASKS["tuple"](dtype=torch.float64), metrics={"tops": lambda m, b: float(m(b[0]).max().item())}
    )
    for a, b in zip(
        replicas(task, "sgd", cells(), 5), run_cells(task, "sgd", cells(), 5, engine="serial"), strict=True
    ):
        assert "tops" in a.columns
        same(a, b)


def test_buffers_that_are_assigned_anew_move_on_per_replica():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            out = self.inner(x)
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * out.detach().mean(0)
            return out - self.mean

    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), build=lambda seed: Average().double())
    for a, b in zip(
        replicas(task, "sgd", cells(), 40), run_cells(task, "sgd", cells(), 40, engine="serial"), strict=True
    ):
        same(a, b)


def test_errors_of_the_task_are_its_own():
    with pytest.raises(TaskError, match=r"shape \(\)"):
        replicas(unbatchable(loss_fn=lambda m, b: m(b[0]), build=lambda s: mlp()), "sgd", cells(), 5)
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        replicas(unbatchable(lambda seed: mlp().requires_grad_(False)), "sgd", cells(), 5)


# -- no trace -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["replicas", "serial", "auto"])
def test_generators_and_loader_are_left_as_found(engine):
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    own = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(x, y), 8, shuffle=True, generator=own)
    task = Task(
        lambda seed: nn.Sequential(mlp(), nn.Dropout(0.1)),
        cross_entropy,
        loader,
        evaluate=loader,
        name=f"trace {engine}",
    )
    before = torch.get_rng_state(), own.get_state(), np.random.get_state()[1].copy(), random.getstate()
    run_cells(task, "sgd", cells(), 7, engine=engine)
    after = torch.get_rng_state(), own.get_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert (before[2] == after[2]).all()
    assert before[3] == after[3]


def test_the_same_call_gives_the_same_runs():
    task = TASKS["attention_dropout"]()
    torch.manual_seed(1)
    first = replicas(task, "adamw", cells(), 12)
    torch.manual_seed(2)
    for a, b in zip(first, replicas(task, "adamw", cells(), 12), strict=True):
        assert a.rows == b.rows


# -- the record, and the caller's hooks ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["replicas", "serial"])
def test_rows_are_kept_at_the_period_and_at_the_end(engine):
    task = TASKS["tuple"]()
    (run,) = run_cells(
        task, "sgd", [Cell(warm(0.1), name="peak 0.1")], 23, engine=engine, record_every=10, evaluate=False
    )
    assert [r["step"] for r in run.rows] == [0, 10, 20, 22, 23]
    assert set(run.rows[-1]) == {"step"}
    assert run["lr"].value.tolist() == [warm(0.1)(t) for t in (0, 10, 20, 22)]
    assert (run.name, run.steps_done, run.cost.gradients) == ("peak 0.1", 23, 23)
    assert run.config["schedule"] == warm(0.1).to_spec()
    assert run.config["optimizer"]["momentum"] == 0.9


@pytest.mark.parametrize("engine", ["replicas", "serial"])
def test_progress_grows_to_the_whole(engine):
    seen = []
    run_cells(TASKS["tuple"](), "sgd", cells(), 12, engine=engine, chunk=2, on_progress=lambda *x: seen.append(x))
    assert seen == sorted(seen)
    assert seen[-1] == (48, 48)


@pytest.mark.parametrize("engine", ["replicas", "serial"])
def test_a_stop_returns_what_there_is(engine):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 2

    runs = run_cells(TASKS["tuple"](), "sgd", cells(), 40, engine=engine, chunk=2, should_stop=stop)
    assert [r.status for r in runs] == ["interrupted"] * 4
    assert runs[0].steps_done == runs[0].cost.updates == (10 if engine == "replicas" else 2)
    assert runs[-1].steps_done == 0
    assert runs[0].events[0].kind == "interrupted"


# -- choosing the engine, and refusing ----------------------------------------------------------------------------


def test_auto_measures_once_and_says_what_it_found():
    task = dataclasses.replace(TASKS["tuple"](), name="measured once")
    first, again = (run_cells(task, "sgd", cells(), 5) for _ in range(2))
    assert "fastest of, in ms" in first[0].config["engine_note"]
    assert first[0].config == again[0].config
    assert sum(r.cost.gradients for r in again) == 20
    assert sum(r.cost.gradients for r in first) > 20
    (alone,) = run_cells(task, "sgd", cells()[:1], 5)
    assert (alone.config["engine"], alone.cost.gradients) == ("serial", 5)


@pytest.mark.parametrize(
    ("fastest", "tried", "best"),
    [(4, [4, 8, 2], 4), (16, [4, 8, 16, 32], 16), (32, [4, 8, 16, 32], 32), (1, [4, 8, 2, 1], 1)],
)
def test_sizes_of_chunks_are_compared_where_the_work_is_long(fastest, tried, best):
    asked = []

    def seconds(size):
        asked.append(size)
        return 1e-3 * (1 + abs(math.log2(size / fastest)))

    assert choice._fitting(seconds, 4, 32, 10**6) == (best, 1e-3)
    assert asked == tried
    asked.clear()
    assert choice._fitting(seconds, 4, 32, 1_000)[0] == 4
    assert asked == [4]


def test_auto_puts_the_number_of_threads_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        (run, _) = run_cells(TASKS["relu"](), "adamw", cells()[:2], 3)
        assert "2 threads" in run.config["engine_note"]
        assert torch.get_num_threads() == 2
        with contextlib.suppress(KeyboardInterrupt), threads(1):
            assert torch.get_num_threads() == 1
            raise KeyboardInterrupt
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_program_that_fails_on_the_way_is_run_again_serially(monkeypatch):
    class LooksLater(LooksAtValues):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) if self.calls > 8 else self.inner(x)

    task = unbatchable(lambda seed: LooksLater())
    monkeypatch.setattr(engines, "choose", lambda *_, **__: Choice("replicas", None, "as told", Cost(gradients=4)))
    runs = run_cells(task, "sgd", cells(), 12)
    assert "replicas gave up" in runs[0].config["engine_note"]
    assert [(r.status, r.config["engine"], r.cost.gradients) for r in runs] == [("finished", "serial", 13)] * 4


@pytest.mark.parametrize("run", [replicas, run_cells])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cells": []}, ValueError, "cells: empty"),
        ({"cells": Cell(Constant(0.1))}, TypeError, "a sequence of Cell, got Cell"),
        ({"cells": [Constant(0.1)]}, TypeError, "element 0 is a Constant"),
        ({"cells": [Cell(Constant(-0.1))]}, ValueError, "learning rate -0.1 at step 0"),
        ({"cells": [Cell(0.1)]}, TypeError, "element 0 has a float for its schedule"),
        ({"cells": [Cell(Constant(0.1), seed="a")]}, TypeError, "element 0 has seed 'a'"),
        ({"steps": 0}, ValueError, "steps: expected a positive integer, got 0"),
        ({"steps": 2.0}, ValueError, "got 2.0"),
        ({"record_every": 0}, ValueError, "record_every"),
        ({"chunk": 0}, ValueError, "chunk: expected a positive integer or None"),
        ({"optimizer": "sdg"}, ValueError, "did you mean 'sgd'"),
        ({"task": "digits"}, TypeError, "expected a lrscope Task, got str"),
    ],
)
def test_wrong_arguments_are_refused_by_name(run, changes, error, message):
    arguments = {"task": TASKS["tuple"](), "optimizer": "sgd", "cells": cells(), "steps": 3, **changes}
    with pytest.raises(error, match=message):
        run(**arguments)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine: expected one of auto, serial, replicas, got 'ray'"):
        run_cells(TASKS["tuple"](), "sgd", cells(), 3, engine="ray")
