"""The recipes against their definitions, written out in plain Python."""

import math

import numpy as np
import pytest
import torch

from lrscope import schedules as lrs
from lrscope.errors import ScheduleError

DOWN = {
    "linear": lambda x, end: 1 + (end - 1) * x,
    "cosine": lambda x, end: end + (1 - end) * (1 + math.cos(math.pi * x)) / 2,
    "sqrt": lambda x, end: 1 - (1 - end) * math.sqrt(x),
    "exponential": lambda x, end: end**x,
}


@pytest.mark.parametrize("shape", DOWN)
@pytest.mark.parametrize(
    ("steps", "warmup", "cooldown"), [(100, 10, 20), (50, 0, 50), (50, 1, 0), (7, 4, 4), (1, 1, 1)]
)
def test_wsd_is_its_definition(steps, warmup, cooldown, shape):
    s = lrs.wsd(steps, warmup=warmup, cooldown=cooldown, shape=shape, end=0.05)
    assert s.num_steps == steps
    for t in range(steps + 3):
        left = steps - t
        down = DOWN[shape]((cooldown - max(left, 0)) / cooldown, 0.05) if left <= cooldown and cooldown else 1.0
        up = min((t + 1) / warmup, 1.0) if warmup else 1.0
        expected = 0.05 if left <= 0 else min(up, down)
        assert s(t) == pytest.approx(expected, rel=1e-12), t


def test_wsd_cooled_down_from_its_flat_part_is_a_shorter_wsd():
    long, short = (lrs.wsd(n, warmup=10, cooldown=20) for n in (200, 100))
    assert long.cool_down(80, 20).values().tolist() == short.values().tolist()


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("steps", "peak_at"), [(100, 0.3), (10, 0.5), (20, 0.2), (1000, 0.05)])
def test_one_cycle_is_that_of_torch(steps, peak_at, shape):
    """Where the peak falls on a whole step, as here; torch lets it fall between two."""
    lr, start, end = 0.4, 25.0, 1e4
    model = torch.nn.Linear(1, 1)
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        opt, lr, total_steps=steps, pct_start=peak_at, anneal_strategy="cos" if shape == "cosine" else shape,
        div_factor=start, final_div_factor=end, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    ours = lrs.one_cycle(steps, peak_at=peak_at, shape=shape, momentum=(0.85, 0.95), end=1 / (start * end))
    rates, momenta = [], []
    for t in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        momenta.append(opt.param_groups[0]["momentum"])
        opt.step()
        if t < steps - 1:
            theirs.step()
    assert np.allclose(lr * ours["lr"].values(steps), rates, rtol=1e-9)
    assert np.allclose(ours["momentum"].values(steps), momenta, rtol=1e-12)


def test_one_cycle_ends_with_its_last_update():
    s = lrs.one_cycle(10, start=0.1, end=0.01)["lr"]
    assert (s(0), s(2), s(9), s(10)) == (0.1, 1.0, 0.01, 0.01)
    assert set(lrs.one_cycle(10)) == {"lr"}
    assert lrs.one_cycle(10, peak_at=0.0)["lr"](0) == 1.0
    assert lrs.one_cycle(10, peak_at=1.0)["lr"](9) == 1.0


@pytest.mark.parametrize("decays", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.99)])
@pytest.mark.parametrize(("up", "down"), [(5, 5), (3, 8), (1, 1)])
def test_triangular_is_its_definition(up, down, decays):
    s = lrs.triangular(0.1, 0.9, up, down, cycle_decay=decays[0], step_decay=decays[1])
    for t in range(120):
        cycle, inside = divmod(t, up + down)
        share = inside / up if inside <= up else 1 - (inside - up) / down
        assert s(t) == pytest.approx(0.1 + 0.8 * share * decays[0] ** cycle * decays[1] ** t, rel=1e-12), t


@pytest.mark.parametrize(
    ("mode", "decays"), [("triangular", (1.0, 1.0)), ("triangular2", (0.5, 1.0)), ("exp_range", (1.0, 0.97))]
)
def test_triangular_is_the_cyclic_rate_of_torch(mode, decays):
    opt = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.CyclicLR(
        opt, 0.1, 0.9, step_size_up=4, step_size_down=6, mode=mode, gamma=0.97, cycle_momentum=False
    )
    ours = lrs.triangular(0.1, 0.9, 4, 6, cycle_decay=decays[0], step_decay=decays[1])
    for t in range(100):
        assert opt.param_groups[0]["lr"] == pytest.approx(ours(t), rel=1e-12), t
        opt.step()
        theirs.step()


def test_multistep_is_its_definition():
    s = lrs.multistep([30, 60, 80], 0.2)
    for t in range(100):
        assert s(t) == pytest.approx(0.2 ** sum(t >= b for b in (30, 60, 80)), rel=1e-14)
    assert lrs.multistep(range(10, 40, 10)) == lrs.multistep((10, 20, 30), 0.1)
    assert lrs.multistep([]) == lrs.Piecewise((1.0,), ())


@pytest.mark.parametrize(
    ("beta2", "updates"), [(0.999, 2000), (0.99, 200), (0.95, 40), (0.9, 20), (0.98, 100), (0.7, 6), (0.0, 2)]
)
def test_the_untuned_linear_warmup_is_its_definition(beta2, updates):
    s = lrs.untuned_linear_warmup(beta2)
    for t in (0, 1, updates // 2, updates - 1, updates, 10 * updates):
        assert s(t) == pytest.approx(min(1.0, (t + 1) / updates), rel=1e-12)
    if updates == round(2 / (1 - beta2), 6):  # else W is rounded down
        assert s(0) == pytest.approx((1 - beta2) / 2, rel=1e-10)


@pytest.mark.parametrize("beta2", [0.999, 0.95, 0.5, 0.0])
def test_the_untuned_exponential_warmup_is_its_definition(beta2):
    s = lrs.untuned_exponential_warmup(beta2)
    for t in (0, 1, 10, 1000):
        assert s(t) == pytest.approx(1 - math.exp(-(t + 1) * (1 - beta2)), rel=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.wsd(10, warmup=8, cooldown=4), "wsd: warmup 8 and cooldown 4 overlap in a run of 10 steps"),
        (lambda: lrs.wsd(10, warmup=0.1, cooldown=4), "wsd: warmup must be a whole number"),
        (lambda: lrs.wsd(10, warmup=1, cooldown=4, shape="sqr"), "unknown shape 'sqr'; did you mean 'sqrt'"),
        (lambda: lrs.wsd(10, warmup=1, cooldown=4, shape="exponential"), "Exponential: end must be greater than 0"),
        (lambda: lrs.one_cycle(1), "one_cycle: steps must be a whole number of steps, 2 or more"),
        (lambda: lrs.one_cycle(10, peak_at=30), "one_cycle: peak_at must be a share of the run, from 0 to 1, got 30"),
        (lambda: lrs.one_cycle(10, shape="sqrt"), "one_cycle: unknown shape 'sqrt'; .*allowed: cosine, linear"),
        (lambda: lrs.one_cycle(10, momentum=0.9), "one_cycle: momentum must be a list, tuple or 1-d array, got 0.9"),
        (lambda: lrs.one_cycle(10, momentum=(0.8, 0.9, 1)), "one_cycle: momentum must be a pair"),
        (lambda: lrs.one_cycle(10, momentum=("a", 0.9)), "one_cycle: momentum must be a number"),
        (lambda: lrs.triangular(0, 1, 0, 0), "Repeat: .* has no steps to repeat"),
        (lambda: lrs.triangular(0, 1, 2.5), "Linear: steps must be a whole number"),
        (lambda: lrs.triangular(0, 1, 2, cycle_decay=0), "StepDecay: factor must be greater than 0"),
        (lambda: lrs.multistep([3, 3]), "Piecewise: boundaries must increase"),
        (lambda: lrs.multistep(3), "multistep: boundaries must be a list, tuple or 1-d array, got 3"),
        (lambda: lrs.multistep(list(range(1, 99)), 1e30), "Piecewise: levels must be finite"),
        (lambda: lrs.untuned_linear_warmup(1.0), "untuned warmup: beta2 must be at least 0 and less than 1, got 1"),
        (lambda: lrs.untuned_exponential_warmup(-0.1), "untuned warmup: beta2 must be at least 0"),
        (lambda: lrs.untuned_linear_warmup("0.9"), "untuned warmup: beta2 must be a number"),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
