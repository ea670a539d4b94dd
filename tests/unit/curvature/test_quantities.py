"""Trace, density, curvature along a direction, noise scale and layers: dense oracles, refusals, no trace."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import TASKS
from fingerprints import everything
from lrscope import Objective, sharpness
from lrscope.curvature import (
    ExactHessian,
    GaussNewton,
    Preconditioned,
    directional,
    gradient_noise_scale,
    layer_sharpness,
    spectral_density,
    trace,
)
from lrscope.errors import MeasurementError

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def test_with_a_product_per_parameter_the_trace_is_exact():
    A = torch.diag(torch.arange(8.0, dtype=DOUBLE)) + randn(8, 8) * 0.1
    objective = Objective(nn.Linear(8, 1, bias=False).double(), lambda m, x: m(x).square().sum() / 2, [A])
    for estimator in ("xtrace", "hutch++", "hutchinson"):
        found = trace(objective, estimator=estimator, num_matvecs=np.int64(8))
        assert found.value == pytest.approx(float((A.T @ A).trace()), rel=1e-12)
        assert (found.stderr, found.num_matvecs, found.estimator) == (0.0, 8, "exact")
        assert trace(objective, estimator=estimator, num_matvecs=7).estimator == estimator
    with pytest.raises(ValueError, match="num_matvecs"):
        trace(objective, num_matvecs=30.5)


def test_batches_that_do_not_fit_are_named_by_torchs_words():
    objective = problem()
    (x, y), *_ = objective.batches
    for bad in ((x, y[:5]), (x, y + 100)):
        with pytest.raises(MeasurementError, match=r"the loss cannot be computed: .*batch"):
            trace(objective.on([bad]))


def problem(num_batches=1, num=24, width=6):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3)).double()
    X, y = randn(num, 4, seed=1), torch.randint(0, 3, (num,), generator=torch.Generator().manual_seed(2))
    return Objective(model, cross_entropy, list(zip(X.chunk(num_batches), y.chunk(num_batches), strict=True)))


def dense(objective, theta=None):
    theta = objective.point() if theta is None else theta
    return ExactHessian(objective, theta) @ torch.eye(objective.size, dtype=DOUBLE)


@pytest.mark.parametrize("estimator", ["xtrace", "hutch++", "hutchinson"])
@pytest.mark.parametrize("method", ["exact", "difference"])
def test_trace_is_that_of_the_dense_hessian(estimator, method):
    o = problem()
    theta = randn(o.size, seed=3)
    found = trace(o, theta, estimator=estimator, method=method, num_matvecs=40)
    assert abs(found.value - float(dense(o, theta).trace())) < 4 * found.stderr
    assert (found.estimator, found.method, found.size) == (estimator, method, o.size)
    assert found.num_matvecs == 40
    assert found.error < 1e-6
    assert "40 products" in str(found)


def test_trace_is_exact_once_the_rank_is_exceeded():
    """Linear regression on 4 features: the Hessian has rank 4 per output."""
    X, Y = randn(20, 4), randn(20, 1, seed=1)
    o = Objective(nn.Linear(4, 1, bias=False).double(), lambda m, b: (m(b[0]) - b[1]).square().mean(), [(X, Y)])
    found = trace(o, num_matvecs=8)
    assert found.value == pytest.approx(float(2 * (X**2).sum() / 20), rel=1e-10)


def test_preconditioned_trace_and_density_agree_with_the_preconditioned_operator():
    o, P = problem(), randn(51, seed=4).exp()
    H = Preconditioned(ExactHessian(o, o.point()), P)
    expected = (dense(o).diagonal() / P).sum()
    found, same = trace(o, preconditioner=P, num_matvecs=102), trace(H, num_matvecs=102)
    assert found.value == pytest.approx(float(expected), rel=1e-8)
    assert same.value == pytest.approx(found.value, rel=1e-8)
    assert same.cost.products == same.num_matvecs <= 102
    assert (same.batches, same.method) == (found.batches, "exact")
    density, again = spectral_density(o, preconditioner=P), spectral_density(H)
    np.testing.assert_allclose(again.density, density.density, rtol=1e-6, atol=1e-9)


def test_operators_are_measured_as_they_are():
    o = problem(2)
    G = GaussNewton(o)
    found = trace(G, num_matvecs=102)
    assert found.value == pytest.approx(float(G.dense().trace()), rel=1e-8)
    assert found.method == "exact"
    assert found.batches == "24 examples in 2 batches, train mode"
    assert spectral_density(G).spectrum.nodes.min() > -1e-10
    for given in ({"theta": o.point()}, {"method": "exact"}, {"preconditioner": torch.ones(51)}):
        with pytest.raises(ValueError, match="belongs to an objective"):
            trace(G, **given)


def test_the_density_has_the_moments_and_the_ends_of_the_dense_hessian():
    o = problem()
    eigenvalues = torch.linalg.eigvalsh(dense(o)).numpy()
    found = spectral_density(o, steps=51, num_probes=40)
    for k in (1, 2, 3):
        moment = found.spectrum.moment(k)
        assert abs(moment.value - (eigenvalues**k).mean()) < 4 * moment.stderr
    assert found.spectrum.nodes.max() == pytest.approx(eigenvalues.max(), rel=1e-6)
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, rel=1e-3)
    assert found.num_matvecs <= 51 * 40
    z = (found.grid[:, None] - eigenvalues) / found.width
    smooth = (np.exp(-0.5 * z * z) / (found.width * math.sqrt(2 * math.pi))).mean(1)
    assert np.mean(abs(found.density - smooth) <= 4 * found.stderr + 1e-3 * smooth.max()) > 0.95


def test_curvature_along_the_gradient_predicts_where_the_loss_comes_back():
    """On a quadratic a step of 1 / value reaches the bottom, one of 2 / value the same height."""
    A = torch.diag(torch.tensor([1.0, 4.0, 0.5], dtype=DOUBLE))
    model = nn.Linear(3, 1, bias=False).double()
    o = Objective(model, lambda m, b: 0.5 * (m.weight @ A @ m.weight.T).squeeze() + 0 * b.sum(), [randn(1, 1)])
    theta, P = randn(3, seed=1), torch.tensor([1.0, 3.0, 0.2], dtype=DOUBLE)
    for scale, found in (
        (torch.ones(3).double(), directional(o, theta=theta)),
        (P, directional(o, theta=theta, preconditioner=P)),
    ):
        step = o.grad(theta) / scale
        assert o.loss(theta - 2 / found.value * step) == pytest.approx(o.loss(theta), rel=1e-9)
        losses = [o.loss(theta - c / found.value * step) for c in (0.99, 1.0, 1.01)]
        assert min(losses) == losses[1]


@pytest.mark.parametrize("preconditioned", [False, True])
def test_directional_values_are_quotients_and_bounded_by_the_sharpness(preconditioned):
    o = problem()
    P = randn(o.size, seed=4).exp() if preconditioned else None
    weight = torch.ones(o.size).double() if P is None else P
    H, g = dense(o), o.grad(o.point())
    top = sharpness(o, preconditioner=P, tol=1e-8)
    for v in ("gradient", randn(o.size, seed=5), 1e-6 * randn(o.size, seed=6)):
        found = directional(o, v, preconditioner=P)
        v = g / weight if isinstance(v, str) else v
        assert found.value == pytest.approx(float(v @ H @ v / (weight * v @ v)), rel=1e-6)
        assert found.slope == pytest.approx(float(g @ v / (weight * v @ v).sqrt()), rel=1e-9)
        assert found.value <= top.value * (1 + 1e-6)
    along = directional(o, top.vectors[:, 0] / weight.sqrt(), preconditioner=P)
    assert along.value == pytest.approx(top.value, rel=1e-6)
    assert along.residual < 1e-5
    assert "1 product" in str(along)


def test_parameters_that_do_not_move_take_no_part():
    o = problem()
    P = torch.ones(o.size, dtype=DOUBLE)
    P[:30] = torch.inf
    v = randn(o.size, seed=5)
    with pytest.raises(ValueError, match="zero where P is inf"):
        directional(o, v, preconditioner=P)
    v[:30] = 0
    assert directional(o, v, preconditioner=P).value == pytest.approx(directional(o, v).value, rel=1e-6)


def test_noise_scale_recovers_the_one_that_made_the_data():
    """L_i = |theta - x_i|^2 / 2 has gradient theta - x_i: covariance that of x, mean gradient theta - E x."""
    spread, mean = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE), torch.tensor([0.5, -0.3, 0.2], dtype=DOUBLE)
    model = nn.Linear(3, 1, bias=False).double()

    def loss_fn(m, batch):
        return 0.5 * (m.weight - batch).square().sum(1).mean()

    theta, expected = torch.zeros(3, dtype=DOUBLE), float(spread.square().sum() / mean.square().sum())
    found = []
    for seed in range(60):
        x = mean + spread * randn(480, 3, seed=seed)
        sizes = ([5] * 40 + [7] * 40) if seed % 2 else [8] * 60
        found.append(gradient_noise_scale(Objective(model, loss_fn, list(x.split(sizes))), theta))
    for field, truth in (
        ("covariance", float(spread.square().sum())),
        ("squared_gradient", float(mean.square().sum())),
    ):
        values = np.array([getattr(f, field) for f in found])
        assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    values, stderrs = np.array([f.value for f in found]), np.array([f.stderr for f in found])
    assert np.median(values) == pytest.approx(expected, rel=0.1)
    assert 0.7 < np.median(stderrs) / values.std() < 1.4
    assert np.mean(abs(values - expected) < 3 * stderrs) > 0.9


def test_all_the_data_have_their_own_gradient_as_the_true_one():
    o = problem(8)
    grads = torch.stack([one.grad(one.point()) for one in o.each()])
    mean = grads.mean(0)
    covariance = 3 * (grads - mean).square().sum() / 7  # 8 batches of 3 examples
    found = gradient_noise_scale(o, complete=True)
    assert found.covariance == pytest.approx(float(covariance))
    assert found.squared_gradient == pytest.approx(float(mean.square().sum()))
    assert found.value == pytest.approx(float(covariance / mean.square().sum()))
    beyond = gradient_noise_scale(o)
    assert beyond.squared_gradient == pytest.approx(found.squared_gradient - found.covariance / 24)
    assert beyond.value > found.value
    assert 0 < found.stderr < found.value


def test_noise_that_hides_the_gradient_is_reported_as_infinite():
    model = nn.Linear(1, 1, bias=False).double()
    x = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=DOUBLE)[:, None]
    o = Objective(model, lambda m, b: 0.5 * (m.weight - b).square().mean(), list(x.split(1)))
    found = gradient_noise_scale(o, torch.zeros(1, dtype=DOUBLE))
    assert found.value == found.stderr == math.inf
    assert found.squared_gradient < 0
    assert "cannot be told from zero" in found.note
    assert gradient_noise_scale(o, torch.zeros(1, dtype=DOUBLE), complete=True).value == math.inf


@pytest.mark.parametrize("by", ["module", "parameter"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_layers_have_the_eigenvalues_of_their_dense_blocks(by, preconditioned):
    o = problem()
    P = randn(o.size, seed=4).exp() if preconditioned else torch.ones(o.size, dtype=DOUBLE)
    found = layer_sharpness(o, by=by, preconditioner=P if preconditioned else None, tol=1e-7)
    H = dense(o) / (P[:, None] * P[None]).sqrt()
    assert found.names == (("0", "2") if by == "module" else ("0.weight", "0.bias", "2.weight", "2.bias"))
    assert sum(found.sizes) == o.size
    at = 0
    for value, size in zip(found.values, found.sizes, strict=True):
        expected = torch.linalg.eigvalsh(H[at : at + size, at : at + size])[-1]
        assert value == pytest.approx(float(expected), rel=1e-8)
        at += size
    assert all(found.converged)
    whole = sharpness(o, preconditioner=P, tol=1e-7).value
    assert found.value == max(found.values) <= whole * (1 + 1e-9)
    assert found.names[found.values.index(found.value)] == found.sharpest
    assert found.sharpest in str(found)
    assert found.cost.products >= sum(found.num_matvecs)


MEASURES = {
    "trace": lambda o: trace(o, num_matvecs=8),
    "spectral_density": lambda o: spectral_density(o, steps=4, num_probes=2),
    "directional": directional,
    "layer_sharpness": lambda o: layer_sharpness(o, max_matvecs=4),
    "gradient_noise_scale": gradient_noise_scale,
}


@pytest.mark.parametrize("name", MEASURES)
def test_results_give_an_account_of_themselves(name):
    o = problem(4)
    found = MEASURES[name](o)
    assert found.batches == "24 examples in 4 batches, train mode"
    assert found.cost.gradients >= 1
    assert found.cost.seconds > 0
    assert o.spent.products == found.cost.products
    assert json.loads(json.dumps(found.to_dict()))["batches"] == found.batches
    frame = found.to_frame()
    assert len(frame) == {"spectral_density": 400, "layer_sharpness": 2}.get(name, 1)
    assert {"method", "batches", "note"} <= set(frame.columns)
    with pytest.raises(AttributeError):
        found.method = "other"


@pytest.mark.parametrize("name", ["spectral_density", "layer_sharpness"])
def test_pictures_return_their_axes(name):
    import matplotlib.pyplot as plt

    found = MEASURES[name](problem())
    ax = plt.subplots()[1]
    assert found.plot(ax) is ax
    assert found.plot() is not ax
    assert ax.get_xlabel()
    ax.figure.canvas.draw()
    plt.close("all")


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("task_name", ["dropout", "batch_norm", "attention_tied", "lstm", "frozen"])
def test_nothing_is_left_behind(name, task_name):
    task = TASKS[task_name](dtype=DOUBLE)
    model = task.build(0)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    o = Objective(model, task.loss_fn, list(task.train))
    before = everything(model)
    MEASURES[name](o)
    assert everything(model) == before


@pytest.mark.parametrize("name", MEASURES)
def test_a_loss_that_is_not_finite_is_refused_without_trace(name):
    o = problem(4)
    bad = Objective(o.model, lambda m, b: cross_entropy(m, b) / 0.0 * 0.0, o.batches)
    before = everything(o.model)
    with pytest.raises(MeasurementError):
        MEASURES[name](bad)
    assert everything(o.model) == before


def test_wrong_arguments_are_refused():
    o = problem()
    for wrong, words in [
        (lambda: trace(o, estimator="exact"), "'xtrace', 'hutch\\+\\+' or 'hutchinson', got 'exact'"),
        (lambda: trace(o, num_matvecs=3), "at least 6"),
        (lambda: trace(o, torch.ones(3)), r"theta: expected shape \(51,\)"),
        (lambda: trace(o, preconditioner=-torch.ones(51)), "positive"),
        (lambda: trace(o, method="fast"), "method"),
        (lambda: spectral_density(o, width=0.0), "width: expected a positive"),
        (lambda: spectral_density(o, num_probes=1), "at least 1 and 2"),
        (lambda: directional(o, "step"), "'gradient' or a vector, got 'step'"),
        (lambda: directional(o, torch.ones(3)), r"direction: expected shape \(51,\)"),
        (lambda: directional(o, torch.zeros(51)), "not all zero"),
        (lambda: layer_sharpness(o, by="layer"), "'module' or 'parameter'"),
        (lambda: layer_sharpness(o, tol=0), "tol"),
        (lambda: layer_sharpness(o, max_matvecs=0), "max_matvecs"),
        (lambda: gradient_noise_scale(problem(3), torch.ones(3)), "theta"),
    ]:
        with pytest.raises(ValueError, match=words):
            wrong()
    for measure in (trace, spectral_density, directional, layer_sharpness, gradient_noise_scale):
        with pytest.raises(TypeError, match=r"expected a lrs\.Objective"):
            measure(o.model)
    with pytest.raises(MeasurementError, match="at least 3"):
        gradient_noise_scale(problem(2))
    flat = Objective(o.model, lambda m, b: 0 * m(b[0]).sum() + 1, o.batches)
    with pytest.raises(MeasurementError, match="gradient is zero"):
        directional(flat)
