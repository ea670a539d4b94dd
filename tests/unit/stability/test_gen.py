"""The automatic learning rate against closed forms on quadratics, and as a schedule that leaves nothing behind."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import cases
from lrscope import Objective, ScheduledLR
from lrscope.errors import MeasurementError, ScheduleError
from lrscope.schedules import Constant, Cosine, Linear
from lrscope.stability import GeN
from lrscope.stability.gen import Parabola, fit_along_step
from lrscope.training import train

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1.0),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1.0),
}


class Bowl(nn.Module):
    """L = x^T H x / 2 - c^T x with a random positive H; the batch is not used."""

    def __init__(self, size=30, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        a = torch.randn(size, size, generator=g, dtype=torch.float64)
        self.x = nn.Parameter(torch.randn(size, generator=g, dtype=torch.float64))
        self.register_buffer("h", a @ a.T / size)
        self.register_buffer("c", torch.randn(size, generator=g, dtype=torch.float64))

    def loss(self):
        return 0.5 * self.x @ self.h @ self.x - self.c @ self.x


def on_bowl(bowl):
    return Objective(bowl, lambda model, batch: model.loss() + 0 * batch.sum(), [torch.zeros(1)])


def ready(bowl, optimizer):
    optimizer.zero_grad()
    bowl.loss().backward()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("lr", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("points", [3, 5, 9])
def test_the_bottom_is_that_of_the_closed_form_along_the_optimizers_own_step(make, lr, points):
    bowl = Bowl()
    optimizer = make(bowl.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for _ in range(3):  # the step is not along the gradient any more
        ready(bowl, optimizer)
        optimizer.step()
    ready(bowl, optimizer)
    found, forwards = fit_along_step(on_bowl(bowl), optimizer, lr, points=points)
    before = bowl.x.detach().clone()
    grad = bowl.x.grad.clone()
    optimizer.step()  # torch's own
    d = (bowl.x.detach() - before) / 0.01
    assert forwards == points
    assert found.bottom == pytest.approx(float(-(grad @ d) / (d @ bowl.h @ d)), rel=1e-6)
    assert found.curvature == pytest.approx(float(d @ bowl.h @ d), rel=1e-6)
    assert found.slope == pytest.approx(float(-(grad @ d)), rel=1e-6)
    assert found.r_squared == pytest.approx(1, abs=1e-9)


def test_three_points_explain_everything_and_five_tell_a_parabola_from_a_kink():
    kink = lambda x: np.maximum(x, 0.3 * x)  # noqa: E731
    three, five = (Parabola.through(x, kink(x)) for x in (np.linspace(-1, 1, 3), np.linspace(-1, 1, 5)))
    assert three.r_squared == pytest.approx(1)
    assert five.r_squared < 0.99


@pytest.mark.parametrize(
    ("losses", "bottom"),
    [((0.9, 0.0, 1.0), math.nan), ((-1.0, 0.0, -2.0), math.inf), ((0.0, 0.0, 1.0), math.nan), ((1.0, 0, 0), 0.5)],
)
def test_the_bottom_is_ahead_or_beyond_all_bounds_or_nowhere(losses, bottom):
    assert Parabola.through(np.array([-1.0, 0.0, 1.0]), np.array(losses)).bottom == pytest.approx(bottom, nan_ok=True)


def follow(best, *, schedule=None, steps=1):
    """Learning rates after being told ``best`` at each step."""
    schedule = GeN(1.0, every=1) if schedule is None else schedule
    state, seen = schedule.init(), []
    for t in range(steps):
        state = schedule.update(state, t, {"loss": 1.0, "best_lr": best, "curvature": 2.0, "forwards": 5})
        seen.append(schedule.value(state, t))
    return seen


@pytest.mark.parametrize(
    ("best", "after"),
    [(1.5, 1.05), (100.0, 1.1), (0.1, 0.95), (math.nan, 0.5), (math.inf, 1.1), (1.0, 1.0), (2.0, 1.1), (0.5, 0.95)],
)
def test_the_average_the_factor_of_two_and_the_halving(best, after):
    assert follow(best)[0] == pytest.approx(after, rel=1e-12)


def test_it_never_moves_by_more_than_a_factor_of_two_and_stays_within_its_bounds():
    best = [float(x) for x in torch.randn(300, generator=torch.Generator().manual_seed(0)).exp().pow(5)]
    schedule = GeN(1.0, every=1, smoothing=1.0, low=0.3, high=4.0)
    state, rates = schedule.init(), [1.0]
    for t, value in enumerate(best):
        told = value if t % 7 else math.nan
        state = schedule.update(state, t, {"loss": 1.0, "best_lr": told, "curvature": 1.0, "forwards": 5})
        rates.append(schedule.value(state, t))
    ratios = np.array(rates[1:]) / np.array(rates[:-1])
    assert ratios.min() >= 0.5
    assert ratios.max() <= 2.0
    assert min(rates) == 0.3
    assert max(rates) == 4.0


def test_it_settles_at_the_bottom_of_the_steepest_descent_of_a_sphere():
    model = nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = ScheduledLR(optimizer, GeN(0.02, every=1, low=0.0) * 0.1)  # scaled: it never gets there, but measures
    batch = torch.eye(3)

    def loss_fn(model, batch):
        return model(batch).square().mean()  # H = 2/3

    for _ in range(120):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        scheduler.observe(loss=loss.item(), measure_on=lambda: Objective(model, loss_fn, [batch]))
        optimizer.step()
        scheduler.step()
    state = scheduler.heard["lr"]
    assert state["lr"] == pytest.approx(1.5, rel=0.02)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.15, rel=0.02)
    assert (state["fits"], state["failures"], state["forwards"]) == (120, 0, 600)
    assert "600 forward passes, the work of 200 training steps" in GeN(0.1).told(state)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_measuring_leaves_nothing_behind(make):
    """Held at its first rate it is the constant schedule to the bit: moments do not move twice, no draw is used."""
    task = cases.TASKS["dict"]()
    held = train(task, make, GeN(0.01, every=2, low=0.01, high=0.01), 14)
    constant = train(task, make, Constant(0.01), 14)
    assert held["loss"].value.tolist() == constant["loss"].value.tolist()
    assert held["lr"].value.tolist() == constant["lr"].value.tolist()
    assert held.cost.forwards - constant.cost.forwards == 7 * 5


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_in_train_it_goes_on_to_the_bit(tmp_path, name):
    task, schedule = cases.TASKS["dict"](), GeN(0.05, every=3) * Cosine(1.0, 0.0, 20)
    whole = train(task, name, schedule, 20)
    assert len({*whole["lr"].value.tolist()}) > 15
    for at in (1, 3, 10):

        def stop(state, at=at):
            if state.step + 1 == at:
                raise KeyboardInterrupt

        folder = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            train(task, name, schedule, 20, out=folder, on_step=stop)
        resumed = train(task, name, schedule, 20, out=folder, resume=True)
        for column in ("loss", "lr"):
            assert resumed[column].value.tolist() == whole[column].value.tolist()
        assert resumed.cost.forwards == whole.cost.forwards


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_rate_so_small_that_no_bend_can_be_resolved_rises(name):
    """In single precision the curvature along such a step is rounding; halving would never end."""
    run = train(cases.TASKS["dict"](), name, GeN(1e-5, every=1, low=0.0), 30)
    assert run["lr"].value[-1] > 5e-5


def test_a_schedule_scales_the_update_and_not_the_rate_it_follows():
    plain, scaled = GeN(1.0, every=1), GeN(1.0, every=1) * Linear(1.0, 0.0, 10) * 0.5
    rates = np.array(follow(3.0, steps=10))
    assert follow(3.0, schedule=scaled, steps=10) == pytest.approx(rates * np.linspace(0.5, 0.05, 10))
    json.dumps(scaled.to_spec())
    assert scaled.to_spec() != plain.to_spec()


def test_a_gradient_of_zero_or_a_loss_that_is_not_finite_ahead_halves_the_rate():
    bowl = Bowl(3)
    optimizer = torch.optim.SGD(bowl.parameters(), lr=1.0)
    bowl.x.grad = torch.zeros(3, dtype=torch.float64)
    assert fit_along_step(on_bowl(bowl), optimizer, 0.1) == (None, 0)
    bowl.x.grad = torch.full((3,), 1e200, dtype=torch.float64)
    assert fit_along_step(on_bowl(bowl), optimizer, 1e200) == (None, 0)
    bowl.x.grad = torch.full((3,), 1e150, dtype=torch.float64)
    assert fit_along_step(on_bowl(bowl), optimizer, 1e100) == (None, 5)


def test_a_batch_whose_loss_is_nan_is_passed_over():
    schedule = GeN(1.0, every=1)
    state = schedule.init()
    assert schedule.update(state, 0, {"loss": math.nan}) == state
    assert schedule.measure(state, 0, {"loss": math.nan}, None, None, 1.0) == {}


def test_without_measuring_without_gradient_without_loss_it_says_what_to_do():
    model = nn.Linear(2, 1)
    scheduler = ScheduledLR(torch.optim.SGD(model.parameters(), lr=1.0), GeN(0.1))
    with pytest.raises(MeasurementError, match=r"GeN: .* measure_on=") as raised:
        scheduler.observe(loss=1.0)
    assert "\n" not in str(raised.value)
    with pytest.raises(MeasurementError, match=r"GeN: no parameter has a gradient"):
        scheduler.observe(
            loss=1.0, measure_on=lambda: Objective(model, lambda m, b: m(b).square().mean(), [torch.ones(1, 2)])
        )
    with pytest.raises(ScheduleError, match=r"GeN: 'loss' was not observed"):
        scheduler.observe(eval_loss=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": 0.0}, "start"),
        ({"start": math.inf}, "start"),
        ({"every": 0}, "every"),
        ({"points": 4}, "odd"),
        ({"points": 1}, "points"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"smoothing": 1.5}, "smoothing"),
        ({"low": 0.2}, "low <= start <= high"),
        ({"high": 0.05}, "low <= start <= high"),
        ({"low": -1.0}, "low <= start <= high"),
        ({"min_r_squared": 1.0}, "min_r_squared"),
        ({"scale": 0.5}, "scale must be a Schedule"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(wrong, said):
    with pytest.raises(ScheduleError, match=said) as raised:
        GeN(**{"start": 0.1} | wrong)
    assert "\n" not in str(raised.value)
