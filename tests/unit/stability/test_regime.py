"""The two regimes: each test on a loss where its answer is known, no trace, and what a record can tell."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from fingerprints import everything, wiring
from lrscope.errors import MeasurementError
from lrscope.records import Run
from lrscope.stability import Regime, explain, measure_regime, run_regime
from lrscope.stability.trial import ALPHAS, Probed, Trial
from lrscope.tasks import Batches


class Point(nn.Module):
    """Mean over examples of h (x - c)^2 / 2: a quadratic whose batches pull to different places."""

    def __init__(self, x=5.0, h=1.0):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([x], dtype=torch.float64))
        self.h = h

    def forward(self, c):
        return 0.5 * self.h * (self.x - c).pow(2).mean()


def quadratic(spread=0.0, x=5.0, num=64, batch_size=4):
    g = torch.Generator().manual_seed(0)
    centres = spread * torch.randn(num, generator=g, dtype=torch.float64)
    model = Point(x)

    def loss_fn(m, c):
        return m(c)

    return lrs.Objective(model, loss_fn, [centres - centres.mean()]), Batches(
        centres - centres.mean(), batch_size=batch_size, shuffle=True
    )


def sgd(objective, lr, **more):
    return torch.optim.SGD(objective.model.parameters(), lr=lr, **more)


@pytest.mark.parametrize(("lr", "minimum", "cosine"), [(0.25, 2.0, 1.0), (0.8, 1.5, 1.0), (1.6, 0.5, -1.0)])
def test_without_noise_the_step_line_is_that_of_a_parabola(lr, minimum, cosine):
    """From x the step goes to (1 - lr) x, and the minimum lies at 1 / lr of it; the gradient keeps or turns its sign."""
    objective, batches = quadratic()
    probed = Trial(objective, sgd(objective, lr), batches).probe(6)
    assert probed.minimum == min(ALPHAS, key=lambda a: abs(a - 1 / lr) - 1e-9)
    assert probed.rises == 0.0
    assert probed.full_cosine == pytest.approx(cosine)
    assert probed.batch_cosine == pytest.approx(cosine)
    assert probed.num_steps == 6


def test_an_epoch_of_full_batch_descent_is_the_closed_form():
    objective, _ = quadratic()
    one = Batches(torch.zeros(64, dtype=torch.float64), batch_size=64)
    losses = Trial(objective, sgd(objective, 0.3), one).epochs(5)
    np.testing.assert_allclose(losses, 12.5 * 0.7 ** (2 * np.arange(6)), rtol=1e-12)


def test_a_small_rate_far_from_the_minimum_is_small_step():
    objective, batches = quadratic(spread=0.1)
    found = measure_regime(objective, sgd(objective, 1e-3), batches, epochs=6, probe_steps=20)
    assert found.rises == 0
    assert found.tests == {
        "epochs": "small-step",
        "plateau": "small-step",
        "step line": "small-step",
        "cosine": "small-step",
    }
    assert found.verdict == "small-step"
    assert "convex" in str(found)


def test_a_large_rate_that_rattles_in_noise_is_large_step():
    objective, batches = quadratic(spread=3.0, x=0.0)
    found = measure_regime(objective, sgd(objective, 1.7), batches, epochs=20, probe_steps=60)
    assert found.rises >= 0.2
    assert found.plateau > 1.5
    assert found.tests["step line"] == "large-step"
    assert found.verdict == "large-step"
    assert found.num_epochs == 20
    assert "momentum only scales" in str(found)


def test_divergence_is_no_regime():
    objective, batches = quadratic()
    found = measure_regime(objective, sgd(objective, 1e12), batches, epochs=30, probe_steps=5)
    assert found.verdict == "diverged"
    assert found.probed is None
    assert "no regime" in str(found)


@pytest.mark.parametrize("name", ["tuple", "dict", "loader", "dropout", "batch_norm", "frozen", "linear_squared"])
def test_no_trace_is_left(name):
    task = cases.TASKS[name](dtype=torch.float64)
    model = task.model(0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    for batch in task.batches(2):
        optimizer.zero_grad()
        task.loss_fn(model, batch).backward()
        optimizer.step()
    objective = lrs.Objective(model, task.loss_fn, task.batches(), count=task.count)
    before, wired = everything(model, optimizer, task.train), wiring(model, optimizer)
    found = measure_regime(objective, optimizer, task.train, epochs=2, probe_steps=2)
    assert everything(model, optimizer, task.train) == before
    assert wiring(model, optimizer) == wired
    assert found.cost.updates == 2 * 2 * len(task.batches()) + 2
    assert all(math.isfinite(x) for x in found.losses)


def test_a_copy_trains_as_the_live_model_would():
    """With its momentum buffer: the first epoch of the trial is the epoch that torch itself would make."""
    task = cases.TASKS["linear_squared"](dtype=torch.float64)
    model = task.model(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = task.batches()
    for batch in batches:
        optimizer.zero_grad()
        task.loss_fn(model, batch).backward()
        optimizer.step()
    objective = lrs.Objective(model, task.loss_fn, batches, count=task.count)
    losses = Trial(objective, optimizer, batches).epochs(1)
    twin, other = copy.deepcopy((model, optimizer))
    for batch in batches:
        other.zero_grad()
        task.loss_fn(twin, batch).backward()
        other.step()
    expected = lrs.Objective(twin, task.loss_fn, batches, count=task.count).loss()
    assert losses == pytest.approx([objective.loss(), expected], rel=1e-12)


def test_verdicts_follow_the_rule():
    large, small = Probed(0.5, 0.5, 0.5, 0.2, 60), Probed(2.0, 0.0, 1.0, 1.0, 60)
    neither = Probed(0.75, 0.3, 0.8, 0.6, 60)
    rattling, falling = [1.0, 1.1] * 6, list(np.linspace(1, 0.1, 12))
    assert Regime(0.1, rattling, 2.0, large).verdict == "large-step"
    assert Regime(0.1, rattling, 2.0, small).verdict == "undecided"
    assert "the tests disagree" in str(Regime(0.1, rattling, 2.0, small))
    assert Regime(0.1, rattling, 2.0, None).verdict == "undecided"
    assert Regime(0.1, falling, 1.0, small).verdict == "small-step"
    assert Regime(0.1, falling, 1.0, neither).verdict == "undecided"
    assert Regime(0.1, [1.0, *falling[1:6], 0.7, *falling[7:]], 1.0, large).verdict == "transition"
    half = Probed(0.5, 0.5, 0.9, 0.6, 60)  # the step line alone is enough beside the epochs
    assert Regime(0.1, rattling, None, half).verdict == "large-step"
    turned = Probed(1.0, 0.1, 0.5, 0.2, 60)  # so is the cosine
    assert Regime(0.1, rattling, None, turned).verdict == "large-step"
    assert Regime(0.1, falling).rises == 0
    assert 0 < Regime(0.1, falling).rises_error < 0.2


def test_bad_input_is_refused_before_any_work():
    objective, batches = quadratic()
    optimizer = sgd(objective, 0.1)
    with pytest.raises(TypeError, match="Objective"):
        measure_regime(objective.model, optimizer, batches)
    with pytest.raises(TypeError, match="optimizer"):
        measure_regime(objective, "sgd", batches)
    for bad in ({"epochs": 0}, {"probe_steps": -1}, {"epochs": True}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            measure_regime(objective, optimizer, batches, **bad)
    with pytest.raises(MeasurementError):
        measure_regime(objective, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), batches)
    with pytest.raises(MeasurementError, match="fails on a copy"):
        measure_regime(objective, torch.optim.LBFGS(objective.model.parameters()), batches, epochs=1)
    assert objective.spent.gradients == 0


def record(losses, lr):
    return Run(
        "r",
        {},
        tuple({"step": i, "loss": float(a), "lr": float(b)} for i, (a, b) in enumerate(zip(losses, lr, strict=True))),
    )


def test_a_record_tells_epochs_and_plateau_of_its_longest_stretch():
    rng = np.random.default_rng(0)
    per_epoch = np.concatenate([1 + 0.2 * (-1.0) ** np.arange(20), np.full(6, 0.3)])
    losses = np.repeat(per_epoch, 10) * np.exp(0.01 * rng.standard_normal(260))
    run = record(losses, np.where(np.arange(260) < 200, 0.5, 0.05))
    found = run_regime(run, 10)
    assert found.lr == 0.5
    assert found.num_epochs == 19
    assert found.rises == pytest.approx(9 / 19)
    assert found.plateau == pytest.approx(1.0 / 0.3, rel=0.1)
    assert found.tests == {"epochs": "large-step", "plateau": "large-step", "step line": None, "cosine": None}
    assert found.verdict == "undecided"
    assert "looks like the large-step regime" in str(found)
    assert any("large-step" in said for said in explain(run, steps_per_epoch=10))
    calm = run_regime(record(np.linspace(2, 1, 200), np.full(200, 0.1)), 10)
    assert (calm.tests["epochs"], calm.plateau) == ("small-step", None)


def test_a_record_that_cannot_tell_is_an_error():
    with pytest.raises(MeasurementError, match="two epochs"):
        run_regime(record(np.ones(50), np.linspace(0, 1, 50)), 10)
    with pytest.raises(MeasurementError, match="two epochs"):
        run_regime(Run("x", {}), 10)
    with pytest.raises(ValueError, match="steps_per_epoch"):
        run_regime(record(np.ones(50), np.ones(50)), 0)
