"""The quadratic against torch's own optimizers, its closed form, and its own predictions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.solvable import Quadratic

DOUBLE = torch.float64
RULES = ("gd", "momentum", "nesterov", "adam")


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def positive_definite(n, seed=0):
    Q = torch.linalg.qr(randn(n, n, seed=seed)).Q
    return Q @ torch.logspace(-2, 1, n, dtype=DOUBLE).diag() @ Q.T


@pytest.mark.parametrize("rule", ["gd", "momentum", "nesterov"])
def test_every_iterate_is_that_of_torchs_sgd(rule):
    model = Quadratic(positive_definite(6), rule, beta=0.8, start=randn(6))
    settings = {"gd": {}, "momentum": {"momentum": 0.8}, "nesterov": {"momentum": 0.8, "nesterov": True}}[rule]
    objective, lr = model.objective(), 0.7 * model.max_lr
    optimizer = torch.optim.SGD(objective.model.parameters(), lr=lr, **settings)
    run = model.run(lr, 60)
    for step in range(61):
        theta = objective.point()
        torch.testing.assert_close(model.at(step, lr), theta, rtol=1e-11, atol=1e-13)
        assert float(run.loss[step]) == pytest.approx(objective.loss(), rel=1e-11)
        objective.model.theta.grad = objective.grad(theta)
        optimizer.step()


def test_adam_with_a_frozen_preconditioner_is_torchs_adam_long_after_its_second_moment_was_set():
    h, scale, lr = 2.0, 1e3, 2000.0
    model = Quadratic([h / scale], "adam", start=[1.0])
    theta = torch.nn.Parameter(torch.ones(1, dtype=DOUBLE))
    optimizer = torch.optim.Adam([theta], lr=lr, betas=(0.9, 1.0 - 1e-15), eps=0.0)
    optimizer.state[theta] = {
        "step": torch.tensor(1e9),  # in float32, so that it no longer moves
        "exp_avg": torch.zeros(1, dtype=DOUBLE),
        "exp_avg_sq": torch.full((1,), scale**2 * (1 - (1 - 1e-15) ** 1_000_000_000), dtype=DOUBLE),
    }
    for step in range(1, 30):
        theta.grad = h * theta.detach()
        optimizer.step()
        assert float(theta.detach()) == pytest.approx(float(model.at(step, lr)), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_the_largest_stable_rate_is_where_the_factor_per_step_is_one(rule):
    model = Quadratic([7.0, 1.0, 0.1], rule)
    assert model.rate(model.max_lr) == pytest.approx(1, abs=1e-7)
    assert model.rate(0.999 * model.max_lr) < 1 < model.rate(1.001 * model.max_lr)


@pytest.mark.parametrize("rule", RULES)
def test_the_factor_per_step_is_what_a_long_run_shows(rule):
    model = Quadratic([4.0, 0.5], rule, beta=0.5)
    for share in (0.3, 0.9, 1.02):
        lr = share * model.max_lr
        # The largest within a turn of the oscillation, 200 steps apart.
        far, near = (max(float(model.at(step + k, lr).norm()) for k in range(40)) for step in (460, 260))
        assert (far / near) ** (1 / 200) == pytest.approx(model.rate(lr), rel=2e-3)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20)
@given(kappa=st.floats(1.5, 1e4), top=st.floats(1e-3, 1e3))
def test_no_setting_is_faster_than_the_fastest(rule, kappa, top):
    model = Quadratic([top, top / kappa], rule)
    best = model.fastest
    assert Quadratic([top, top / kappa], rule, beta=best.beta).rate(best.lr) == pytest.approx(best.rate, abs=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(40):
        beta = 0.0 if rule == "gd" else float(np.clip(best.beta + 0.2 * rng.normal(), 0, 0.999))
        other = Quadratic([top, top / kappa], rule, beta=beta)
        if rule == "nesterov":  # best among rates for its own beta; elsewhere it is the known optimum of both
            continue
        assert other.rate(best.lr * np.exp(0.5 * rng.normal())) >= best.rate - 1e-9


@settings(max_examples=15)
@given(kappa=st.floats(1.5, 1e4))
def test_nesterovs_fastest_holds_at_both_ends_of_the_spectrum(kappa):
    best = Quadratic([1.0, 1 / kappa], "nesterov").fastest
    grid = [
        Quadratic([1.0, 1 / kappa], "nesterov", beta=b).rate(best.lr * s)
        for b in np.clip(best.beta + np.linspace(-0.1, 0.1, 9), 0, 0.9999)
        for s in (0.8, 0.9, 1.0, 1.1, 1.2)
    ]
    assert min(grid) >= best.rate - 1e-7


def test_directions_without_curvature_stay_where_they_are():
    model = Quadratic(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), start=[2.0, 0.0])
    torch.testing.assert_close(model.at(200, 0.5), torch.tensor([1.0, -1.0], dtype=DOUBLE))
    assert model.run(0.5).status == "converged"
    with pytest.raises(ValueError, match="zero eigenvalue"):
        _ = model.fastest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0],), "eigenvalues of 0 or more"),
        (([0.0],), "not all 0"),
        (([],), r"expected eigenvalues \(P,\)"),
        ((torch.tensor([[1.0, 2.0], [0.0, 1.0]]),), "symmetric matrix"),
        (([1.0], "adagrad"), "rule: expected 'gd'"),
    ],
)
def test_what_has_no_stable_step_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Quadratic(*arguments)


def test_a_momentum_of_one_and_a_start_of_another_length_are_refused():
    with pytest.raises(ValueError, match="beta: expected a momentum"):
        Quadratic([1.0], "momentum", beta=1.0)
    with pytest.raises(ValueError, match=r"start: expected shape \(1,\)"):
        Quadratic([1.0], start=[1.0, 2.0])
