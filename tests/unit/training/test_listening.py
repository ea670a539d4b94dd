"""Schedules that listen, in train: what they hear and when; stopped anywhere, they go on to the bit."""

import math

import pytest
import torch

import cases
from lrscope.errors import MeasurementError
from lrscope.records import Cost
from lrscope.schedules import Constant, FeedbackSchedule, Linear, Plateau, TwoPhase
from lrscope.stability import CatapultWarmup
from lrscope.training import train

STEPS = 24


class Stopper:
    def __init__(self, after):
        self.after = after

    def __call__(self, state):
        if state.step + 1 == self.after:
            raise KeyboardInterrupt


class Deaf(FeedbackSchedule):
    """Remembers whatever it is told."""

    listens_to = frozenset({"loss", "eval_loss", "accuracy", "calls"})

    def __init__(self):
        self.seen = []

    def init(self):
        return {}

    def update(self, state, step, observed):
        self.seen.append((step, dict(observed)))
        return state

    def value(self, state, step):
        return 0.1

    def to_spec(self):
        return {"kind": "deaf"}


class Calls:
    name, every = "calls", 7

    def __call__(self, state):
        return {"calls": 3.0, "nothing": None}


def test_it_hears_the_loss_of_each_update_evaluations_and_probes_before_the_update():
    task, deaf = cases.TASKS["dict"](), Deaf()
    run = train(task, "sgd", deaf, STEPS, evaluate_every=6, probes=[Calls()])
    first = {step: seen for step, seen in deaf.seen if "loss" in seen}
    assert list(first) == list(range(STEPS))
    assert [seen["loss"] for seen in first.values()] == run["loss"].value.tolist()
    assert [step for step, seen in first.items() if "eval_loss" in seen and "accuracy" in seen] == [0, 6, 12, 18]
    assert [first[t]["eval_loss"] for t in (0, 6, 12, 18)] == run["eval_loss"].value[:-1].tolist()
    assert [(step, seen) for step, seen in deaf.seen if "loss" not in seen] == [
        (t, {"calls": 3.0}) for t in (0, 7, 14, 21)
    ]


LISTENERS = {
    "plateau": lambda: Plateau(factor=0.5, patience=2, threshold=0.3) * Constant(0.2),
    "on evaluations": lambda: {
        "lr": Plateau("eval_loss", factor=0.5, patience=0),
        "weight_decay": Linear(1.0, 0.0, 9),
    },
    "two phases": lambda: TwoPhase(0.3, 0.05, window=3, patience=2, improvement=0.2),
    "two phases by share": lambda: TwoPhase(0.3, 0.05, switch=0.5, steps=STEPS),
    "catapult": lambda: CatapultWarmup(3.0, over=2, share=0.1),
    "catapult with a decay": lambda: CatapultWarmup(0.5, 0.01, over=3, share=0.25) * Linear(1.0, 0.0, STEPS),
}


@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "giadamw"])
def test_resume_equals_no_interruption(name, optimizer, tmp_path):
    if name.startswith("two phases") and optimizer != "sgd":
        pytest.skip("drives the momentum of SGD")
    task = cases.TASKS["dropout" if name == "catapult" else "dict"](dtype=torch.float64)
    schedule = LISTENERS[name]()
    if name == "on evaluations":
        optimizer += "(weight_decay=0.01)"
    whole = train(task, optimizer, schedule, STEPS, evaluate_every=4, name="run")
    assert len(set(whole["lr"].value.tolist())) > 1 or any(e.kind == "measured" for e in whole.events)
    for after in (1, 5, 12, 23):
        out = tmp_path / str(after)
        options = {"evaluate_every": 4, "name": "run", "out": out}
        with pytest.raises(KeyboardInterrupt):
            train(task, optimizer, schedule, STEPS, **options, on_step=Stopper(after))
        rest = train(task, optimizer, schedule, STEPS, **options, resume=True)
        assert rest.table().to_dict() == whole.table().to_dict()
        assert {e.step: e.detail for e in rest.events if e.kind == "measured"} == {
            e.step: e.detail for e in whole.events if e.kind == "measured"
        }
        assert rest.cost.forwards == pytest.approx(whole.cost.forwards)


def test_what_is_measured_is_part_of_the_cost_and_leaves_no_trace():
    """A catapult whose target is its first jump trains as that constant does, BatchNorm and dropout included."""
    for name in ("batch_norm", "dropout"):
        task = cases.TASKS[name](dtype=torch.float64)
        found = train(task, "sgd(momentum=0)", CatapultWarmup(1e-3, over=2), STEPS)  # stable up to there
        plain = train(task, "sgd(momentum=0)", Constant(1e-3), STEPS)
        assert found.table().to_dict() == plain.table().to_dict()
        (event,) = [e for e in found.events if e.kind == "measured"]
        assert found.cost.forwards - plain.cost.forwards == event.detail["forwards"] > 1
        assert found.cost.gradients == plain.cost.gradients


def test_what_is_never_reported_is_refused_before_any_work():
    task = cases.TASKS["dict"]()
    with pytest.raises(
        ValueError, match=r"Plateau listens to 'eval_loss', which is never reported here, only loss; "
    ):
        train(task, "sgd", Plateau("eval_loss"), 5)
    with pytest.raises(ValueError, match=r"listens to 'eval_los', .* only accuracy, eval_loss, loss"):
        train(task, "sgd", {"lr": Plateau("eval_los")}, 5, evaluate_every=1)
    train(task, "sgd", Plateau("calls"), 8, probes=[Calls()])
    with pytest.raises(TypeError, match=r"expected a lrscope Schedule for lr, got NoneType"):
        train(task, "sgd", {"momentum": Constant(0.9)}, 5)
    with pytest.raises(ValueError, match="negative learning rate -1 at step 0"):
        train(task, "sgd", {"lr": Constant(-1.0)}, 5)


def test_a_schedule_may_drive_several_keys():
    task = cases.TASKS["dict"]()
    seen = []
    run = train(
        task,
        "sgd(momentum=0.8)",
        {"lr": Constant(0.1), "momentum": Linear(1.0, 0.0, 4)},
        4,
        on_step=lambda s: seen.append(s.optimizer.param_groups[0]["momentum"]),
    )
    assert seen == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert set(run.config["schedule"]) == {"lr", "momentum"}


def test_a_catapult_on_a_sparse_gradient_is_refused():
    class Sparse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.token = torch.nn.Embedding(cases.VOCAB, 4, sparse=True)

        def forward(self, tokens):
            return self.token(tokens).sum(-1)

    task = cases.task(
        "sparse", Sparse, lambda m, b: m(b[0]).square().mean(), cases.data(torch.float32, "tokens"), torch.float32
    )
    with pytest.raises(MeasurementError, match=r"gradient of 'token.weight' is sparse.*sparse=False"):
        train(task, "sgd(momentum=0)", CatapultWarmup(1.0), 3)


def test_a_nan_batch_is_a_status():
    task = cases.TASKS["dict"]()
    run = train(
        task,
        "sgd",
        CatapultWarmup(1.0, over=1),
        3,
        on_step=lambda s: (
            s.model.head.weight.data.fill_(math.nan)
            if hasattr(s.model, "head")
            else [p.data.fill_(math.nan) for p in s.model.parameters()]
        ),
    )
    assert run.status == "diverged"
    assert run.cost != Cost()
