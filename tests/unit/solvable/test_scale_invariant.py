"""Scale-invariant models against autograd, their equilibria against random walks, and their refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.solvable import LastLayer, NormEquilibrium, ScaleInvariant
from lrscope.solvable.last_layer import run_together

DOUBLE = torch.float64


@settings(max_examples=40)
@given(x=st.floats(-2, 2), y=st.floats(0.05, 2), lr=st.floats(1e-3, 0.5), decay=st.sampled_from([0.0, 0.01, 0.3]))
def test_the_polar_recursion_is_gradient_descent_with_weight_decay(x, y, lr, decay):
    model = ScaleInvariant((x, y), decay)
    theta, run = torch.tensor([x, y], dtype=DOUBLE, requires_grad=True), model.run(lr, 25)
    optimizer = torch.optim.SGD([theta], lr=lr, weight_decay=decay)
    for step in range(run.steps + 1):
        loss = theta[0] ** 2 / (theta @ theta)
        assert float(loss.detach()) == pytest.approx(float(run.loss[step]), rel=1e-7, abs=1e-12)
        assert float(theta.detach().norm()) == pytest.approx(float(run["norm"][step]), rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@settings(max_examples=40)
@given(x=st.floats(-2, 2), y=st.floats(-2, 2))
def test_sharpness_is_the_dense_hessians(x, y):
    if math.hypot(x, y) < 0.05:
        return
    model = ScaleInvariant((x, y))
    objective = model.objective()
    H = torch.stack([objective.hvp(objective.point(), e) for e in torch.eye(2, dtype=DOUBLE)])
    assert model.sharpness == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-9, abs=1e-9)
    assert float(model.run(0.01, 1)["sharpness"][0]) == pytest.approx(model.sharpness, rel=1e-9, abs=1e-9)


def test_below_the_critical_norm_a_minimum_throws_the_weights_out():
    lr, decay = 0.05, 0.02
    model = ScaleInvariant((1e-9, 1.0), decay)
    for share, grows in ((1.01, False), (0.99, True)):
        norm = share * model.critical_norm(lr)
        run = ScaleInvariant((1e-9 * norm, norm), decay).run(lr, 1)
        assert bool(run["angle"][1].abs() > run["angle"][0].abs()) == grows
    expected = model.calm_steps(lr, 1.0)
    norms = model.run(lr, round(expected) + 20)["norm"]
    assert int((norms < model.critical_norm(lr)).int().argmax()) == math.ceil(expected)
    assert ScaleInvariant((0.1, 1.0)).calm_steps(lr, 1.0) == math.inf


def test_a_start_next_to_a_minimum_that_is_thrown_out_has_not_diverged():
    run = ScaleInvariant((1e-150, 0.1), 0.05).run(0.05, 2000)
    assert run.status == "running"
    assert float(run.loss.max()) > 0.1


def test_without_decay_the_norm_only_grows_and_it_settles():
    run = ScaleInvariant((1.0, 0.5)).run([0.05, 1.0, 20.0], 3000)
    assert bool((run["norm"][1:] >= run["norm"][:-1]).all())
    assert bool((run.final_loss < 1e-6).all())


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("per_step", [1e-3, 0.05, 0.6])
def test_the_equilibrium_is_the_fixed_point_of_the_moments(momentum, per_step):
    model, lr = NormEquilibrium(0.1, momentum, gradient=3.0), per_step / 0.1
    walk = model.moments(lr, round(40 / per_step) + 200, norm=model.norm(lr) * 1.3)
    assert float(walk.norm[-1]) == pytest.approx(model.norm(lr), rel=1e-6)
    assert float(walk.angle[-1]) == pytest.approx(model.angle(lr), rel=1e-6)


def test_leading_order_is_what_the_papers_give():
    for momentum in (0.0, 0.9):
        model, lr = NormEquilibrium(0.01, momentum, 2.0), 0.01
        leading = lr * 2.0 / (2 * 0.01 * (1 - momentum))
        assert model.norm(lr) ** 4 == pytest.approx(leading, rel=1e-3)
        assert model.angle(lr) == pytest.approx(math.sqrt(2 * lr * 0.01 / (1 + momentum)), rel=1e-3)
    exact = NormEquilibrium(0.5, gradient=3.0)
    assert exact.norm(0.4) ** 4 == pytest.approx(0.4 * 3 / (0.5 * (2 - 0.2)), rel=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_relaxation_time(momentum):
    model, lr = NormEquilibrium(0.01, momentum), 0.1
    steps = model.relaxation_steps(lr)
    norm = model.moments(lr, round(3 * steps), norm=0.9 * model.norm(lr)).norm
    off = (norm**4 / model.norm(lr) ** 4 - 1).abs()
    assert float(off[round(2 * steps)] / off[round(steps)]) == pytest.approx(math.exp(-1), rel=0.05)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_random_walk_in_many_dimensions_has_the_predicted_norm_and_angle(momentum):
    model, lr = NormEquilibrium(0.2, momentum, gradient=2.0), 0.3
    walk = model.simulate(lr, 3000, dim=400)
    assert float(walk.norm[1000:].mean()) == pytest.approx(model.norm(lr), rel=0.01)
    assert float(walk.angle[1000:].mean()) == pytest.approx(model.angle(lr), rel=0.01)
    assert walk.clipped == 0


def test_the_predicted_error_floors_are_reached():
    both = LastLayer(dim=10, batch=50, lr=0.2, weight_decay=0.1)
    decayed = LastLayer(dim=10, batch=50, lr=0.2, weight_decay=0.1, normalised=False)
    plain = LastLayer(dim=10, batch=50, lr=0.2, weight_decay=0.0)
    error = run_together([both, decayed, plain], 6000).error[1500:].mean(0)
    assert float(error[0]) == pytest.approx(both.error_floor, rel=0.08)
    assert float(error[1]) == pytest.approx(decayed.error_floor, rel=0.08)
    assert plain.error_floor == 0
    assert both.error_floor > 3 * decayed.error_floor


def test_the_last_layers_step_is_autograds():
    for normalised in (True, False):
        model = LastLayer(dim=5, batch=8, lr=0.3, weight_decay=0.2, normalised=normalised, seed=3)
        w = model.weights.requires_grad_()
        X = torch.randn(8, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(3 + 1_000_003))
        z = X @ w / (w.norm() if normalised else 1.0)
        torch.nn.functional.softplus(-X[:, 0].sign() * z).mean().backward()
        after = w.detach() - 0.3 * (w.grad + 0.2 * w.detach())
        run = model.run(1)
        assert float(run.norm[1]) == pytest.approx(float(after.norm()), rel=1e-12)
        assert float(run.error[1]) == pytest.approx(math.acos(after[0] / after.norm()) / math.pi, rel=1e-10)
        turned = torch.arccos(w.detach() @ after / (w.detach().norm() * after.norm()))
        assert float(run.angle[0]) == pytest.approx(float(turned), rel=1e-7)


def test_error_is_the_share_of_examples_on_the_wrong_side():
    w = LastLayer(dim=4, seed=5).weights
    X = torch.randn(200_000, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    wrong = float(((X @ w).sign() != X[:, 0].sign()).double().mean())
    assert float(LastLayer(dim=4, seed=5).run(1).error[0]) == pytest.approx(wrong, abs=0.005)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleInvariant((0.0, 0.0)), "begin: expected finite"),
        (lambda: ScaleInvariant(weight_decay=-1.0), "weight_decay: expected 0 or more"),
        (lambda: ScaleInvariant(weight_decay=2.0).run(0.5, 5), "keeps nothing"),
        (lambda: NormEquilibrium(0.0), "weight_decay: expected a positive"),
        (lambda: NormEquilibrium(0.1, 1.0), "momentum: expected a number"),
        (lambda: NormEquilibrium(1.0).norm(2.0), "has no equilibrium"),
        (lambda: LastLayer(dim=1), "dim: expected 2 or more"),
        (lambda: LastLayer(lr=1.0, weight_decay=1.0), "weight_decay: expected 0 <="),
        (lambda: LastLayer(weight_decay=0.0, normalised=False).error_floor, "there is no floor"),
        (lambda: run_together([LastLayer(), LastLayer(dim=3)], 2), "same dim and batch"),
    ],
)
def test_what_has_no_meaning_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_drawing_a_run():
    ax = ScaleInvariant(weight_decay=0.05).run(0.05, 300).plot(what="sharpness")
    assert ax.lines[0].get_linestyle() == "-"
    assert np.allclose(ax.lines[1].get_ydata(), 40)
