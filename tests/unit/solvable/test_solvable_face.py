"""Every solvable loss is what autograd says it is, and the tools for networks work on it."""

import math

import pytest
import torch

import lrscope as lrs
from lrscope.curvature import spectral_density, stability_threshold, trace
from lrscope.solvable import UV, DeepLinear, Quadratic, ScaleInvariant, TwoLayer

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def hilbert(n):
    i = torch.arange(n, dtype=DOUBLE)
    return 1 / (1 + i[:, None] + i)


OBJECTIVES = {
    "quadratic": lambda: Quadratic(hilbert(5), start=randn(5)).objective(),
    "uv": lambda: UV(7, x=-1.3, y=0.8, scale=1.4).objective(),
    "uv, muP": lambda: UV(6, y=0.8, mup=0.7).objective(),
    "two layers": lambda: TwoLayer(randn(4, 3), randn(4, seed=1), 5, mup=0.3).objective(),
    "deep linear": lambda: DeepLinear((2.0, -1.0), 4, randn(4, 2).tolist()).objective(),
    "deep linear, a layer at zero": lambda: DeepLinear((2.0,), 3, (0.0, 1.0, 0.5)).objective(),
    "scale invariant": lambda: ScaleInvariant((0.4, -0.9)).objective(),
}
each = pytest.mark.parametrize("name", OBJECTIVES)


def dense(objective, theta):
    return torch.stack([objective.hvp(theta, e) for e in torch.eye(objective.size, dtype=DOUBLE)])


@each
def test_gradient_and_hessian_are_those_of_autograd(name):
    objective = OBJECTIVES[name]()
    for seed in range(3):
        theta = objective.point() + (seed > 0) * randn(objective.size, seed=seed)
        leaf = theta.clone().requires_grad_()
        expected = torch.autograd.grad(objective(leaf), leaf)[0]
        torch.testing.assert_close(objective.grad(theta), expected, rtol=1e-12, atol=1e-13)
        H = torch.autograd.functional.hessian(objective, theta)
        torch.testing.assert_close(dense(objective, theta), H, rtol=1e-11, atol=1e-12)
        assert objective.loss(theta) == pytest.approx(float(objective(theta)), rel=1e-15)


@each
def test_sharpness_is_the_dense_largest_eigenvalue_and_leaves_the_point(name):
    objective = OBJECTIVES[name]()
    before = objective.point()
    top = lrs.sharpness(objective, tol=1e-9)
    expected = float(torch.linalg.eigvalsh(dense(objective, before))[-1])
    assert top.value == pytest.approx(expected, rel=1e-8)
    assert top.method == "exact"
    assert torch.equal(objective.point(), before)


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        (Quadratic([3.0, 1.0, 0.2], start=[1.0, -2.0, 0.5]), "sgd"),
        (Quadratic([3.0, 1.0, 0.2], "momentum"), "sgd(momentum=0.9)"),
        (UV(64), "sgd"),
        (UV(8, y=2.0, scale=0.3), "sgd"),
        (UV(8, x=-0.5, y=-1.0, scale=2.0), "sgd"),
        (UV(4, begin=(1.9, 2.0)), "sgd"),
    ],
    ids=str,
)
def test_the_search_for_the_critical_rate_finds_the_exact_crossing(model, optimizer):
    found = lrs.critical_lr(model.objective(), optimizer, tol=1e-4)
    if math.isfinite(model.loss_crossing):
        assert found.low <= model.loss_crossing * (1 + 1e-9)
        assert found.high >= model.loss_crossing * (1 - 1e-9)
    else:
        assert found.status == "stable up to the largest"


def test_the_tracker_follows_the_exact_sharpness_through_a_catapult():
    uv = UV(64, seed=3)
    lr, objective = 2.6 / uv.kernel, uv.objective()
    run, tracker = uv.run(lr, 25), lrs.SharpnessTracker(objective)
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=lr)
    for step in range(run.steps + 1):
        # An eigenvalue that leaps by tens of percent between two steps is followed closely, not exactly.
        assert tracker.update().value == pytest.approx(float(run["sharpness"][step]), rel=0.02)
        objective.model.theta.grad = objective.grad(objective.point())
        optimizer.step()
    assert run.phase == "catapult"


def test_spectral_tools_work():
    model = Quadratic(torch.linspace(0, 3, 61))
    found = trace(model.objective())
    assert abs(found.value - 91.5) < 5 * found.stderr + 1e-9
    assert spectral_density(model.objective()) is not None


@pytest.mark.parametrize("rule", ["gd", "momentum", "nesterov"])
@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_thresholds_are_those_of_the_curvature_room(rule, beta):
    model = Quadratic([4.0, 1.0], rule, beta=beta)
    settings = {"gd": {}, "momentum": {"momentum": beta}, "nesterov": {"momentum": beta, "nesterov": True}}[rule]
    optimizer = torch.optim.SGD(model.objective().model.parameters(), lr=1.0, **settings)
    assert model.max_lr * 4 == pytest.approx(stability_threshold(optimizer), rel=1e-12)
    assert model.critical_lr * 4 == pytest.approx(stability_threshold(optimizer, "first"), rel=1e-12)


def test_adams_thresholds_are_those_of_the_curvature_room():
    model = Quadratic([4.0], "adam")
    optimizer = torch.optim.Adam(model.objective().model.parameters())
    assert model.max_lr * 4 == pytest.approx(stability_threshold(optimizer), rel=1e-12)
    assert model.critical_lr * 4 == pytest.approx(stability_threshold(optimizer, "first"), rel=1e-12)


def test_vectors_of_another_length_are_refused():
    objective = UV(3).objective()
    with pytest.raises(ValueError, match=r"theta: expected a tensor of shape \(6,\), got \(5,\)"):
        objective.loss(torch.zeros(5, dtype=DOUBLE))
    with pytest.raises(ValueError, match=r"v: expected a tensor of shape \(6,\)"):
        objective.hvp(objective.point(), torch.zeros(5, dtype=DOUBLE))


def test_evaluations_are_counted():
    objective = UV(3).objective()
    theta = objective.point()
    objective.loss()
    objective.grad(theta)
    objective.hvp(theta, theta)
    assert (objective.spent.forwards, objective.spent.gradients, objective.spent.products) == (1, 1, 1)
