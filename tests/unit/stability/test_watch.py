"""The watch over a user's own loop, its record, and the probe of the loop that lrscope runs."""

import dataclasses
import json

import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.records import Run
from lrscope.schedules import Constant
from lrscope.stability import SharpnessProbe, StabilityGauge, Watch
from lrscope.training import train


def problem():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    model = task.model(0)
    return lrs.Objective(model, task.loss_fn, task.batches(1)), torch.optim.SGD(model.parameters(), lr=0.05)


def test_the_record_has_an_end_and_is_never_overwritten(tmp_path):
    out = str(tmp_path / "watched")
    with Watch(*problem(), every=2, out=out) as watch:
        for _ in range(3):
            watch.step(1.0)
    lines = tmp_path / "watched" / "runs" / "planned.jsonl"
    run = Run.read(lines)
    assert (run.status, run.steps_done) == ("finished", 2)
    assert run.cost.products == watch.run().cost.products > 0
    text = lines.read_bytes()
    with pytest.raises(ValueError, match=r"holds an earlier record already; give another directory"):
        Watch(*problem(), out=out)
    watch.close()
    with pytest.raises(ValueError, match="was closed"):
        watch.step(1.0)
    assert lines.read_bytes() == text


def test_without_an_end_or_after_an_error_the_record_reads_as_interrupted(tmp_path):
    watch = Watch(*problem(), out=tmp_path / "cut")
    watch.step(1.0)
    assert Run.read(tmp_path / "cut" / "runs" / "planned.jsonl").status == "interrupted"
    watch.close()
    watch = Watch(*problem(), out=tmp_path / "stopped")

    def loop():
        with watch:
            watch.step(1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert Run.read(tmp_path / "stopped" / "runs" / "planned.jsonl").status == "interrupted"
    assert watch.run().status == "interrupted"


def test_divergence_is_noted_once(tmp_path):
    with Watch(*problem(), every=1, out=tmp_path) as watch:
        watch.step(1.0)
        for _ in range(5):
            watch.step(torch.tensor(float("nan")))
    run = Run.read(tmp_path / "runs" / "planned.jsonl")
    assert run.status == watch.run().status == "diverged"
    assert [(e.kind, e.step) for e in run.events] == [("diverged", 1)]
    assert run["sharpness"].step.tolist() == [0]
    ends = [json.loads(line) for line in (tmp_path / "runs" / "planned.jsonl").read_text().splitlines()]
    assert sum("end" in line for line in ends) == 1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adagrad])
def test_an_optimizer_of_another_model_is_refused(kind):
    objective, _ = problem()
    foreign = kind(nn.Linear(2, 2).parameters(), lr=0.1)
    for make in (Watch, StabilityGauge):
        with pytest.raises(lrs.MeasurementError, match="does not hold the trainable parameter"):
            make(objective, foreign)


def test_a_model_is_no_objective():
    objective, optimizer = problem()
    with pytest.raises(TypeError, match=r"objective: expected a lrs\.Objective"):
        Watch(objective.model, optimizer)  # type: ignore[arg-type]


def test_what_cannot_be_measured_does_not_stop_the_loop():
    objective, _ = problem()
    groups = [{"params": [p], "lr": 0.0} for p in objective.model.parameters()]  # no ratio to be told from zeros
    optimizer = torch.optim.SGD(groups, lr=0.0)
    watch = Watch(objective, optimizer, every=1)
    assert "headroom" not in watch.step(1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    assert "headroom" in watch.step(1.0)
    assert [e.kind for e in watch.run().events] == ["sharpness not measured"]


def test_the_cost_of_the_probe_survives_a_resume(tmp_path):
    task = cases.TASKS["tuple"](dtype=torch.float64)

    def run(**more):
        probe = SharpnessProbe(task, every=2)
        return train(task, "sgd", Constant(0.05), 9, probes=[probe], **more)

    def stop(seen):
        if seen.step == 4:
            raise KeyboardInterrupt

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path, on_step=stop)
    resumed = run(out=tmp_path, resume=True)
    assert resumed["sharpness"].value.tolist() == whole["sharpness"].value.tolist()
    # the same products, and those of the choice of method, which the new process makes again
    assert whole.cost.products <= resumed.cost.products <= whole.cost.products + 4


def test_a_loaded_probe_hands_on_what_it_was_given():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    first, second = SharpnessProbe(task, every=1), SharpnessProbe(task, every=1)
    assert first.state_dict() == {}
    train(task, "sgd", Constant(0.05), 3, probes=[first])
    second.load_state_dict(first.state_dict())
    assert second.cost.products == first.cost.products > 0
    assert second.state_dict() == first.state_dict() | {"tracker": second.state_dict()["tracker"]}


def test_a_model_in_bfloat16_is_probed_while_it_trains():
    task = cases.TASKS["tuple"](dtype=torch.bfloat16)
    run = train(task, "sgd", Constant(0.05), 7, probes=[SharpnessProbe(task, every=3)])
    assert run["sharpness"].step.tolist() == [0, 3, 6]
    assert run.events == ()
    wide = lrs.sharpness(cases.TASKS["tuple"](dtype=torch.float64).objective()).value
    assert run["sharpness"].value[0] == pytest.approx(wide, rel=0.1)
    assert run["headroom"].value[0] > 0


def trained(watch, optimizer, updates):
    for _ in range(updates):
        optimizer.step()
        watch.step(1.0)


def test_a_reading_that_did_not_converge_gives_no_headroom_and_is_said(monkeypatch):
    objective, optimizer = problem()
    watch = Watch(objective, optimizer, every=1, alarm=1, cap=1e-9)
    update = watch._gauge.tracker.update
    # A reading of which the products have contradicted themselves.
    monkeypatch.setattr(watch._gauge.tracker, "update", lambda **k: dataclasses.replace(update(**k), converged=False))
    optimizer.step()
    row = watch.step(1.0)
    assert {"sharpness", "sharpness_residual"} <= row.keys()
    assert not {"headroom", "stable_lr"} & row.keys()
    assert row["lr_used"] < row["lr"]  # the cap stays on the safe side
    optimizer.step()
    watch.step(1.0)
    events = [event.kind for event in watch.run().events]
    assert events.count("sharpness not converged") == 1
    assert "headroom above 1" not in events
    assert "2 readings did not converge" in str(watch)
    assert "so there is no headroom reading" in str(watch)


def test_whatever_a_reading_raises_does_not_stop_a_training():
    objective, optimizer = problem()
    trouble = [None]
    loss_fn = objective.loss_fn

    def sometimes(model, batch):
        if trouble[0] is not None:
            raise trouble[0]
        return loss_fn(model, batch)

    objective = lrs.Objective(objective.model, sometimes, objective.batches)
    watch = Watch(objective, optimizer, every=1)
    trained(watch, optimizer, 1)
    for error in (torch.OutOfMemoryError("CUDA out of memory"), KeyError("labels"), ValueError("shape\nof it")):
        trouble[0] = error
        trained(watch, optimizer, 2)
    trouble[0] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        trained(watch, optimizer, 1)
    reasons = [event.detail["reason"] for event in watch.run().events if event.kind == "sharpness not measured"]
    assert len(reasons) == 3
    assert "CUDA out of memory" in reasons[0]
    assert "shape" in reasons[2]
    assert "\n" not in "".join(reasons)


def test_an_optimizer_that_was_replaced_is_noticed_once():
    objective, optimizer = problem()
    watch = Watch(objective, optimizer, every=1000)
    trained(watch, optimizer, 30)
    for _ in range(19):  # as many as a gradient scaler may leave out
        watch.step(1.0)
    trained(watch, optimizer, 1)
    other = torch.optim.SGD(objective.model.parameters(), lr=5.0)
    with pytest.warns(LrscopeWarning, match=r"SGD made no update in 20 calls") as caught:
        trained(watch, other, 45)
    assert len(caught) == 1
    assert [event.kind for event in watch.run().events] == ["no updates"]
    hooks = len(optimizer._optimizer_step_post_hooks)
    watch.close()
    assert len(optimizer._optimizer_step_post_hooks) == hooks - 1


def test_an_optimizer_that_climbs_has_no_headroom():
    objective, _ = problem()
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(MeasurementError, match="maximize"):
        Watch(objective, optimizer, cap=1.0)
    watch = Watch(objective, optimizer, every=1)
    assert "headroom" not in watch.step(1.0)
    assert "maximize" in watch.run().events[0].detail["reason"]


def test_the_reading_before_the_first_update_is_in_the_first_row():
    objective, optimizer = problem()
    watch = Watch(objective, optimizer, every="auto", cap=1.0)
    trained(watch, optimizer, 2)
    assert "headroom" in watch.run().rows[0]
    assert "1 reading" in str(watch)
    assert "1 readings" not in str(watch)


def test_a_state_of_another_kind_is_refused():
    watch = Watch(*problem())
    for state in (watch._gauge.tracker.state_dict(), watch._gauge.state_dict(), None):
        with pytest.raises(MeasurementError, match=r"expected what Watch\.state_dict"):
            watch.load_state_dict(state)
    with pytest.raises(MeasurementError, match="expected what state_dict"):
        watch._gauge.load_state_dict(watch._gauge.tracker.state_dict())
    state = watch.state_dict()
    watch.close()
    with pytest.raises(ValueError, match="was closed"):
        watch.load_state_dict(state)
