"""Cells with numbers of their own, and functions that look at each run's model."""

import dataclasses

import pytest
import torch
from torch import nn

from cases import TASKS
from lrscope.optimizers import OptimizerSpec
from lrscope.schedules import Constant, Linear
from lrscope.training import Cell, evaluate, replicas, run_cells

ENGINES = ("serial", "replicas")

VARIANTS = {
    "sgd": [{}, {"momentum": 0.0}, {"momentum": 0.5, "dampening": 0.2}, {"weight_decay": 0.01}],
    "sgd(nesterov=True)": [{}, {"momentum": 0.5}, {"weight_decay": 0.1}],
    "adam": [{}, {"betas": (0.5, 0.9)}, {"eps": 1e-3, "weight_decay": 0.01}],
    "adamw": [{}, {"betas": [0.0, 0.95]}, {"weight_decay": 0.3}],
    "giadam": [{}, {"betas": (0.5, 0.9)}],
    "giadamw": [{}, {"weight_decay": 0.0, "eps": 1e-2}],
    "riadam": [{}, {"seed": 4}],
    "radam": [{}, {"betas": (0.8, 0.9)}],
}


def pairs(task, optimizer, cells, steps, **options):
    return zip(*(run_cells(task, optimizer, cells, steps, engine=e, **options) for e in ENGINES), strict=True)


def assert_same(a, b, rel=1e-6):
    assert (a.status, len(a.rows)) == (b.status, len(b.rows))
    assert {**a.config, "engine": 0} == {**b.config, "engine": 0}
    for x, y in zip(a.rows, b.rows, strict=True):
        assert x.keys() == y.keys()
        assert list(x.values()) == pytest.approx(list(y.values()), rel=rel, abs=1e-12)


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_two_hundred_steps_with_numbers_of_their_own_are_the_serial_ones(optimizer):
    task = TASKS["tuple"](dtype=torch.float64)
    peak = 0.05 if "sgd" in optimizer else 0.003
    cells = [Cell(Linear(0.0, peak, 200), seed=i % 2, optimizer=own) for i, own in enumerate(VARIANTS[optimizer])]
    for cell, (a, b) in zip(cells, pairs(task, optimizer, cells, 200, record_every=20), strict=True):
        assert_same(a, b)
        assert a.config["optimizer"] == cell.rule(OptimizerSpec.parse(optimizer)).to_spec()
    ends = {run.final("eval_loss") for run in replicas(task, optimizer, cells, 200)}
    assert len(ends) == len(cells)  # the numbers did matter


def test_numbers_go_on_with_the_runs_that_are_left():
    task = TASKS["linear_squared"](dtype=torch.float64)
    bomb = Cell(Constant(1e9), optimizer={"momentum": 0.2})
    cells = [bomb, *(Cell(Constant(0.05), optimizer={"momentum": m}) for m in (0.3, 0.6, 0.8))]
    for a, b in pairs(task, "sgd", cells, 40):
        assert_same(a, b)


def test_an_empty_override_is_the_common_rule_and_cells_stay_hashable():
    cell = Cell(Constant(0.1), optimizer={"momentum": 0.5})
    assert cell.rule(OptimizerSpec("sgd")) == OptimizerSpec("sgd", momentum=0.5)
    assert Cell(Constant(0.1)).rule(OptimizerSpec("adam")) == OptimizerSpec("adam")
    assert len({cell, Cell(Constant(0.1), optimizer={"momentum": 0.5})}) == 1


@pytest.mark.parametrize("run", [run_cells, replicas])
@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({"nesterov": True}, ValueError, "element 1: optimizer: nesterov=True differs .* only numbers may differ"),
        ({"name": "adam"}, ValueError, "element 1: optimizer: name='adam' differs from the common name='sgd'"),
        ({"momentun": 0.1}, ValueError, r"element 1: sgd\(momentun=\): no such option; .* did you mean 'momentum'"),
        ({"betas": (0.9, 0.99)}, ValueError, r"element 1: sgd\(betas=\): no such option"),
        ({"lr": 0.1}, ValueError, "comes from the schedule"),
        ({"momentum": -1}, ValueError, r"sgd\(momentum=\): expected a finite number of at least 0, got -1"),
        ([("momentum", 0.1)], TypeError, "element 1: optimizer: expected a dict of numbers by name, got list"),
    ],
)
def test_what_is_no_number_of_the_rule_is_refused_before_any_work(run, own, error, message):
    task = dataclasses.replace(TASKS["tuple"](), build=lambda seed: pytest.fail("built"))
    with pytest.raises(error, match=message) as refused:
        run(task, "sgd", [Cell(Constant(0.1)), Cell(Constant(0.1), optimizer=own)], 3)
    assert "\n" not in str(refused.value)


# -- looking at the models ----------------------------------------------------------------------------------------


def norm(_, model):
    return {"norm": float(torch.cat([p.detach().flatten() for p in model.parameters()]).norm())}


@pytest.mark.parametrize("name", ["tuple", "batch_norm", "frozen", "attention_tied"])
@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_looks_are_of_the_model_before_and_after(name, chunk):
    task = TASKS[name](dtype=torch.float64)
    cells = [Cell(Constant(lr), seed=s) for lr in (0.02, 0.05) for s in (0, 1)]
    seen = {}

    def at_end(index, model):
        assert all(m.training for m in model.modules())
        seen[index] = evaluate(task, model)["eval_loss"]  # of parameters and buffers
        return norm(index, model)

    for engine in ENGINES:
        runs = run_cells(task, "sgd", cells, 12, engine=engine, chunk=chunk, at_start=norm, at_end=at_end)
        for i, run in enumerate(runs):
            assert run.rows[0]["norm"] == pytest.approx(norm(i, task.model(cells[i].seed))["norm"], rel=1e-14)
            assert seen.pop(i) == pytest.approx(run.final("eval_loss"), rel=1e-9)
            assert run.rows[-1]["norm"] != run.rows[0]["norm"]
            assert [("norm" in row) for row in run.rows] == [True, *[False] * 11, True]
    for a, b in pairs(task, "sgd", cells, 12, at_start=norm, at_end=norm):
        assert_same(a, b, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_look_leaves_no_trace_on_the_runs(engine):
    task = TASKS["dropout"](dtype=torch.float64)
    cells = [Cell(Constant(lr)) for lr in (0.02, 0.05)]

    def vandal(_, model):
        torch.manual_seed(9)
        model.eval()
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.fill_(7.0)
        return {"draw": float(torch.rand(()))}

    state = torch.get_rng_state()
    looked = run_cells(task, "sgd", cells, 10, engine=engine, at_start=vandal, at_end=vandal)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(looked, run_cells(task, "sgd", cells, 10, engine=engine), strict=True):
        rows = [{k: v for k, v in row.items() if k != "draw"} for row in a.rows]
        assert rows == list(b.rows)
        assert a.rows[0]["draw"] == a.rows[-1]["draw"]


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_diverged_runs_have_no_end_and_keep_their_start(engine):
    task = TASKS["linear_squared"](dtype=torch.float64)
    late = Constant(0.05, 11).then(1e9)  # noticed by the evaluation only
    cells = [Cell(Constant(0.05)), Cell(Constant(1e9)), Cell(late), Cell(Constant(0.02))]
    ended = []
    runs = run_cells(
        task, "sgd", cells, 12, engine=engine, at_start=norm, at_end=lambda i, _: ended.append(i) or {"end": i}
    )
    assert [run.status for run in runs] == ["finished", "diverged", "diverged", "finished"]
    assert ended == [0, 3]
    assert all("norm" in run.rows[0] for run in runs)
    assert [run.rows[-1].get("end") for run in runs] == [0, None, None, 3]


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_stopped_has_no_end(engine):
    looked = []
    runs = run_cells(
        TASKS["tuple"](),
        "sgd",
        [Cell(Constant(0.1))] * 3,
        12,
        engine=engine,
        should_stop=lambda: True,
        at_start=lambda i, _: looked.append(i) or {},
        at_end=lambda i, _: looked.append(i) or {},
    )
    assert [run.status for run in runs] == ["interrupted"] * 3
    assert not looked


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("when", ["at_start", "at_end"])
def test_exceptions_of_a_look_and_columns_it_may_not_have(engine, when):
    task, cells = TASKS["tuple"](), [Cell(Constant(0.1))] * 2

    def run(fn):
        run_cells(task, "sgd", cells, 3, engine=engine, **{when: fn})

    def broken(_, model):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(broken)
    for taken in ("loss", "accuracy", "eval_loss"):
        with pytest.raises(ValueError, match=f"the column '{taken}' is the run's own"):
            run(lambda *_, name=taken: {name: 1.0})
    with pytest.raises(TypeError, match="columns as a dict of numbers, got float"):
        run(lambda *_: 1.0)


def test_a_look_at_a_model_with_a_buffer_assigned_anew():
    class Average(nn.Linear):
        def __init__(self):
            super().__init__(6, 3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            out = super().forward(x)
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * out.detach().mean(0)
            return out - self.mean

    task = dataclasses.replace(TASKS["tuple"](dtype=torch.float64), build=lambda seed: Average().double())
    cells = [Cell(Constant(lr)) for lr in (0.02, 0.05)]
    for a, b in pairs(task, "sgd", cells, 9, at_end=lambda _, model: {"mean": float(model.mean.sum())}):
        assert a.rows[-1]["mean"] != 0
        assert_same(a, b, rel=1e-9)
