"""Weight decay and its exponential learning rate, trained beside each other: equal where theory says, else not."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import cases
from lrscope.errors import MeasurementError, ScheduleError
from lrscope.reports import equivalence
from lrscope.schedules import Constant, Cosine, Linear, Piecewise, warmup
from lrscope.stability import show_equivalence
from lrscope.tasks import Batches, Task
from lrscope.training import train

STEPS = 60
SGD = "sgd(momentum=0.9, weight_decay=0.01)"


def build(seed, *, eps=0.0, dropout=0.0):
    f, c = cases.FEATURES, cases.CLASSES
    hidden = [nn.Linear(f, 8, bias=False), nn.LayerNorm(8, eps=eps), nn.Tanh(), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(8, 8, bias=False), nn.LayerNorm(8, eps=eps), nn.Linear(8, c))


def task(dtype=torch.float32, **options):
    x, y = cases.data(dtype)
    part = Batches(x, y, batch_size=8, shuffle=True)
    metrics = {"accuracy": cases.accuracy}
    return Task(partial(build, **options), cases.cross_entropy, part, part, metrics, name="normalised")


SCHEDULES = {
    "constant": Constant(0.05),
    "steps": Piecewise((0.1, 0.01, 0.001), (20, 40)),
    "cosine to 0": 0.1 * Cosine(1.0, 0.0, STEPS),
    "warmup from 0": 0.05 * warmup(10).then(Linear(1.0, 0.0, STEPS - 10)),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("optimizer", [SGD, "sgd(momentum=0, weight_decay=0.05)"])
def test_without_eps_the_runs_are_equal_to_rounding(schedule, optimizer):
    shown = show_equivalence(task(), optimizer, schedule, STEPS)
    assert shown.weights < 1e-11
    assert shown.losses < 1e-11
    assert shown.parted_at is None
    assert shown.original.final("accuracy") == shown.exponential.final("accuracy")
    converted = {g.name for g in shown.invariance.groups if g.verdict == "exact"}
    assert converted == {"0.weight", "4.weight"}
    growth = shown.exponential["weight_norm"].value / shown.original["weight_norm"].value
    assert (np.diff(growth) >= -1e-12).all()
    assert growth[-1] > 1.001
    assert str(shown).startswith("the same run: over 60 updates")


def test_an_eps_of_the_normalisation_parts_them_and_that_is_said():
    shown = show_equivalence(task(eps=1e-3), SGD, Constant(0.2), STEPS)
    assert shown.weights > 1e-4
    assert shown.parted_at is not None
    assert "then different" in str(shown)
    assert "chaotic" in str(shown)


def test_the_original_is_the_run_that_train_makes():
    double = task(torch.float64)
    made = dataclasses.replace(double, build=lambda seed: build(seed).double())
    schedule = SCHEDULES["warmup from 0"]
    shown = show_equivalence(made, SGD, schedule, STEPS, seed=3)
    run = train(made, SGD, schedule, STEPS, seed=3)
    np.testing.assert_allclose(shown.original["loss"].value, run["loss"].value, rtol=1e-12)
    assert shown.original.final("eval_loss") == pytest.approx(run.final("eval_loss"), rel=1e-12)
    assert shown.original["lr"].value.tolist() == run["lr"].value.tolist()


def test_both_runs_see_the_same_draws_and_no_generator_moves():
    state = torch.get_rng_state()
    shown = show_equivalence(task(dropout=0.5), SGD, Constant(0.05), 20)
    assert shown.weights < 1e-11
    assert torch.equal(state, torch.get_rng_state())


def test_rebases_are_part_of_it():
    shown = show_equivalence(task(), "sgd(momentum=0, weight_decay=50)", Constant(0.01), 30)
    assert shown.rebases == {20: 2.0**20}
    assert shown.weights < 1e-9


def test_the_figure_draws_both_losses_both_rates_and_the_difference():
    shown = show_equivalence(task(), SGD, Constant(0.05), 10)
    panels = equivalence(shown.original, shown.exponential).axes
    assert [len(axes.lines) for axes in panels] == [2, 2, 1]
    assert panels[1].lines[1].get_ydata().tolist() == shown.exponential["lr"].value.tolist()


def test_a_run_that_diverges_says_so():
    shown = show_equivalence(task(), "sgd(momentum=0, weight_decay=1e-3)", Linear(0.1, 300.0, 5), 40)
    assert shown.original.status == shown.exponential.status == "diverged"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"task": "plain"}, MeasurementError, "no parameter of MLP is scale invariant"),
        ({"optimizer": "sgd"}, ValueError, "has no weight decay"),
        ({"optimizer": "adamw"}, ScheduleError, "must be a torch.optim.SGD, got AdamW"),
        ({"optimizer": "sgd(nesterov=True, weight_decay=0.1)"}, ScheduleError, "[Nn]esterov"),
        ({"steps": 0}, ValueError, "steps: expected a positive integer"),
        ({"schedule": Constant(-1.0)}, ValueError, "negative learning rate"),
        ({"schedule": 0.1}, TypeError, "expected a lrscope Schedule"),
        (
            {"schedule": Constant(0.5), "steps": 60},
            ScheduleError,
            "group scale_invariant",
        ),  # too much weight decay for momentum
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(change, error, said):
    asked = {"task": task(), "optimizer": SGD, "schedule": Constant(0.05), "steps": 5} | change
    if asked["task"] == "plain":
        asked["task"] = cases.TASKS["tuple"]()
    with pytest.raises(error, match=said) as raised:
        show_equivalence(**asked)
    assert "\n" not in str(raised.value)
