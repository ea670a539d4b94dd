"""Readings at their own pace, across resumes, over parameters that come and go, and in words."""

import numpy as np
import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.records import Run
from lrscope.schedules import Constant, Linear
from lrscope.stability import SharpnessProbe, StabilityGauge, Watch
from lrscope.training import train


def problem(optimizer=torch.optim.SGD, **options):
    task = cases.TASKS["tuple"](dtype=torch.float64)
    model = task.model(0)
    optimizer = optimizer(model.parameters(), **{"lr": 0.3, **options})
    return task, model, lrs.Objective(model, task.loss_fn, task.batches(1)), optimizer


def update(task, model, optimizer, step):
    batches = task.batches()
    optimizer.zero_grad()
    loss = task.loss_fn(model, batches[step % len(batches)])
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize("optimizer", ["sgd(momentum=0)", pytest.param("adamw", marks=pytest.mark.slow)])
def test_its_own_pace_reads_what_reading_at_every_step_reads(optimizer):
    task, schedule = lrs.tasks.digits(), Linear(0.0, 0.02, 120)
    every = train(task, optimizer, schedule, 120, probes=[SharpnessProbe(task, every=1)])
    probe = SharpnessProbe(task, every="auto", budget=None)
    auto = train(task, optimizer, schedule, 120, probes=[probe])
    assert auto["loss"].value.tolist() == every["loss"].value.tolist()  # no trace
    read, truth = auto["sharpness"], every["sharpness"].value
    assert read.step[0] == 0
    assert 4 < len(read.step) < 80
    assert np.median(np.abs(read.value / truth[read.step] - 1)) < 0.01


def test_a_budget_is_kept_over_the_run():
    task = lrs.tasks.digits()
    spent = {}
    for budget in (0.2, 1.0):
        probe = SharpnessProbe(task, every="auto", budget=budget)
        train(task, "sgd(momentum=0)", Constant(0.3), 200, probes=[probe])
        first = SharpnessProbe(task, every=10**6)
        train(task, "sgd(momentum=0)", Constant(0.3), 1, probes=[first])
        spent[budget] = probe.cost.in_gradients() - first.cost.in_gradients()
        assert spent[budget] <= 1.1 * (200 * budget + 10)
    assert spent[1.0] > 2 * spent[0.2]


def test_a_watch_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    options = {"every": "auto", "budget": None, "cap": 0.5, "alarm": 1}

    def loop(watch, task, model, optimizer, steps):
        for step in steps:
            watch.step(update(task, model, optimizer, step))

    task, model, objective, optimizer = problem(lr=4.0, momentum=0.5)
    with Watch(objective, optimizer, out=tmp_path / "whole", **options) as watch:
        loop(watch, task, model, optimizer, range(24))
    whole = Run.read(tmp_path / "whole" / "runs" / "planned.jsonl")

    task, model, objective, optimizer = problem(lr=4.0, momentum=0.5)
    watch = Watch(objective, optimizer, out=tmp_path / "cut", **options)
    loop(watch, task, model, optimizer, range(11))
    torch.save([model.state_dict(), optimizer.state_dict(), watch.state_dict()], tmp_path / "saved.pt")
    loop(watch, task, model, optimizer, range(11, 15))  # lost: after the checkpoint

    task, model, objective, optimizer = problem(lr=4.0, momentum=0.5)
    watch = Watch(objective, optimizer, out=tmp_path / "cut", resume=True, **options)
    with pytest.raises(ValueError, match="first load_state_dict"):
        watch.step()
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    for thing, state in zip((model, optimizer, watch), saved, strict=True):
        thing.load_state_dict(state)
    with watch:
        loop(watch, task, model, optimizer, range(11, 24))
    resumed = Run.read(tmp_path / "cut" / "runs" / "planned.jsonl")
    assert resumed.rows == whole.rows
    assert "lr_used" in whole.columns
    assert resumed.status == "finished"
    assert [e.kind for e in resumed.events].count("resumed") == 1


def test_a_state_of_another_model_is_refused():
    _, _, objective, optimizer = problem()
    watch = Watch(objective, optimizer)
    watch.step()
    other = nn.Linear(2, 2)
    objective = lrs.Objective(other, lambda m, x: m(x).square().mean(), [torch.ones(3, 2)])
    with pytest.raises(lrs.MeasurementError, match="parameters"):
        Watch(objective, torch.optim.SGD(other.parameters(), lr=0.1)).load_state_dict(watch.state_dict())


def test_parameters_that_are_unfrozen_are_measured_from_then_on():
    task, model, _, _ = problem()
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gauge = StabilityGauge(lrs.Objective(model, task.loss_fn, task.batches(1)), optimizer)
    events = []
    note = lambda kind, **detail: events.append((kind, detail))  # noqa: E731
    part = gauge.step(0, note)["sharpness"]
    first.requires_grad_(True)
    objective = lrs.Objective(model, task.loss_fn, task.batches(1))
    whole = gauge.step(1, note)["sharpness"]
    assert whole == pytest.approx(lrs.sharpness(objective, tol=1e-6).value, rel=0.01)
    assert whole > part
    assert events == [("trained parameters changed", {"size": objective.size})]


def test_what_fails_is_said_once_and_tried_ever_more_rarely():
    _, _, objective, _ = problem()
    groups = [{"params": [p], "lr": 0.0} for p in objective.model.parameters()]
    optimizer = torch.optim.SGD(groups, lr=0.0)  # no ratio of rates to be told from zeros
    gauge = StabilityGauge(objective, optimizer, every="auto", cap=1.0)
    events, tried = [], []
    note = lambda kind, **detail: events.append(kind)  # noqa: E731
    for step in range(40):
        if gauge.step(step, note) is not None:
            tried.append(step)
    assert tried == [0, 1, 4, 11, 26]
    assert events == ["sharpness not measured"]
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    rows = [gauge.step(step, note) for step in range(40, 70)]
    assert any("headroom" in row for row in rows if row)


def test_a_gradient_scaler_is_not_touched():
    ends = []
    for watched in (False, True):
        task, model, objective, optimizer = problem()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
        watch = Watch(objective, optimizer, every=1, cap=0.01) if watched else None
        for step in range(8):
            optimizer.zero_grad()
            loss = task.loss_fn(model, task.batches()[step % 2])
            scaler.scale(loss * (float("inf") if step == 4 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            if watch is not None:
                watch.step()
        ends.append(scaler.state_dict())
        if watch is not None:  # the skipped update was none
            assert watch._gauge.cap.num_updates == 7
    assert ends[0] == ends[1]


def test_the_sentence_at_the_end(capsys):
    task, model, objective, optimizer = problem(lr=0.05)
    with Watch(objective, optimizer, every=2) as watch:
        for step in range(6):
            watch.step(update(task, model, optimizer, step))
    run = watch.run()
    stable = run["stable_lr"].value[-1]
    text = capsys.readouterr().err
    assert text.startswith("lrscope: watched 6 updates: the learning rate 0.05 now uses ")
    assert f"uses {0.05 / stable:.0%} of what curvature allows ({stable:.3g})" in text
    assert "; 3 readings" in text
    assert "of the time" in text

    adagrad = torch.optim.Adagrad(model.parameters(), lr=0.1)
    watch = Watch(objective, adagrad, every=1)
    assert "no headroom reading yet" in str(watch)
    watch.step()
    assert "of an optimizer whose limit is not known" in str(watch)
    watch.step(float("nan"))
    assert "diverged at step 1" in str(watch)
