"""The training loop: an exact record, an exact resume, divergence as a status."""

import json
import math
from dataclasses import replace

import pytest
import torch

import cases
import lrscope as lrs
from fingerprints import everything
from lrscope.records import Run
from lrscope.schedules import Constant, Linear
from lrscope.training import Cell, run_cells, train

STEPS = 24


def cosine(steps=STEPS, peak=0.1):
    return lrs.schedules.Cosine(peak, 0.0, steps)


class Stopper:
    """Stops cleanly after a number of updates, as Ctrl-C between two updates does."""

    def __init__(self, after):
        self.after = after

    def __call__(self, state):
        if state.step + 1 == self.after:
            raise KeyboardInterrupt


class Kick:
    """A probe with state of its own: counts its calls."""

    name, every = "kick", 5

    def __init__(self):
        self.calls = 0

    def __call__(self, state):
        self.calls += 1
        return {"calls": float(self.calls), "nothing": None, "bad": math.nan}

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


@pytest.mark.parametrize("name", sorted(cases.TASKS))
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resume_equals_no_interruption(name, optimizer, tmp_path):
    task = cases.TASKS[name](dtype=torch.float64)
    whole = train(task, optimizer, cosine(), STEPS, evaluate_every=6, probes=[Kick()], name="run")
    for after in (1, 7, 23):
        out = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt):
            train(
                task,
                optimizer,
                cosine(),
                STEPS,
                evaluate_every=6,
                probes=[Kick()],
                name="run",
                out=out,
                on_step=Stopper(after),
            )
        assert Run.read(out / "run.jsonl").status == "interrupted"
        rest = train(
            task, optimizer, cosine(), STEPS, evaluate_every=6, probes=[Kick()], name="run", out=out, resume=True
        )
        assert rest.table().to_dict() == whole.table().to_dict()
        assert Run.read(out / "run.jsonl").table().to_dict() == whole.table().to_dict()


def test_the_record_says_what_ran():
    task = cases.TASKS["dict"]()
    run = train(task, "sgd", cosine(), STEPS, probes=[Kick()])
    assert run.status == "finished"
    assert run["lr"].value.tolist() == [float(v) for v in cosine().values(STEPS)]
    assert run["loss"].step.tolist() == list(range(STEPS))
    assert run["calls"].step.tolist() == [0, 5, 10, 15, 20]
    assert "nothing" not in run.columns
    assert "bad" not in run.columns
    assert run.steps_done == STEPS
    assert run["eval_loss"].step.tolist() == [STEPS]
    assert run.cost.gradients == run.cost.updates == STEPS
    # one evaluation of 12 examples, for the loss and one metric, in batches of at most 8
    assert run.cost.forwards in (24 / 8, 24 / 4)


def test_any_torch_optimizer_with_groups_keeps_its_ratios():
    task = cases.TASKS["dict"]()
    seen = []

    def make(params):
        params = list(params)
        return torch.optim.RMSprop([{"params": params[:2], "lr": 0.01}, {"params": params[2:], "lr": 0.002}])

    train(
        task, make, Linear(1.0, 0.5, 4), 4, on_step=lambda s: seen.append([g["lr"] for g in s.optimizer.param_groups])
    )
    # on_step comes after the update, when the next rates are in place already
    assert [round(a / b, 9) for a, b in seen] == [5.0] * 4


def test_divergence_is_a_status_with_its_step():
    task = cases.TASKS["linear_squared"](dtype=torch.float64)
    run = train(task, "sgd(momentum=0)", Constant(1e9), 50)
    assert run.status == "diverged"
    (event,) = [e for e in run.events if e.kind == "diverged"]
    assert event.step == run.steps_done
    assert run.cost.gradients == run.cost.updates + 1
    assert math.isnan(run.final("eval_loss"))
    # the same story from the engine for many cells
    (other,) = run_cells(task, "sgd(momentum=0)", [Cell(Constant(1e9))], 50, engine="serial")
    assert other.table().to_dict() == run.table().to_dict()
    assert [(e.kind, e.step) for e in other.events] == [(e.kind, e.step) for e in run.events]


def test_training_leaves_the_global_random_state(tmp_path):
    task = cases.TASKS["dropout"]()
    before = everything(loader=task.train)
    train(task, "sgd", cosine(), 5, out=tmp_path)
    assert everything(loader=task.train) == before
    with pytest.raises(KeyboardInterrupt):
        train(task, "sgd", cosine(), 5, on_step=Stopper(2))
    assert everything(loader=task.train) == before


def test_a_killed_run_is_still_readable(tmp_path):
    task = cases.TASKS["dict"]()
    train(task, "sgd", cosine(), 10, out=tmp_path, name="run")
    path = tmp_path / "run.jsonl"
    text = path.read_text().splitlines()
    path.write_text("\n".join(text[:6]) + '\n{"step": 5, "lo')  # as a killed process leaves it
    run = Run.read(path)
    assert run.status == "interrupted"
    assert run["loss"].step.tolist() == [0, 1, 2, 3, 4]
    assert json.loads(json.dumps(run.to_dict()))["status"] == "interrupted"


def test_resuming_another_run_is_refused(tmp_path):
    task = cases.TASKS["dict"]()
    with pytest.raises(KeyboardInterrupt):
        train(task, "sgd", cosine(), 10, out=tmp_path, name="run", on_step=Stopper(3))
    before = (tmp_path / "run.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"holds another run.*seed: stored 0, asked 1"):
        train(task, "sgd", cosine(), 10, out=tmp_path, name="run", seed=1, resume=True)
    assert (tmp_path / "run.jsonl").read_bytes() == before


def test_resuming_a_model_that_changed_is_refused(tmp_path):
    task = cases.TASKS["dict"]()
    with pytest.raises(KeyboardInterrupt):
        train(task, "sgd", cosine(), 10, out=str(tmp_path), name="run", on_step=Stopper(3))

    def wider(seed):
        model = task.build(seed)
        model.extra = torch.nn.Linear(2, 2)
        return model

    with pytest.raises(ValueError, match=r"holds another model \('extra.weight': stored none, the task now builds"):
        train(replace(task, build=wider), "sgd", cosine(), 10, out=tmp_path, name="run", resume=True)


def test_a_metric_that_is_not_a_number_is_a_gap_in_the_record(tmp_path):
    task = replace(cases.TASKS["dict"](), metrics={"bad": lambda model, batch: torch.tensor(math.nan)})
    run = train(task, "sgd", cosine(), 4, out=tmp_path, name="run", evaluate_every=2)
    assert "bad" not in run.columns
    assert run["eval_loss"].step.tolist() == [0, 2, 4]
    assert "NaN" not in (tmp_path / "run.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "steps: expected a positive integer, got 0"),
        ({"steps": True}, "steps"),
        ({"seed": -1}, "seed: expected an integer of 0 or more, got -1"),
        ({"seed": 1.5}, "seed: expected an integer of 0 or more"),
        ({"task": 3}, r"task: expected a lrscope Task, got int; wrap it in lrs.Task"),
        ({"schedule": 0.1}, r"schedule: expected a lrscope Schedule, got float.*Constant"),
        ({"schedule": Linear(1.0, -1.0, 10)}, "negative learning rate"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"probes": [Kick(), Kick()]}, "probes: names must differ"),
        ({"optimizer": "sdg"}, "sgd"),
        ({"optimizer": lambda params: 3}, "returned int"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(change, match, tmp_path):
    arguments = {"task": cases.TASKS["dict"](), "optimizer": "sgd", "schedule": cosine(), "steps": 10}
    with pytest.raises((ValueError, TypeError), match=match):
        train(**(arguments | {"out": tmp_path / "new"} | change))
    assert not (tmp_path / "new").exists()
