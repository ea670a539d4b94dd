"""The rates of two phases against plain runs and the closed form of a quadratic."""

import math

import pytest
import torch
from torch import nn

import cases
from fingerprints import everything
from lrscope.errors import MeasurementError
from lrscope.schedules import Constant, TwoPhase
from lrscope.stability import two_phase_rates
from lrscope.tasks import Task
from lrscope.training import train


class Bowl(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))


def quadratic():
    """Curvatures 1 and 0.01, full batch: what trains and what falls steadily is known."""
    curvature = torch.tensor([1.0, 0.01], dtype=torch.float64)

    def loss_fn(model, batch):
        return 0.5 * (curvature * model.theta**2).sum() * batch.mean()

    return Task(lambda seed: Bowl(), loss_fn, [torch.ones(3, dtype=torch.float64)], name="bowl")


def test_on_a_quadratic_the_large_rate_is_the_last_stable_one():
    """Without momentum a rate below 2 / lambda falls in every epoch; so with momentum does one of the aperiodic."""
    found = two_phase_rates(quadratic(), grid=[0.1, 0.5, 1.0, 1.9, 2.1, 4.0], steps=40, momentum=0.0)
    assert found.large == 1.9
    assert found.small == 1.9
    assert found.losses[4.0] > found.losses[1.9]
    assert found.rises == {1.9: 0.0}
    heavy = two_phase_rates(quadratic(), grid=[1e-3, 0.01, 1.0, 1.9], steps=10, momentum=0.9)
    # aperiodic, so without a rise, up to (1 - sqrt(mu))^2 / lambda; the largest curvature has died out in phase one
    assert heavy.small < heavy.large == 1.9
    assert str(heavy).startswith("largest learning rate that trains without momentum: 1.9; largest with momentum 0.9")


def test_the_large_rate_is_the_largest_that_trains_alone_and_nothing_of_the_users_changes():
    task = cases.TASKS["tuple"](dtype=torch.float64)
    grid = [0.03, 0.3, 3.0, 300.0, 3e4]
    before = everything(loader=task.train)
    found = two_phase_rates(task, grid=grid, steps=60)
    assert everything(loader=task.train) == before
    alone = {}
    for lr in grid:
        run = train(task, "sgd(momentum=0)", Constant(lr), 60)
        alone[lr] = float(run["loss"].value[-6:].mean()) if run.status == "finished" else math.inf
        assert found.losses[lr] == pytest.approx(alone[lr], rel=1e-6)
    first = found.first_loss
    good = [lr for lr in grid if first - alone[lr] >= 0.5 * (first - min(alone.values()))]
    assert found.large == max(good)
    assert found.rises[found.small] <= 0.05
    assert all(rise > 0.05 for lr, rise in found.rises.items() if lr > found.small)
    assert found.cost.gradients >= (len(grid) + 1) * 60 - 60
    assert found.schedule(0.5, 100) == TwoPhase(found.large, found.small, 0.5, 100)


def test_grids_that_cannot_answer_are_told():
    with pytest.raises(
        MeasurementError, match=r"no learning rate from 3 to 5 lowered the loss of .* of smaller ones"
    ):
        two_phase_rates(quadratic(), grid=[3.0, 5.0], steps=10)
    with pytest.raises(MeasurementError, match=r"every rate from 1.9 up raised the training loss in more than 5%"):
        two_phase_rates(quadratic(), grid=[1.9], steps=10)
    for wrong in ({"grid": []}, {"grid": [0.0]}, {"steps": 3}, {"epochs": 5}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            two_phase_rates(quadratic(), **wrong)
