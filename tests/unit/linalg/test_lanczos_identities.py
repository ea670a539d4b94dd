"""Solvers against matrices with prescribed spectra; no network in sight."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from lrscope.linalg import lanczos, orthonormalise, power_iteration


def matrix(spectrum, seed=0):
    """A symmetric matrix with exactly these eigenvalues, and its eigenvectors."""
    spectrum = torch.as_tensor(spectrum, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64, generator=generator))
    return Q @ torch.diag(spectrum) @ Q.T, Q


def start(size, seed=1):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


SPECTRA = {
    "outlier": [10.0, *np.linspace(-1, 1, 60)],
    "negative dominates": [*np.linspace(-9, 2, 50), 3.0],
    "tiny gap": [5.0, 4.99, *np.linspace(0, 4, 60)],
    "double": [2.0, 2.0, *np.linspace(0, 1, 30)],
    "all negative": list(np.linspace(-5, -1, 30)),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalue_is_the_prescribed_one(name):
    A, _ = matrix(SPECTRA[name])
    pairs = lanczos(lambda v: A @ v, start(len(A)), tol=1e-8, max_matvecs=2000)
    assert pairs.converged
    assert abs(float(pairs.values[0]) - max(SPECTRA[name])) <= 1e-7


@pytest.mark.parametrize("count", [1, 3, 6])
def test_largest_pairs_agree_with_scipy(count):
    A, _ = matrix(np.random.default_rng(3).normal(size=80))
    pairs = lanczos(lambda v: A @ v, start(80), count=count, tol=1e-9, max_matvecs=3000)
    expected = scipy.sparse.linalg.eigsh(A.numpy(), k=count, which="LA", return_eigenvectors=False)[::-1]
    np.testing.assert_allclose(pairs.values.numpy(), expected, rtol=1e-10)


def test_vectors_are_orthonormal_and_residuals_are_the_true_ones():
    A, _ = matrix(np.linspace(-1, 3, 70) ** 3)
    pairs = lanczos(lambda v: A @ v, start(70), count=4, tol=1e-3)
    V = pairs.vectors
    torch.testing.assert_close(V.T @ V, torch.eye(4, dtype=V.dtype))
    true = (A @ V - V * pairs.values).norm(dim=0)
    torch.testing.assert_close(pairs.residuals, true, rtol=1e-6, atol=1e-12)
    assert (true <= 1e-3 * pairs.values.abs()).all()


def test_an_eigenvalue_lies_within_the_residual():
    A, _ = matrix(np.linspace(0, 1, 50))
    for budget in (1, 2, 5, 9):
        pairs = lanczos(lambda v: A @ v, start(50), tol=1e-12, max_matvecs=budget)
        nearest = (torch.linspace(0, 1, 50, dtype=torch.float64) - pairs.values[0]).abs().min()
        assert nearest <= pairs.residuals[0] + 1e-12
        assert pairs.num_matvecs == budget
        assert not pairs.converged


def test_restarting_with_a_small_basis_finds_the_same_pairs():
    A, _ = matrix(np.linspace(0, 1, 90) ** 2)
    free = lanczos(lambda v: A @ v, start(90), count=2, tol=1e-9, max_basis=90)
    tight = lanczos(lambda v: A @ v, start(90), count=2, tol=1e-9, max_basis=8, max_matvecs=2000)
    torch.testing.assert_close(free.values, tight.values, rtol=1e-10, atol=0)
    assert tight.num_matvecs > free.num_matvecs


def test_full_space_is_exact_and_counts_every_product():
    A, _ = matrix([3.0, 1.0, -2.0])
    calls = []
    pairs = lanczos(lambda v: (calls.append(1), A @ v)[1], start(3), count=3, tol=1e-12)
    np.testing.assert_allclose(pairs.values.numpy(), [3, 1, -2], atol=1e-12)
    assert pairs.num_matvecs == len(calls) == 3


@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_guard_finds_what_a_wrong_start_hides(wrong):
    A, Q = matrix([10.0, 9.5, 9.0, *np.linspace(-1, 6, 200)])
    unguarded = lanczos(lambda v: A @ v, Q[:, wrong], tol=1e-2)
    assert unguarded.num_matvecs == 1  # the residual is zero: all looks well
    guarded = lanczos(lambda v: A @ v, Q[:, wrong], tol=1e-2, guard=3)
    assert guarded.converged
    assert float(guarded.values[0]) == pytest.approx(10, rel=1e-3)


def test_warm_start_from_a_close_vector_saves_products():
    A, Q = matrix([10.0, *np.linspace(0, 8, 100)])
    cold = lanczos(lambda v: A @ v, start(101), tol=1e-3)
    warm = lanczos(lambda v: A @ v, Q[:, 0] + 1e-3 * start(101), tol=1e-3)
    assert warm.num_matvecs < cold.num_matvecs / 2


def test_zero_matrix_has_eigenvalue_zero():
    pairs = lanczos(lambda v: 0 * v, start(5), count=2)
    assert pairs.values.tolist() == [0, 0]
    assert pairs.converged


def test_a_product_that_is_not_finite_ends_the_solve_unconverged():
    pairs = lanczos(lambda v: v * float("nan"), start(5))
    assert not pairs.converged
    assert not torch.isfinite(pairs.values).any()


def test_power_iteration_is_the_reference_of_lanczos():
    A, _ = matrix([4.0, *np.linspace(-3, 3, 40)])
    power = power_iteration(lambda v: A @ v, start(41), tol=1e-6, shift=3.0)
    fast = lanczos(lambda v: A @ v, start(41), tol=1e-6)
    assert power.converged
    assert float(power.values[0]) == pytest.approx(float(fast.values[0]), rel=1e-9)
    assert fast.num_matvecs < power.num_matvecs


def test_orthonormalise_finds_nothing_inside_the_span():
    basis = torch.eye(4, dtype=torch.float64)[:2]
    assert orthonormalise(basis[0] + basis[1], basis) is None
    assert orthonormalise(torch.zeros(4, dtype=torch.float64), basis) is None
    unit = orthonormalise(basis[0] + 1e-9 * torch.eye(4, dtype=torch.float64)[3], basis)
    assert float(abs(unit[3])) == pytest.approx(1)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="max_basis"):
        lanczos(lambda v: v, start(50), count=4, max_basis=5)
    with pytest.raises(ValueError, match="start"):
        lanczos(lambda v: v, torch.zeros(5))
