"""Refined schedules: closed forms, an oracle in plain Python, and two real trainings on handwritten digits."""

import itertools
import math
import statistics
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from lrscope import LrscopeWarning
from lrscope import schedules as lrs
from lrscope.errors import ScheduleError


def by_hand(norms, power, smoothing=0.1):
    """The refined values, scaled to 1, from loops and the definition of a median."""
    g = norms[2:-2]
    n = len(g)
    half = max(int(smoothing * n / 2), 1)
    mirrored = [g[0]] * half + g + [g[n - 2 - k] for k in range(half)]
    smooth = [statistics.median(mirrored[t : t + 2 * half + 1]) for t in range(n)]
    weights = [v**-power for v in smooth]
    values = [w * sum(weights[t + 1 :]) for t, w in enumerate(weights)]
    return [v / max(values) for v in values]


def shape_of(s):
    """The values of a refined schedule at its own grid, the last one included."""
    return np.array(s.schedule.schedule.entries)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("scale", [1.0, 3e-200, 1e300])
def test_constant_norms_give_a_line_to_zero(norm, scale):
    s = lrs.refined([scale] * 104, norm=norm, steps=100)
    expected = [1 - t / 100 for t in range(101)]
    assert np.allclose(s.values(101), expected, rtol=0, atol=1e-15)
    own = shape_of(s)
    assert np.array_equal(own, [(99 - t) / 99 for t in range(100)])


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1)])
@pytest.mark.parametrize("smoothing", [0.02, 0.1, 0.5])
def test_the_shape_is_the_definition(norm, power, smoothing):
    rng = np.random.default_rng(0)
    norms = (1 + 2 * np.exp(-np.arange(150) / 20) + 0.3 * rng.random(150)).tolist()
    s = lrs.refined(norms, norm=norm, smoothing=smoothing)
    assert np.allclose(shape_of(s), by_hand(norms, power, smoothing), rtol=1e-12)


def test_large_first_gradients_make_a_warmup():
    s = lrs.refined([1 + 4 * math.exp(-t / 60) for t in range(1000)])
    values = s.values()
    assert 0.03 < values[0] < 0.07  # 1/25 of the weight, and all of the sum
    assert 100 < values.argmax() < 400
    assert (np.diff(values[: values.argmax()]) >= 0).all()
    assert s(1000) == 0.0


def test_growing_gradients_make_the_end_come_sooner():
    n = 2000
    s = lrs.refined([1 + 2 * (t / n) ** 4 for t in range(n)])
    assert s(3 * n // 4) < 0.1 < lrs.Linear(1.0, 0.0, n)(3 * n // 4)


@pytest.mark.parametrize("steps", [37, 500, 996, 997, 10_000])
def test_a_new_length_stretches_the_shape(steps):
    norms = [1 + 4 * math.exp(-t / 60) for t in range(1000)]
    s = lrs.refined(norms, steps=steps)
    own = shape_of(s)
    assert s.num_steps == steps
    for t in range(0, steps, max(steps // 50, 1)):
        x = t * (len(own) - 1) / steps
        i = int(x)
        assert s(t) == pytest.approx(own[i] + (own[i + 1] - own[i]) * (x - i), rel=1e-9)
    assert s(steps) == s(steps + 1) == 0.0
    assert lrs.from_spec(s.to_spec()) == s


def trained(n, steps, batch_size, lr, hidden, noise=0.0):
    """The Euclidean gradient norms of an SGD run with linear decay on ``n`` digits, some labels drawn at random."""
    g = torch.Generator().manual_seed(0)
    x, y = load_digits(return_X_y=True)
    chosen = torch.randperm(len(x), generator=g)[:n]
    x, y = torch.tensor(x / 16, dtype=torch.float32)[chosen], torch.tensor(y)[chosen]
    y = torch.where(torch.rand(n, generator=g) < noise, torch.randint(10, y.shape, generator=g), y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = [64, *hidden]
        layers = [m for a, b in itertools.pairwise(widths) for m in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        net = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 10))
    opt = torch.optim.SGD(net.parameters(), lr=lr)
    decay, norms = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.0, steps), []
    for _ in range(steps):
        i = torch.randint(n, (batch_size,), generator=g)
        opt.zero_grad()
        F.cross_entropy(net(x[i]), y[i]).backward()
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in net.parameters()]).item())
        opt.step()
        decay.step()
    return norms


def test_a_network_that_fits_its_data_exactly_is_refused_a_refinement():
    """Its gradients vanish, and the weights would put the peak at 0.7 of the run."""
    norms = trained(600, 1500, 64, 0.3, (64, 64))
    values = by_hand(norms, 2)
    assert 0.6 < values.index(1.0) / len(values) < 0.8
    with pytest.warns(LrscopeWarning, match="refined: .*; linear decay to zero is used instead") as caught:
        s = lrs.refined(norms, steps=1000)
    assert "\n" not in str(caught[0].message)
    assert s == lrs.Linear(1.0, 0.0, 1000)


def test_a_noisy_training_is_refined():
    norms = trained(1797, 300, 16, 0.3, (), noise=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = lrs.refined(norms, steps=1000)
    values = s.values(1001)
    assert values.max() == pytest.approx(1.0, abs=0.01)
    assert values.min() == values[-1] == 0.0
    assert np.allclose(shape_of(s), by_hand(norms, 2), rtol=1e-12)


@pytest.mark.parametrize(
    "norms", [[1.0] * 600 + [0.2] * 400, [1.0] * 500 + [0.0] * 500, [1.0] * 520 + [0.3] * 480, [0.0] * 30], ids=len
)
def test_vanishing_norms_fall_back(norms):
    with pytest.warns(
        LrscopeWarning, match="the gradient norms vanish on the way|the refined peak lies in the second"
    ):
        assert lrs.refined(norms) == lrs.Linear(1.0, 0.0, len(norms))


def test_norms_that_nearly_vanish_on_the_way_fall_back():
    with pytest.warns(LrscopeWarning, match="the gradient norms vanish on the way"):
        assert lrs.refined([1.0] * 300 + [0.2] * 150 + [1.0] * 550) == lrs.Linear(1.0, 0.0, 1000)


def test_norms_that_are_not_finite_are_left_out():
    good = [1 + 4 * math.exp(-t / 20) for t in range(300)]
    holes = [*good[:100], math.nan, math.inf, *good[100:]]
    assert shape_of(lrs.refined(holes)).tolist() == shape_of(lrs.refined(good)).tolist()
    assert lrs.refined(holes).num_steps == 302


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lrs.refined([1.0] * 15), "refined: needs 16 finite norms or more, got 15"),
        (lambda: lrs.refined([math.nan] * 50), "refined: needs 16 finite norms or more, got 0"),
        (lambda: lrs.refined([]), "refined: needs 16 finite norms or more, got 0"),
        (lambda: lrs.refined([1.0] * 20 + [-2.0]), "refined: norms are 0 or more, got -2"),
        (lambda: lrs.refined([[1.0]] * 20), r"shape \(n,\), got \(20, 1\)"),
        (lambda: lrs.refined(["a"] * 20), "refined: gradient_norms must be numbers, got"),
        (lambda: lrs.refined([[1.0], [2.0, 3.0]]), "refined: gradient_norms must be numbers, got"),
        (lambda: lrs.refined([1.0] * 20, norm="l3"), "refined: norm must be 'l2' .SGD. or 'l1' .Adam., got 'l3'"),
        (lambda: lrs.refined([1.0] * 20, smoothing=0), "refined: smoothing must be above 0"),
        (lambda: lrs.refined([1.0] * 20, smoothing="x"), "refined: smoothing must be a number, got 'x'"),
        (lambda: lrs.refined([1.0] * 20, steps=0), "refined: steps must be a whole number of steps, 1 or more"),
    ],
)
def test_what_cannot_mean_anything_is_refused(build, message):
    with pytest.raises(ScheduleError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
