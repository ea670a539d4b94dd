"""Gradients under torch.compile: the plain ones, or the plain program itself where that cannot be."""

import dataclasses
import shutil
import warnings

import pytest
import torch
from torch import nn

from cases import TASKS, cells, cross_entropy, mlp
from lrscope.errors import LrscopeWarning
from lrscope.schedules import Constant
from lrscope.training import Cell, replicas, run_cells

inductor = pytest.importorskip("torch._inductor.config")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")


def whole(name):
    """A task of the catalogue with batches of one size: each size is compiled for itself."""
    task = TASKS[name](dtype=torch.float64)
    return dataclasses.replace(task, train=[batch for batch in task.batches(2) if task.count(batch) == 8])


def same(a, b, rel):
    assert (a.status, [e.step for e in a.events]) == (b.status, [e.step for e in b.events])
    assert {**a.config, "compile": 0} == {**b.config, "compile": 0}
    assert dataclasses.replace(a.cost, seconds=0) == dataclasses.replace(b.cost, seconds=0)
    for x, y in zip(a.rows, b.rows, strict=True):
        assert x.keys() == y.keys()
        assert list(x.values()) == pytest.approx(list(y.values()), rel=rel, abs=1e-13)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["tuple", "conv", "dropout"])
def test_two_hundred_steps_are_the_plain_ones(name):
    task = whole(name)
    todo = cells((0.001, 0.003), steps=200, seeds=(0,) if name == "dropout" else (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrscopeWarning)
        got = replicas(task, "adamw", todo, 200, compile=True)
    for a, b in zip(got, replicas(task, "adamw", todo, 200, captured=False), strict=True):
        assert a.config["compile"].startswith("compiled in ")
        same(a, b, rel=1e-6)


def test_chunks_share_what_was_compiled_and_a_diverged_replica_idles(monkeypatch):
    """Whoever makes the code; torch's own kernels are the fastest to make."""
    calls, real = [], torch.compile

    def by_torchs_kernels(function, options, **how):
        calls.append(options)
        return real(function, backend="aot_eager", **how)

    monkeypatch.setattr(torch, "compile", by_torchs_kernels)
    task = whole("tuple")
    huge = dataclasses.replace(task, loss_fn=lambda m, b: cross_entropy(m, b) + m(b[0]).square().mean())
    bomb = Constant(0.05, 8).then(1e9)
    todo = [Cell(bomb if i in (0, 1) else Constant(0.01 * i), seed=i % 3) for i in range(6)]
    got = replicas(huge, "sgd", todo, 25, compile=True, chunk=3)
    for a, b in zip(got, replicas(huge, "sgd", todo, 25, captured=False), strict=True):
        same(a, b, rel=1e-9)
    assert [run.status for run in got].count("diverged") == 2
    assert len(calls) == 1
    seconds = float(got[0].config["compile"].split()[2])
    assert sum(run.cost.seconds for run in got) >= seconds - 0.1


def test_without_a_compiler_the_plain_program_runs_and_says_so():
    task, before = whole("tuple"), torch.get_rng_state()
    nowhere = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False, "force_disable_caches": True}
    with inductor.patch(nowhere), pytest.warns(LrscopeWarning, match="plain program runs: .*ompiler") as told:
        got = run_cells(task, "sgd", cells(), 15, engine="replicas", chunk=1, compile=True)
    assert len([w for w in told if issubclass(w.category, LrscopeWarning)]) == 1
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(got, replicas(task, "sgd", cells(), 15, captured=False), strict=True):
        assert a.config["compile"].startswith("not compiled: ")
        assert "\n" not in a.config["compile"]
        same(a, b, rel=1e-12)


def test_what_computes_something_else_is_not_used(monkeypatch):
    def lying(function, **_):
        def compiled(*args):
            grads, (losses, after) = function(*args)
            return 1.001 * grads, (losses, after)

        return compiled

    monkeypatch.setattr(torch, "compile", lying)
    with pytest.warns(LrscopeWarning, match="computes something else"):
        got = replicas(whole("tuple"), "sgd", cells(), 12, compile=True)
    for a, b in zip(got, replicas(whole("tuple"), "sgd", cells(), 12, captured=False), strict=True):
        same(a, b, rel=1e-12)


def test_a_model_that_counts_its_calls_is_not_compiled():
    class Fades(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = mlp(), 0

        def forward(self, x):
            self.calls += 1
            return self.inner(x) * (1.0 if self.calls < 9 else 0.5)

    task = dataclasses.replace(whole("tuple"), build=lambda seed: Fades().double())
    with pytest.warns(LrscopeWarning, match="in plain Python"):
        got = replicas(task, "sgd", cells(seeds=(0,)), 20, compile=True)
    for a, b in zip(got, replicas(task, "sgd", cells(seeds=(0,)), 20, captured=False), strict=True):
        same(a, b, rel=1e-12)


def test_errors_of_the_task_are_the_tasks_own():
    def broken(model, batch):
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        replicas(dataclasses.replace(whole("tuple"), loss_fn=broken), "sgd", cells(), 5, compile=True)


@pytest.mark.parametrize("engine", ["auto", "serial"])
def test_compile_is_for_replicas_alone(engine):
    with pytest.raises(ValueError, match=f"compile: is for engine='replicas', got engine='{engine}'"):
        run_cells(whole("tuple"), "sgd", cells(), 5, engine=engine, compile=True)


@pytest.mark.parametrize("how", [{"compile": True, "captured": True}, {"compile": "yes"}])
def test_compile_is_refused_beside_captured_and_when_it_is_no_truth(how):
    with pytest.raises(ValueError, match="compile: expected True or False"):
        replicas(whole("tuple"), "sgd", cells(), 5, **how)
