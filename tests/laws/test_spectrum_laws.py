"""A loss whose Hessian has eigenvalues that someone wrote down: whatever they are, that is what is measured."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lrscope import Objective, sharpness
from lrscope.curvature import (
    Deflated,
    DifferenceHessian,
    ExactHessian,
    Preconditioned,
    layer_sharpness,
    spectral_density,
    trace,
)
from spectra import matrix

DOUBLE = torch.float64
LAW = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)


class Bowl(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, size, dtype=DOUBLE))


def half_square(model, batch):
    return 0.5 * (model.w @ batch[0] @ model.w)


def bowl(spectrum, seed=0, dtype=DOUBLE):
    """The objective w'Aw / 2, whose Hessian has the given spectrum."""
    A = matrix(spectrum, seed)[0].to(dtype)
    return Objective(Bowl(len(A)).to(dtype), half_square, [A[None]])


@st.composite
def spectra(draw):
    """Clusters, repeated eigenvalues, both signs, few of them beside zeros, all zero, a single one; at any scale."""
    values = [0.0] * draw(st.integers(0, 12))
    for _ in range(draw(st.integers(0 if values else 1, 4))):
        center, width = draw(st.integers(-400, 400)) / 100, draw(st.sampled_from([0.0, 0.0, 1e-10, 1e-3, 0.5]))
        values += [center + width * i for i in range(draw(st.integers(1, 4)))]
    return 10.0 ** draw(st.integers(-4, 4)) * np.array(sorted(values, reverse=True))


@given(spectrum=spectra(), count=st.integers(1, 4), seed=seeds)
@LAW
def test_the_largest_eigenvalues_with_their_copies(spectrum, count, seed):
    count = min(count, len(spectrum))
    objective = bowl(spectrum, seed % 100)
    found = sharpness(objective, count=count, tol=1e-7, seed=seed % 1000)
    scale = max(abs(spectrum))
    np.testing.assert_allclose(found.values.numpy(), spectrum[:count], atol=1e-6 * scale)
    V = found.vectors
    torch.testing.assert_close(V.T @ V, torch.eye(count, dtype=DOUBLE), rtol=0, atol=1e-10)
    A = objective.batches[0][0]
    true = (A @ V - V * found.values).norm(dim=0)
    torch.testing.assert_close(found.residuals, true, rtol=1e-3, atol=1e-13 * scale)


@pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.06)])
@given(spectrum=spectra(), count=st.integers(1, 3), seed=seeds)
@LAW
def test_in_the_digits_that_the_parameters_have(dtype, close, spectrum, count, seed):
    count = min(count, len(spectrum))
    found = sharpness(
        bowl(spectrum, seed % 100, dtype), count=count, tol=close / 10, seed=seed % 1000, max_matvecs=60
    )
    assert found.values.dtype == torch.float32
    # What a sum of P rounded products may be off by, for vectors of length 1.
    np.testing.assert_allclose(found.values.numpy(), spectrum[:count], atol=close * max(abs(spectrum)) + 1e-30)


@given(spectrum=spectra(), tol=st.sampled_from([0.3, 1e-2, 1e-4]), seed=seeds)
@LAW
def test_an_eigenvalue_lies_within_the_residual_and_none_is_exceeded(spectrum, tol, seed):
    found = sharpness(bowl(spectrum, seed % 100), tol=tol, seed=seed % 1000)
    scale = max(abs(spectrum))
    assert found.value <= spectrum[0] + 1e-12 * scale
    assert min(abs(spectrum - found.value)) <= found.residual + 1e-12 * scale
    if found.converged:
        assert found.residual <= tol * abs(found.value) + 1e-14 * scale


def test_a_layer_is_as_sure_of_its_largest_eigenvalue_as_the_whole():
    """With a gap of 5 % and a tolerance of 1 %, one start in twenty would converge to the second eigenvalue."""
    objective = bowl(np.array([1.0, 0.95, *np.linspace(0, 0.5, 300)]))
    values = [layer_sharpness(objective, seed=seed).value for seed in range(60)]
    assert values == pytest.approx([1.0] * 60, rel=0.02)


@given(spectrum=spectra(), seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_algebra_moves_eigenvalues_as_it_should(spectrum, seed):
    objective = bowl(spectrum, seed % 100)
    H, scale = ExactHessian(objective, objective.point()), max(abs(spectrum))
    top = lambda A, **more: sharpness(A, tol=1e-7, **more)  # noqa: E731
    plain = top(objective)
    assert top(H).value == plain.value
    assert top(2 * H).value == pytest.approx(2 * plain.value, abs=1e-12 * scale)
    assert top(-H).value == pytest.approx(-spectrum[-1], abs=1e-6 * scale)
    assert top(H + H).value == pytest.approx(2 * spectrum[0], abs=1e-6 * scale)
    assert top(H - H).value == 0
    P = torch.full((H.size,), 4.0, dtype=DOUBLE)
    assert top(Preconditioned(H, P)).value == pytest.approx(spectrum[0] / 4, abs=1e-6 * scale)
    assert top(objective, preconditioner=P).value == pytest.approx(spectrum[0] / 4, abs=1e-6 * scale)
    if H.size > 1:
        rest = top(Deflated(H, plain.values, plain.vectors), seed=1).value
        assert rest == pytest.approx(max(spectrum[1], 0.0), abs=1e-5 * scale)


@pytest.mark.parametrize("estimator", ["hutchinson", "xtrace", "hutch++"])
@given(spectrum=spectra(), seed=seeds)
@settings(max_examples=10, deadline=None)
def test_traces_are_sums_of_eigenvalues(estimator, spectrum, seed):
    objective = bowl(spectrum, seed % 100)
    H, scale = ExactHessian(objective, objective.point()), max(abs(spectrum)) * len(spectrum)
    found = trace(H, estimator=estimator, seed=seed)
    # Eight standard errors, since they are estimated from ten samples or so; nothing beyond what A could be.
    assert abs(found.value - spectrum.sum()) <= 8 * found.stderr + 1e-9 * scale
    assert trace(2 * H, estimator=estimator, seed=seed).value == pytest.approx(2 * found.value, abs=1e-9 * scale)
    if estimator == "hutchinson":  # which is linear in A
        assert trace(H + H, estimator=estimator, seed=seed).value == pytest.approx(2 * found.value, abs=1e-9 * scale)
        assert trace(H - H, estimator=estimator, seed=seed).value == 0


@given(spectrum=spectra(), seed=seeds)
@settings(max_examples=10, deadline=None)
def test_the_density_has_the_mass_the_ends_and_the_moments(spectrum, seed):
    objective = bowl(spectrum, seed % 100)
    found = spectral_density(objective, steps=len(spectrum) + 2, num_probes=16, seed=seed)
    scale = max(abs(spectrum))
    nodes = found.spectrum.nodes[found.spectrum.weights > 0]
    assert str(found).startswith(f"{len(spectrum)} eigenvalues from {nodes.min():.4g} to {nodes.max():.4g}")
    assert float(nodes.max()) <= spectrum[0] + 1e-9 * scale
    assert float(nodes.min()) >= spectrum[-1] - 1e-9 * scale
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=0.02)
    assert found.spectrum.moment(0).value == pytest.approx(1, rel=1e-9)
    H = ExactHessian(objective, objective.point())
    twice = spectral_density(2 * H, steps=len(spectrum) + 2, num_probes=16, seed=seed)
    for k in (1, 2):
        moment = found.spectrum.moment(k)
        assert twice.spectrum.moment(k).value == pytest.approx(2**k * moment.value, abs=1e-9 * scale**k)
        exact = (spectrum**k).mean()
        assert abs(moment.value - exact) <= 12 * moment.stderr + 1e-9 * scale**k


@given(spectrum=spectra(), seed=seeds)
@LAW
def test_differences_see_a_quadratic_as_derivatives_do(spectrum, seed):
    objective = bowl(spectrum, seed % 100)
    theta, v = (
        objective.point(),
        torch.randn(objective.size, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)),
    )
    exact, by_difference = ExactHessian(objective, theta) @ v, DifferenceHessian(objective, theta) @ v
    torch.testing.assert_close(by_difference, exact, rtol=1e-7, atol=1e-7 * max(abs(spectrum)))
