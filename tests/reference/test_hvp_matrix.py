"""Every kind of model and wrapping, by every method, against the same loss unwrapped in float64.

The table with errors and costs is docs/curvature_matrix.md; the rows with two processes are in tests/dist.
"""

import pytest
import torch

import fingerprints
from hvp_cases import CASES
from lrscope import sharpness
from lrscope.curvature import DifferenceHessian, ExactHessian, ForwardHessian, choose
from lrscope.errors import MeasurementError

pytestmark = pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")  # autocast is coarse, and says so


def built(case):
    if case.needs:
        pytest.importorskip(case.needs)
    objective, reference = case.build()
    # Not where the model stands: whoever reads its own parameters instead of theta is found out.
    generator = torch.Generator().manual_seed(0)
    start = reference.point()
    theta = start + 0.05 * torch.randn(start.shape, dtype=torch.float64, generator=generator)
    return objective, reference, theta.float(), theta.float().double()


def smoothed(reference, theta, count=1):
    """Unit vectors with weight on the larger eigenvalues, as solvers feed them, and the true products."""
    H = ExactHessian(reference, theta)
    generator = torch.Generator().manual_seed(1)
    V = H @ torch.randn(reference.size, count, dtype=torch.float64, generator=generator)
    V = (V / V.norm(dim=0)).float().double()
    return V.float(), torch.stack([reference.hvp(theta, v) for v in V.T], dim=1)


def error(product, truth):
    return float((product.double() - truth).norm() / truth.norm())


def operator(method, objective, theta):
    # As chosen: for noisy gradients the choice widens the difference's step.
    return choose(objective, theta, method=method).at(objective, theta)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("method", ["exact", "forward", "difference"])
def test_products_are_those_of_the_plain_model_in_float64(case, method):
    objective, reference, theta, double = built(case)
    state = fingerprints.everything(objective.model)
    refusal = dict(case.without).get(method)
    if refusal is not None:
        with pytest.raises(MeasurementError, match=rf"{refusal}.*; use method='(exact|difference)'"):
            operator(method, objective, theta)
    else:
        V, truth = smoothed(reference, double, count=3)
        H = operator(method, objective, theta)
        bound = case.loose[method == "difference"]
        assert error(H @ V[:, 0], truth[:, 0]) < bound
        assert error(H @ V[:, 0], truth[:, 0]) < bound  # again, from what the first product kept
        assert error(H @ V, truth) < bound
    assert fingerprints.everything(objective.model) == state


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_difference_to_one_side_reuses_the_gradient_and_estimates_its_error(case):
    objective, reference, theta, double = built(case)
    V, truth = smoothed(reference, double)
    choice = choose(objective, theta, method="difference")
    H = choice.at(objective, theta, gradient=objective.grad(theta))
    product, estimate = H.with_error(V[:, 0])
    wrong = error(product, truth[:, 0])
    if "autocast" not in case.wrapping:
        assert wrong < 0.03
    assert wrong < 3 * estimate  # the estimate is of the right size also where the product is bad


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sharpness_is_that_of_the_plain_model_in_float64(case):
    objective, reference, theta, double = built(case)
    found = sharpness(objective, theta, tol=1e-3)
    assert found.value == pytest.approx(sharpness(reference, double, tol=1e-6).value, rel=max(1e-2, case.loose[0]))


def test_several_columns_take_one_pass_where_the_model_can_be_vectorised():
    objective, _, theta, _ = built(CASES[0])
    calls = []
    loss_fn = objective.loss_fn
    objective.loss_fn = lambda model, batch: calls.append(1) or loss_fn(model, batch)
    V = torch.randn(objective.size, 5)
    for method, passes in ((ExactHessian, 1), (ForwardHessian, 1), (DifferenceHessian, 10)):
        calls.clear()
        method(objective, theta) @ V
        assert len(calls) == passes
