"""The two-layer network on several samples against a torch network, and its phases."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope import Objective, sharpness
from lrscope.solvable import TwoLayer
from lrscope.solvable.two_layer import half_mse

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(
    m=st.integers(1, 5), d=st.integers(1, 4), width=st.integers(1, 30), scale=st.floats(0.3, 1.5), mup=st.floats(0, 1),
    c=st.floats(0.1, 3.5), seed=st.integers(0, 999),
)  # fmt: skip
def test_the_recursion_is_a_torch_network_trained_by_sgd(m, d, width, scale, mup, c, seed):
    model = TwoLayer(randn(m, d, seed=seed), randn(m, seed=seed + 1), width, scale, mup, seed)
    net, lr = model.net(), c / model.kernel
    run, optimizer = model.run(lr, 12), torch.optim.SGD(net.parameters(), lr=lr)
    state, largest = model._start(), 0.0
    for step in range(run.steps + 1):
        loss = half_mse(net, (model.X, model.y))
        size = float(loss.detach()) ** 0.5
        largest = max(largest, size)
        if size > 1e4 or not torch.isfinite(run.loss[step]):
            break
        hidden = net.u.detach() @ model.X.T
        theta = (float(net.v.detach().pow(2).sum()) * model.X @ model.X.T + hidden.T @ hidden) / (m * model.N)
        # Rounding of both is that of the largest residual so far, amplified as the residual itself is.
        assert float(run.loss[step]) ** 0.5 == pytest.approx(size, abs=1e-9 * max(largest, 1.0))
        torch.testing.assert_close(model.kernel_matrix(state)[0], theta, rtol=1e-9, atol=1e-9 * float(theta.norm()))
        state = model._step(state, torch.tensor([lr], dtype=DOUBLE))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_objective_is_that_of_the_torch_network():
    model = TwoLayer(randn(6, 3), randn(6, seed=1), 10, seed=4)
    own, real = model.objective(), Objective(model.net(), half_mse, [(model.X, model.y)])
    theta = own.point()
    torch.testing.assert_close(theta, real.point())
    torch.testing.assert_close(own.grad(theta), real.grad(theta), rtol=1e-12, atol=1e-14)
    v = randn(own.size, seed=7)
    torch.testing.assert_close(own.hvp(theta, v), real.hvp(theta, v), rtol=1e-12, atol=1e-14)
    assert sharpness(own, tol=1e-8).value == pytest.approx(sharpness(real, tol=1e-8).value, rel=1e-7)


def test_kernel_and_hessian_agree_where_the_loss_is_zero():
    model = TwoLayer(randn(4, 4), randn(4, seed=1), 64)
    lr, objective = 1.2 / model.kernel, model.objective()
    run, theta = model.run(lr, 4000), objective.point()
    for _ in range(run.steps):
        theta = theta - lr * objective.grad(theta)
    assert sharpness(objective, theta, tol=1e-9).value == pytest.approx(float(run.final_curvature), rel=1e-6)


def test_phases_are_split_where_predicted_between_the_free_windows():
    X = randn(8, 4)
    model = TwoLayer(X, X @ randn(4, seed=1), 1000)
    diagram = model.phase_diagram([0.5, 1.9, 2.5, 3.0, 3.5, 5.0], seeds=3, steps=150)
    assert (diagram.measured[:2] == "lazy").all()
    assert (diagram.measured[2:5] == "catapult").all()
    assert (diagram.measured[5] == "divergent").all()
    assert "TwoLayer(width=1000, 8 samples in 4 dimensions)" in str(diagram)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"X, y: expected shapes \(m, d\) and \(m,\), got \(4, 3\) and \(3,\)"):
        TwoLayer(randn(4, 3), randn(3))
    with pytest.raises(ValueError, match="mup"):
        TwoLayer(randn(4, 3), randn(4), mup=-0.1)
    with pytest.raises(ValueError, match="width"):
        TwoLayer(randn(4, 3), randn(4), 0)
