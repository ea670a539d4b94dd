"""Critical constants against models whose own are known, and what is refused."""

import math

import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from fingerprints import random_states
from lrscope.errors import MeasurementError
from lrscope.solvable import UV
from lrscope.stability import critical_constants
from lrscope.stability.constants import NAMES


def parabola(h=3.0):
    """h x^2 / 2: every constant is known."""

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.tensor([1.0, 1e-3], dtype=torch.float64))

        def forward(self, b):
            return b.mean() * (h * self.x[0] ** 2 + 0.1 * h * self.x[1] ** 2) / 2

    ones = torch.ones(2, 1, dtype=torch.float64)
    return lrs.Task(lambda seed: Bowl(), lambda m, b: m(b), [ones], name="bowl")


def test_a_parabola_jumps_from_two_on_and_never_sharpens():
    found = critical_constants(parabola(), smallest=1.9, factor=2**0.05, largest=4, seeds=(0,), steps=10, margin=1e-6)
    (scan,) = found.scans
    assert scan.sharpness == pytest.approx(3.0)
    assert found.c_loss.low <= 2 <= found.c_loss.high
    assert scan.first("c_sharp") is None
    assert found.c_sharp.censored == 1
    # (c - 1)^20 = 1e5 at c = 2.78
    assert found.c_max.low <= 1 + 1e5 ** (1 / 20) <= found.c_max.high * 1.001
    # The line from 1 to (1 - c)^10 runs over more than the start's loss only where the end lies beyond -1 or 1.
    assert found.c_barrier.value == pytest.approx(found.c_loss.value)


def test_the_uv_model_has_the_constants_of_its_theory():
    """Loss from about 2, exactly loss_crossing; it diverges at 4 (Lewkowycz et al. 2020)."""
    uv = UV(256, seed=0)
    X, y = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)

    def half_square(model, batch):
        return 0.5 * (model(batch[0]) - batch[1]).pow(2).mean()

    task = lrs.Task(lambda seed: uv.net(), half_square, [(X, y)], name="uv")
    found = critical_constants(task, smallest=1.9, factor=2**0.1, largest=6, seeds=(0,), steps=15)
    (scan,) = found.scans
    crossing = uv.loss_crossing * scan.sharpness
    assert found.c_loss.low <= crossing * 1.001
    assert found.c_loss.high >= crossing * 0.999
    limit = 4 * scan.sharpness / uv.kernel  # a rate just above it takes longer than these steps to leave
    assert limit * 0.93 <= found.c_max.high
    assert found.c_max.low <= limit * 1.2
    # theory counts the kernel, which falls in a catapult; the Hessian rises at its peak, by the residual's part
    assert found.c_loss.value <= found.c_sharp.value <= found.c_max.value


def test_constants_come_with_ranges_costs_and_a_picture():
    task = cases.TASKS["linear_squared"](dtype=torch.float64)
    before = random_states()
    seen = []
    found = critical_constants(
        task, "sgd(momentum=0.9)", steps=3, factor=2**0.5, seeds=(0, 1), on_progress=lambda s, c: seen.append((s, c))
    )
    assert random_states() == before
    assert {s for s, _ in seen} == {0, 1}
    for name in NAMES:
        one = getattr(found, name)
        assert one.low <= min(one.samples) <= one.value <= max(one.samples) <= one.high
        assert len(one.samples) == 2
        assert f"{one.value:.3g}" in str(found)
    assert found.c_loss.value <= found.c_max.value
    assert found.cost.updates > 0
    assert found.cost.products > 0
    assert len(found.plot().lines) >= 5
    with pytest.raises(ValueError, match="c_loss"):
        found.constant("c_nothing")


def test_scans_that_end_at_the_largest_rate_say_so():
    found = critical_constants(parabola(), largest=1.5, seeds=(0,), steps=3)
    assert found.scans[0].diverged_at is None
    assert found.c_max.censored == 1
    assert "not seen in 1 of 1" in str(found.c_max)


def test_refusals():
    task = parabola()
    with pytest.raises(TypeError, match="Task"):
        critical_constants(task.build(0))
    for name, value in {
        "steps": 0,
        "smallest": 0.0,
        "factor": 1.0,
        "seeds": (),
        "num_batches": 0,
        "margin": -1,
    }.items():
        with pytest.raises(ValueError, match=name):
            critical_constants(task, **{name: value})
    with pytest.raises(MeasurementError, match="SGD"):
        critical_constants(task, "adam")
    with pytest.raises(MeasurementError, match="diverged at c = 50"):
        critical_constants(task, smallest=50.0)
    with pytest.raises(MeasurementError, match="sharpness"):
        critical_constants(lrs.Task(task.build, lambda m, b: -m(b), task.train, name="down"))
    assert math.isfinite(critical_constants(task, seeds=(0,), steps=1, largest=2.5).c_loss.value)
