"""The cap: it holds headroom at its limit inside the update only, and no scheduler, log or checkpoint sees it."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler as schedulers

import cases
import lrscope as lrs
from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.schedules import Constant, Linear
from lrscope.stability import Alarm, Cap, SharpnessProbe, Watch
from lrscope.training import train

RECURSIVE = {
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "step": lambda o: schedulers.StepLR(o, 3),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 8),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=20, cycle_momentum=False),
    "chained": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, total_iters=4), schedulers.ExponentialLR(o, 0.9)]
    ),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1),
    "multiplied": lambda o: schedulers.MultiplicativeLR(o, lambda t: 0.95),
    "ours": lambda o: lrs.ScheduledLR(o, Linear(1.0, 0.1, 12)),
}


def line(lr=0.3, tensor=False, groups=1):
    """A parameter whose gradient is always 1, so that an update shows the rate it was made at."""
    ps = [torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(groups)]
    rate = torch.tensor(lr, dtype=torch.float64) if tensor else lr
    rates = [rate.clone() if tensor else rate * (i + 1) for i in range(groups)]
    return ps, torch.optim.SGD([{"params": [p], "lr": r} for p, r in zip(ps, rates, strict=True)])


def update(ps, optimizer):
    before = [float(p.detach()) for p in ps]
    for p in ps:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [b - float(p.detach()) for b, p in zip(before, ps, strict=True)]


@pytest.mark.parametrize("kind", RECURSIVE)
@pytest.mark.parametrize("tensor", [False, True])
def test_a_scheduler_goes_on_as_if_there_were_no_cap(kind, tensor):
    seen = []
    for capped in (False, True):
        ps, optimizer = line(tensor=tensor)
        cap = Cap(optimizer, 1.0) if capped else None  # before the scheduler: it stays the innermost all the same
        scheduler = RECURSIVE[kind](optimizer)
        rates = []
        for t in range(12):
            if cap is not None:
                cap.stable_lr = 0.1 if t < 8 else None
                cap.settle()
            rates.append(float(optimizer.param_groups[0]["lr"]))
            (moved,) = update(ps, optimizer)
            limit = 0.1 if capped and t < 8 else np.inf
            assert moved == pytest.approx(min(rates[-1], limit), rel=1e-12)
            scheduler.step(*([1.0] if kind == "plateau" else []))
        seen.append(rates)
    assert seen[0] == seen[1]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=4), st.floats(1e-3, 10), st.floats(0.05, 3), st.booleans())
def test_groups_keep_their_ratios_and_their_rates(rates, stable, limit, tensor):
    ps = [torch.nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in rates]
    lrs_ = [torch.tensor(r, dtype=torch.float64) if tensor else r for r in rates]
    optimizer = torch.optim.SGD([{"params": [p], "lr": r} for p, r in zip(ps, lrs_, strict=True)])
    own = [group["lr"] for group in optimizer.param_groups]
    cap = Cap(optimizer, limit)
    cap.stable_lr = stable
    factor = min(1.0, limit * stable / rates[0])
    assert update(ps, optimizer) == pytest.approx([r * factor for r in rates], rel=1e-12)
    assert all(group["lr"] is r for group, r in zip(optimizer.param_groups, own, strict=True))
    assert [float(r) for r in own] == [float(r) for r in rates]
    assert (cap.num_updates, cap.lowest) == ((1, factor) if factor < 1 else (0, 1.0))


def test_an_update_that_raises_leaves_no_lowered_rate():
    ps, optimizer = line()
    cap = Cap(optimizer, 1.0)
    cap.stable_lr = 0.1

    def broken():
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(broken)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.3
    assert update(ps, optimizer) == [pytest.approx(0.1)]
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_it_lets_go_when_removed_or_forgotten_and_a_copy_has_none():
    ps, optimizer = line()
    cap = Cap(optimizer, 1.0)
    cap.stable_lr = 0.1
    copied = copy.deepcopy(optimizer)
    assert not copied._optimizer_step_pre_hooks
    cap.remove()
    assert update(ps, optimizer) == [pytest.approx(0.3)]
    other = Cap(optimizer, 1.0)
    other.stable_lr = 0.1
    del other
    assert update(ps, optimizer) == [pytest.approx(0.3)]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


# In training.


def test_a_rate_above_the_edge_diverges_without_the_cap_and_trains_with_it():
    task = lrs.tasks.digits()
    free = train(task, "sgd(momentum=0)", Constant(8.0), 60, probes=[SharpnessProbe(task, every=10)])
    assert free.status == "diverged"
    probe = SharpnessProbe(task, every=10, cap=1.0)
    run = train(task, "sgd(momentum=0)", Constant(8.0), 60, probes=[probe])
    assert run.status == "finished"
    assert run.final("accuracy") > 0.6
    assert set(run["lr"].value) == {8.0}
    assert run["headroom"].value.max() <= 1.0
    assert run["lr_used"].value.max() < 8.0
    assert [e.kind for e in run.events] == ["learning rate capped"]
    # What was used is what the last reading allows: at most, for its sharpness may be higher by the residual.
    used, stable = run["lr_used"], run["stable_lr"]
    assert all(used.value[used.step == t] <= s for t, s in zip(stable.step, stable.value, strict=True))


def test_where_the_schedule_falls_below_the_limit_its_own_rates_are_used_again():
    """The quadratic tells where: its sharpness is 4, so the limit is 0.5."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    model = torch.nn.Module()
    model.p = p
    objective = lrs.Objective(model, lambda m, b: 2 * (m.p**2).sum() + 0 * b.sum(), [torch.zeros(1)])
    optimizer = torch.optim.SGD([p], lr=1.0)
    schedule = Linear(1.0, 0.0, 45)  # which is at no step exactly 0.5
    scheduler = lrs.ScheduledLR(optimizer, schedule)
    used, told = [], []
    with Watch(objective, optimizer, every=1, cap=1.0, alarm=1) as watch:
        for _ in range(50):
            before = p.detach().clone()
            optimizer.zero_grad()
            objective.loss_fn(model, torch.zeros(1)).backward()
            with torch.no_grad():
                p.grad.copy_(torch.ones_like(p))
            optimizer.step()
            used.append(float((before - p.detach())[0]))
            scheduler.step()
            row = watch.step()
            told.append(row.get("lr_used"))
    np.testing.assert_allclose(used, [min(schedule(t), 0.5) for t in range(50)], rtol=1e-6)
    np.testing.assert_allclose([t for t in told if t is not None], 0.5, rtol=1e-6)
    assert sum(t is not None for t in told) == sum(schedule(t) > 0.5 for t in range(1, 51))
    kinds = [(e.kind, e.step) for e in watch.run().events]
    last = max(t for t in range(50) if schedule(t + 1) > 0.5)  # row t says what the update after it uses
    assert kinds == [("learning rate capped", 0), ("cap released", last + 20)]
    assert f"the cap lowered the rate at {last + 2} updates, at most to 0.5 of the schedule's" in str(watch)
    assert len(optimizer._optimizer_step_pre_hooks) == 1  # the schedule's


@pytest.mark.parametrize("every", [3, "auto"])
def test_a_capped_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, every):
    task = cases.TASKS["tuple"](dtype=torch.float64)

    def run(**more):
        probe = SharpnessProbe(task, every=every, budget=None, cap=0.3, alarm=1)
        return train(task, "sgd", Linear(0.1, 4.0, 20), 20, probes=[probe], **more), probe

    def stop(seen):
        if seen.step == 10:
            raise KeyboardInterrupt

    (whole, first), columns = run(), ("loss", "lr", "sharpness", "headroom", "lr_used")
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path, on_step=stop)
    resumed, second = run(out=tmp_path, resume=True)
    for column in columns:
        assert resumed[column].value.tolist() == whole[column].value.tolist()
        assert resumed[column].step.tolist() == whole[column].step.tolist()
    assert [e for e in resumed.events if "capped" in e.kind] == [e for e in whole.events if "capped" in e.kind]
    assert first.state_dict()["cap"] == second.state_dict()["cap"]


@pytest.mark.parametrize("guard", [{"cap": 1.0}, {"alarm": 3}], ids=str)
def test_who_asks_to_be_guarded_is_not_left_unguarded(guard):
    task = cases.TASKS["tuple"](dtype=torch.float64)
    model, probe = task.model(0), SharpnessProbe(task, **guard)
    objective = lrs.Objective(model, task.loss_fn, task.batches(1))
    with pytest.raises(MeasurementError, match="Adagrad"):
        Watch(objective, torch.optim.Adagrad(model.parameters(), lr=0.1), **guard)
    with pytest.raises(MeasurementError, match="Adagrad"):
        train(task, lambda p: torch.optim.Adagrad(p, lr=0.1), Constant(1.0), 3, probes=[probe])


@pytest.mark.parametrize(
    ("options", "word"),
    [({"cap": -1.0}, "cap"), ({"cap": float("nan")}, "cap"), ({"cap": "1"}, "cap"), ({"cap": True}, "cap"),
     ({"alarm": 0}, "alarm"), ({"alarm": 2.5}, "alarm"), ({"every": "autos"}, "every"), ({"every": True}, "every"),
     ({"budget": 0.0}, "budget"), ({"budget": float("inf")}, "budget")],
)  # fmt: skip
def test_bad_numbers_are_refused_before_any_work(options, word):
    task = cases.TASKS["tuple"](dtype=torch.float64)
    model = task.model(0)
    objective = lrs.Objective(model, task.loss_fn, task.batches(1))
    with pytest.raises(ValueError, match=word):
        SharpnessProbe(task, **options)
    with pytest.raises(ValueError, match=word):
        Watch(objective, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    assert objective.spent == lrs.records.Cost()


# The alarm.


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 3.0), max_size=40), st.integers(1, 5))
def test_the_alarm_goes_off_once_for_every_long_enough_stay_above_one(headrooms, patience):
    alarm, gone_off = Alarm(patience), []
    for step, headroom in enumerate(headrooms):
        if step % 7 == 3:  # a resume changes nothing
            other = Alarm(patience)
            other.load_state_dict(alarm.state_dict())
            alarm = other
        if alarm.see(step, headroom, headroom, 1.0) is not None:
            gone_off.append((step, alarm.since, alarm.worst))
    expected, start = [], None
    for step, headroom in enumerate([*headrooms, 0.0]):
        if headroom > 1 and start is None:
            start = step
        elif headroom <= 1 and start is not None:
            if step - start >= patience:
                at = start + patience - 1
                expected.append((at, start, max(headrooms[start : at + 1])))
            start = None
    assert gone_off == expected


def test_it_says_since_when_how_far_and_what_to_do():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    probe = SharpnessProbe(task, every=2, alarm=2)
    with pytest.warns(LrscopeWarning) as told:
        run = train(task, "sgd(momentum=0)", Constant(3.0), 12, probes=[probe])
    (event,) = [e for e in run.events if e.kind == "headroom above 1"]
    assert (event.step, event.detail["since"]) == (2, 0)
    text = str(next(w.message for w in told if "headroom" in str(w.message)))
    stable = dict(zip(*run["stable_lr"], strict=True))[2]
    assert text == event.detail["text"]
    assert f"the learning rate 3 is {3 / stable:.2f} times what curvature allows ({stable:.3g})" in text
    assert "lower the rate" in text


def test_a_calm_run_says_nothing():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LrscopeWarning)
        run = train(task, "sgd", Constant(1e-3), 12, probes=[SharpnessProbe(task, every=1, alarm=1, cap=1.0)])
    assert run.events == ()
    assert "lr_used" not in run.columns
