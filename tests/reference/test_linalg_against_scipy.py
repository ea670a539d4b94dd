"""Solvers and estimators against SciPy and NumPy in float64, on random, sparse and nearly singular matrices."""

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from lrscope.linalg import hutch_pp, lanczos, lobpcg, slq, xtrace
from spectra import draw

CODE = {"largest": "LA", "smallest": "SA", "magnitude": "LM"}


def wishart(num, size, seed=0):
    X = np.random.default_rng(seed).normal(size=(num, size))
    return X.T @ X / num


def goe(size, seed=0):
    X = np.random.default_rng(seed).normal(size=(size, size))
    return (X + X.T) / np.sqrt(2 * size)


def laplacian(side):
    """Five-point stencil on a square: pairs of equal eigenvalues, clustered at both ends."""
    line = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(side, side))
    return (scipy.sparse.kron(line, np.eye(side)) + scipy.sparse.kron(np.eye(side), line)).tocsr()


MATRICES = {
    "wishart": wishart(60, 90),  # 30 eigenvalues at zero
    "random": goe(120),
    "spiked": goe(120, 1) + 3 * np.outer(np.ones(120), np.ones(120)) / 120,
    "laplacian": laplacian(11),
}


def matvec_of(A):
    return lambda v: torch.from_numpy(np.asarray(A @ v.numpy()))


@pytest.mark.parametrize("which", CODE)
@pytest.mark.parametrize("name", MATRICES)
def test_lanczos_finds_what_the_dense_solver_and_eigsh_find(name, which):
    A = MATRICES[name]
    found = lanczos(matvec_of(A), draw(A.shape[0], 4), count=4, which=which, tol=1e-9, atol=1e-9, max_matvecs=3000)
    dense = np.linalg.eigvalsh(A.toarray() if scipy.sparse.issparse(A) else A)
    order = {"largest": -dense, "smallest": dense, "magnitude": -abs(dense)}[which].argsort()
    assert found.converged
    np.testing.assert_allclose(sorted(found.values.numpy()), sorted(dense[order[:4]]), atol=1e-9)
    if name != "wishart" or which != "smallest":  # eigsh may miss one of thirty equal eigenvalues
        v0 = np.random.default_rng(0).normal(size=A.shape[0])
        theirs = scipy.sparse.linalg.eigsh(A, k=4, which=CODE[which], return_eigenvectors=False, tol=1e-12, v0=v0)
        np.testing.assert_allclose(sorted(found.values.numpy()), sorted(theirs), atol=1e-9)


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("name", MATRICES)
def test_lobpcg_finds_what_the_dense_solver_finds(name, which):
    A = MATRICES[name]
    found = lobpcg(matvec_of(A), draw(A.shape[0], 6), count=3, which=which, tol=1e-8, atol=1e-8, max_matvecs=5000)
    dense = np.linalg.eigvalsh(A.toarray() if scipy.sparse.issparse(A) else A)
    assert found.converged
    np.testing.assert_allclose(found.values.numpy(), dense[::-1][:3] if which == "largest" else dense[:3], atol=1e-8)


def test_lobpcg_spends_about_what_scipys_spends():
    A = MATRICES["spiked"]
    start = draw(120, 3)
    calls = []
    operator = scipy.sparse.linalg.LinearOperator(A.shape, matvec=lambda v: (calls.append(1), A @ v)[1], dtype=float)
    scipy.sparse.linalg.lobpcg(operator, start.numpy(), largest=True, tol=1e-5, maxiter=200)
    found = lobpcg(matvec_of(A), start, count=3, tol=1e-5 / 3, max_matvecs=2000)
    assert found.converged
    assert found.num_matvecs <= 1.2 * len(calls)


@pytest.mark.parametrize("name", ["wishart", "spiked", "laplacian"])
def test_traces_and_log_determinants_are_those_of_numpy(name):
    A = MATRICES[name]
    dense = A.toarray() if scipy.sparse.issparse(A) else A
    for estimator in (hutch_pp, xtrace):
        found = estimator(matvec_of(A), draw(len(dense)), num_matvecs=60)
        assert abs(found.value - np.trace(dense)) < 4 * found.stderr
    shift = 1 - min(0.0, np.linalg.eigvalsh(dense)[0])
    log_det = np.linalg.slogdet(dense + shift * np.eye(len(dense)))[1]
    found = slq(matvec_of(A), draw(len(dense)), steps=25, num_probes=30).trace(lambda x: np.log(x + shift))
    assert abs(found.value - log_det) < 4 * found.stderr


def test_the_semicircle_is_seen():
    """Wigner's law: eigenvalues of a large random symmetric matrix have density sqrt(4 - x^2) / 2 pi."""
    A = goe(600, 5)
    spectrum = slq(matvec_of(A), draw(600), steps=40, num_probes=20)
    grid = np.linspace(-1.8, 1.8, 200)
    density, stderr = spectrum.density(grid, width=0.15)
    assert np.abs(density - np.sqrt(4 - grid**2) / (2 * np.pi)).max() < 0.02
    assert stderr.max() < 0.02
    for k, catalan in ((2, 1), (4, 2), (6, 5)):
        assert spectrum.moment(k).value == pytest.approx(catalan, rel=0.05)
