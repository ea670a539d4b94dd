"""What a sweep returns: outcomes against a plain loop, cells that raise, curves, measures, progress."""

import numpy as np
import pytest
import torch
from torch import nn

import lrscope as lrs
from cases import TASKS, accuracy, built, cross_entropy, mlp
from lrscope.schedules import parse
from lrscope.sweeps import SweepTable, sweep
from lrscope.sweeps.backlog import LIVES, Backlog
from lrscope.sweeps.outcome import AROUND, CURVE_POINTS
from lrscope.tasks import BatchStream, Task


def double(seed: int = 0) -> Task:
    return TASKS["tuple"](dtype=torch.float64)


def by_hand(task, optimizer, schedule, steps, seed):
    """Losses of a loop over torch.optim that knows nothing of lrscope's engines."""
    model, stream = task.model(seed), BatchStream(task.train, seed)
    opt, losses = optimizer(model.parameters()), []
    for step in range(steps):
        opt.param_groups[0]["lr"] = schedule(step)
        opt.zero_grad()
        loss = task.loss_fn(model, next(stream))
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def test_outcomes_are_those_of_a_plain_loop():
    steps = 20
    found = sweep(
        TASKS["tuple"](dtype=torch.float64),
        lr=[0.05, 0.5],
        warmup=[0, "25%"],
        momentum=[0.0, 0.9],
        seeds=2,
        steps=steps,
        schedule="warmup({warmup}) > linear(to=0)",
        engine="serial",
    )
    for row in found.table.rows():
        schedule = row["lr"] * parse(f"warmup({row['warmup']}) > linear(to=0)", steps)
        losses = by_hand(
            double(),
            lambda p, m=row["momentum"]: torch.optim.SGD(p, lr=0.0, momentum=m),
            schedule,
            steps,
            row["seed"],
        )
        assert row["status"] == "finished"
        assert row["first_loss"] == losses[0]
        assert row["final_loss"] == pytest.approx(losses[-1], rel=1e-12)
        assert row["best_loss"] == pytest.approx(min(losses), rel=1e-12)
        assert row["trains"] == (losses[-1] < 0.9 * losses[0])
        step, loss = found.curve(row["cell"])
        assert [losses[t] for t in step] == loss.tolist()
        assert row["gradients"] == steps


def test_a_diverged_cell_says_where_and_its_neighbours_do_not_notice():
    def cubic(seed):  # diverges at large rates, whatever the seed
        return nn.Linear(1, 1, bias=False).double()

    def loss_fn(model, batch):
        return (model.weight**2).sum() * batch.mean()

    task = Task(cubic, loss_fn, [torch.ones(4, 1, dtype=torch.float64)], steps=60)
    found = sweep(task, optimizer="sgd(momentum=0)", lr=[0.1, 3.0, 0.2], engine="replicas")
    low, middle, high = found.table.rows()
    assert [r["status"] for r in (low, middle, high)] == ["finished", "finished", "diverged"]
    assert (high["final_loss"], high["eval_loss"], high["trains"]) == (None, None, False)
    # w is multiplied by -5 at each update, the loss by 25.
    step, loss = found.curve(high["cell"])
    assert step[-1] == high["diverged_at"] == len(step) - 1  # all steps around the event are kept
    np.testing.assert_allclose(loss, loss[0] * 25.0 ** np.arange(len(loss)), rtol=1e-9)
    alone = sweep(task, optimizer="sgd(momentum=0)", lr=[0.1], engine="serial").table
    assert low["final_loss"] == pytest.approx(alone["final_loss"][0], rel=1e-12)


def test_a_long_curve_is_short_and_whole_around_events():
    steps = 1_000
    flat = Task(
        lambda seed: nn.Linear(1, 1),
        lambda model, batch: model.weight.sum() * 0 + 1.0,
        [torch.ones(2, 1)],
        steps=steps,
    )
    found = sweep(flat, lr=[0.1], engine="serial")
    step, _ = found.curve(found.cells[0])
    assert len(step) <= CURVE_POINTS
    assert (step[0], step[-1]) == (0, steps - 1)
    assert AROUND * 2 < 0.2 * CURVE_POINTS


def failing(at: int = 3):
    """A task whose models of one seed cannot be built."""

    def build(seed):
        if seed == at:
            raise RuntimeError("no such layer\nof seed three")
        return built(mlp, torch.float64, seed)

    good = double()
    return Task(build, good.loss_fn, good.train, good.evaluate, metrics={"accuracy": accuracy}, steps=12)


@pytest.mark.parametrize("engine", ["serial", "replicas", "auto"])
def test_a_cell_that_raises_is_recorded_and_the_others_go_on(engine):
    found = sweep(failing(), lr=[0.01, 0.1, 1.0], seeds=5, engine=engine)
    whole = sweep(failing(at=99), lr=[0.01, 0.1, 1.0], seeds=5, engine="serial")
    assert len(found.failed) == 3
    assert set(found.failed["seed"]) == {3}
    assert set(found.failed["error"]) == {"RuntimeError: no such layer of seed three"}
    record = found.record(found.failed["cell"][0])
    assert "in build" in record["traceback"]
    assert "no such layer" in record["traceback"]
    for mine, good in zip(found.table.rows(), whole.table.rows(), strict=True):
        if mine["seed"] != 3:
            assert mine["final_loss"] == pytest.approx(good["final_loss"], rel=1e-9)
            assert mine["accuracy"] == good["accuracy"]
    again = sweep(failing(), lr=[0.01, 0.1, 1.0], seeds=5, engine=engine)
    assert [r["status"] for r in again.table.rows()] == [r["status"] for r in found.table.rows()]


def test_replicas_asked_for_by_name_are_refused_where_they_cannot_be():
    good = double()

    def loss_fn(model, batch):
        loss = cross_entropy(model, batch)
        return loss if loss.item() > -1 else -loss  # data-dependent control flow

    task = Task(good.build, loss_fn, good.train, steps=5)
    with pytest.raises(lrs.MeasurementError):
        sweep(task, lr=[0.1, 0.2], engine="replicas")
    assert sweep(task, lr=[0.1, 0.2], engine="auto").table["status"] == ["finished"] * 2


def test_measured_sharpness_is_that_of_the_hessian():
    """A quadratic's is known, and stays."""
    scale = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    task = Task(
        lambda seed: nn.Linear(3, 1, bias=False).double(),
        lambda model, batch: 0.5 * (scale * model.weight**2).sum() * batch.mean(),
        [torch.ones(2, 1, dtype=torch.float64)],
        steps=10,
    )
    for engine in ("serial", "replicas"):
        found = sweep(task, lr=[0.1, 0.2], seeds=2, measure=["sharpness"], engine=engine).table
        assert found["sharpness_start"] == pytest.approx([3.0] * 4, rel=2e-2)
        assert found["sharpness_end"] == pytest.approx([3.0] * 4, rel=2e-2)
    assert sweep(task, lr=[0.1], engine="serial").table["sharpness_end"] == [None]
    with pytest.raises(ValueError, match="measure: 'curvature' is not known"):
        sweep(task, lr=[0.1], measure=["curvature"])


def test_nothing_of_the_callers_changes():
    task = double()
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    for engine in ("serial", "replicas", "auto"):
        sweep(task, lr=[0.1, 0.2], steps=5, seeds=2, engine=engine)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_progress_counts_every_cell_once_and_may_stop_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("lrscope.sweeps.tally.EVERY", 0.0)
    seen = []
    made = sweep(double(), lr=[0.01, 0.1, 1e9], steps=8, out=tmp_path / "s", engine="serial", on_progress=seen.append)
    last = seen[-1]
    assert (last.total, last.done, last.diverged, last.failed, last.running, last.found) == (3, 3, 1, 0, 0, 0)
    assert last.share == 1.0
    ranked = [r for r in made.table.rows() if r["eval_loss"] is not None]
    assert last.best == min(ranked, key=lambda r: r["eval_loss"])
    assert [p.done for p in seen] == sorted(p.done for p in seen)

    def stop(progress):
        if progress.done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(double(), lr=[0.01, 0.1, 1e9], steps=8, seeds=4, out=tmp_path / "s", engine="serial", on_progress=stop)
    kept = lrs.sweeps.read(tmp_path / "s")
    assert 4 <= len(kept.table) < 12
    grown = sweep(double(), lr=[0.01, 0.1, 1e9], steps=8, seeds=4, out=tmp_path / "s", engine="serial")
    assert len(grown.table) == 12


def test_a_temporary_sweep_goes_with_its_result():
    found = sweep(double(), lr=[0.1], steps=3, engine="serial")
    where = found.directory
    assert where.is_dir()
    del found
    assert not where.exists()
    assert lrs.sweep is sweep


def test_parts_of_the_table_are_tables_of_a_sweep():
    found = sweep(double(), lr=[0.1, 0.2], steps=3, seeds=2, engine="serial")
    part = found.table.where(lr=0.1)
    assert isinstance(part, SweepTable)
    assert part["seed"] == [0, 1]
    assert found.to_dict()["table"]["lr"] == [0.1, 0.1, 0.2, 0.2]
    assert found.cost.gradients == 12


def test_engines_and_tasks_that_cannot_be_are_refused_before_any_work(tmp_path):
    for options, error, said in [
        ({"engine": "fast"}, ValueError, "engine: expected one of auto, serial"),
        ({"engine": 3}, TypeError, "engine: "),
        ({"engine": lrs.sweeps.Serial}, TypeError, "engine: "),
        ({"measure": "loss"}, ValueError, "measure: "),
        ({"on_progress": 3}, TypeError, "on_progress: expected a function"),
        ({"adaptive": True}, ValueError, "adaptive: lr needs three values"),
    ]:
        with pytest.raises(error, match=said):
            sweep(double(), lr=[0.1], out=tmp_path / "s", **options)
    broken = Task(double().build, lambda m, b: None, double().train, steps=3)
    with pytest.raises(lrs.TaskError):
        sweep(broken, lr=[0.1], out=tmp_path / "s")
    with pytest.raises(lrs.TaskError, match="cannot be sent to another process"):
        sweep(failing(), lr=[0.1], out=tmp_path / "t", engine="processes")
    with pytest.raises(ValueError, match="workers: "):
        lrs.sweeps.Processes(workers=0)
    assert not (tmp_path / "s").exists()


def test_a_cell_that_kills_comes_back_alone_and_is_given_up_in_the_end():
    cells = list(
        lrs.sweeps.grid.Grid(lrs.sweeps.source.Source(double), given={"lr": [0.1, 0.2, 0.3]}, steps=4).cells()
    )
    backlog = Backlog([cells])
    assert backlog.next() == cells
    assert backlog.back(cells[1:], [cells[1]]) == []  # the first was done, the second ran, the third waited
    assert backlog.next() == [cells[2]]
    for death in range(2, LIVES + 1):
        assert backlog.next() == [cells[1]]
        assert backlog.back([cells[1]], [cells[1]]) == ([cells[1]] if death == LIVES else [])
    assert not backlog
    assert backlog.next() is None
