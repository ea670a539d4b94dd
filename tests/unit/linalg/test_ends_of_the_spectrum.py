"""Both ends and the largest magnitude, one by one and in blocks, whole and in shards."""

import numpy as np
import pytest
import torch

from lrscope.linalg import lanczos, lobpcg, power_iteration
from spectra import SPECTRA, Shards, draw, matrix

END = {"largest": lambda s: -s, "smallest": lambda s: s, "magnitude": lambda s: -abs(s)}


def wanted(spectrum, which, count):
    return np.array(sorted(np.asarray(spectrum), key=END[which]))[:count]


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(
    ("solver", "which"),
    [
        (lanczos, "largest"),
        (lanczos, "smallest"),
        (lanczos, "magnitude"),
        (lobpcg, "largest"),
        (lobpcg, "smallest"),
    ],
)
def test_prescribed_spectra_are_reproduced_and_residuals_are_true(name, solver, which):
    A, _ = matrix(SPECTRA[name])
    found = solver(lambda v: A @ v, draw(len(A), 3), count=3, which=which, tol=1e-8, max_matvecs=2000)
    assert found.converged
    V = found.vectors
    torch.testing.assert_close(V.T @ V, torch.eye(3, dtype=V.dtype))
    torch.testing.assert_close(found.residuals, (A @ V - V * found.values).norm(dim=0), rtol=1e-4, atol=1e-13)
    values = found.values.numpy()
    if which == "magnitude":  # two of equal magnitude and opposite sign may come in either order
        values, expected = abs(values), abs(wanted(SPECTRA[name], which, 3))
    else:
        expected = wanted(SPECTRA[name], which, 3)
    np.testing.assert_allclose(values, expected, atol=1e-7)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_single_precision_reports_the_residual_that_double_precision_sees(which):
    """300 iterations of combining images must not let them drift from the products they stand for."""
    A, _ = matrix(np.linspace(0, 1, 200) ** 2)
    A32 = A.float()
    found = lobpcg(lambda v: A32 @ v, draw(200).float(), which=which, tol=1e-7, max_matvecs=300)
    v = found.vectors[:, 0].double()
    true = (A @ v - found.values.double() * v).norm()
    assert abs(float(true - found.residuals[0])) < 1e-6
    assert float(v.norm()) == pytest.approx(1, abs=1e-6)


def test_a_warm_block_saves_products():
    A, _ = matrix([10.0, 9.9, *np.linspace(0, 8, 100)])
    cold = lobpcg(lambda v: A @ v, draw(102, 2), count=2, tol=1e-4)
    moved = A + 1e-3 * torch.diag(draw(102, seed=4))
    warm = lobpcg(lambda v: moved @ v, cold.vectors, count=2, tol=1e-4)
    assert warm.converged
    assert warm.num_matvecs <= cold.num_matvecs / 3
    assert lobpcg(lambda v: A @ v, cold.vectors, count=2, tol=1e-4).num_matvecs == 2


def test_a_random_column_beside_a_wrong_start_finds_what_it_hides():
    A, Q = matrix([10.0, 9.0, *np.linspace(-1, 6, 100)])
    hidden = lobpcg(lambda v: A @ v, Q[:, 1], tol=1e-2)
    assert float(hidden.values[0]) == pytest.approx(9)  # the residual is zero: all looks well
    start = torch.stack([Q[:, 1], draw(102)], dim=1)
    assert float(lobpcg(lambda v: A @ v, start, count=2, tol=1e-3).values[0]) == pytest.approx(10, rel=1e-4)


def test_a_good_preconditioner_saves_products():
    d = torch.logspace(-4, 0, 150, dtype=torch.float64)
    Q = torch.linalg.qr(torch.eye(150, dtype=torch.float64) + 0.02 * draw(150, 150))[0]
    A = Q @ torch.diag(d) @ Q.T

    def products(precondition):
        found = lobpcg(
            lambda v: A @ v, draw(150), which="smallest", atol=1e-6, precondition=precondition, max_matvecs=2000
        )
        assert found.converged
        return found.num_matvecs

    assert products(lambda r: torch.linalg.solve(A, r)) < products(None) / 4


@pytest.mark.parametrize("solver", [lanczos, lobpcg])
def test_the_budget_holds_and_says_so(solver):
    A, _ = matrix(np.linspace(0, 1, 50))
    for budget in (1, 2, 3, 7, 10):
        calls = []
        found = solver(
            lambda v, calls=calls: (calls.append(1), A @ v)[1], draw(50, 2), count=2, tol=1e-12, max_matvecs=budget
        )
        assert found.num_matvecs == len(calls) == budget
        assert not found.converged
        nearest = (torch.linspace(0, 1, 50, dtype=torch.float64)[:, None] - found.values).abs().amin(0)
        assert (nearest <= found.residuals + 1e-12).all()


@pytest.mark.parametrize("solver", [lanczos, lobpcg])
def test_the_whole_space_is_exact(solver):
    A, _ = matrix([3.0, 1.0, -2.0])
    found = solver(lambda v: A @ v, draw(3), count=3, which="smallest", tol=1e-12)
    np.testing.assert_allclose(found.values.numpy(), [-2, 1, 3], atol=1e-12)
    assert found.num_matvecs == 3
    one = solver(lambda v: -4 * v, torch.ones(1, dtype=torch.float64), tol=1e-12)
    assert (one.values.tolist(), one.num_matvecs, one.converged) == ([-4.0], 1, True)


@pytest.mark.parametrize("solver", [lanczos, lobpcg])
def test_a_product_that_is_not_finite_ends_the_solve(solver):
    calls = []

    def matvec(v):
        calls.append(1)
        return v * (float("nan") if len(calls) == 3 else torch.arange(1.0, 9.0, dtype=v.dtype))

    assert not solver(matvec, draw(8), tol=1e-12).converged
    assert len(calls) == 3


@pytest.mark.parametrize("solver", [lanczos, lobpcg])
def test_half_precision_is_solved_in_single(solver):
    A, _ = matrix([4.0, *np.linspace(0, 1, 20)])
    found = solver(lambda v: (A @ v.double()).to(v), draw(21).bfloat16(), tol=1e-4)
    assert found.values.dtype == torch.float32
    assert float(found.values[0]) == pytest.approx(4, rel=1e-6)


def test_an_eigenvalue_at_zero_is_found_to_an_absolute_residual():
    A, _ = matrix(SPECTRA["singular"])
    exact = lanczos(lambda v: A @ v, draw(40), which="smallest", tol=1e-3)
    rough = lanczos(lambda v: A @ v, draw(40), which="smallest", tol=1e-3, atol=1e-2)
    assert exact.converged
    assert rough.converged
    assert rough.num_matvecs < exact.num_matvecs
    assert float(exact.values[0]) == pytest.approx(0, abs=1e-12)
    assert float(rough.values[0]) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("which", ["smallest", "magnitude"])
def test_guard_works_at_every_end(which):
    A, Q = matrix([-10.0, -9.5, *np.linspace(-1, 6, 100)])
    assert lanczos(lambda v: A @ v, Q[:, 1], which=which).num_matvecs == 1
    guarded = lanczos(lambda v: A @ v, Q[:, 1], which=which, guard=3)
    assert float(guarded.values[0]) == pytest.approx(-10, rel=1e-3)


SOLVES = {
    "lanczos": lambda m, v, inner: lanczos(m, v, count=2, which="smallest", tol=1e-6, max_basis=12, inner=inner),
    "lobpcg": lambda m, v, inner: lobpcg(m, v, count=2, tol=1e-4, max_matvecs=500, inner=inner),
    "power": lambda m, v, inner: power_iteration(m, v, tol=1e-4, inner=inner),
}


@pytest.mark.parametrize("name", SOLVES)
def test_sharded_vectors_give_what_whole_ones_give(name):
    """The second worker holds a single entry, so nothing may rest on local lengths."""
    A, _ = matrix([-7.0, 6.0, *np.linspace(-3, 3, 40)])
    start = draw(42)
    whole = SOLVES[name](lambda v: A @ v, start, lambda X, Y: X @ Y.T)
    first, second = Shards(41, 42).run(lambda m, inner, place, rank: SOLVES[name](m, start[place], inner), A)
    assert first.converged
    assert first.num_matvecs == second.num_matvecs
    torch.testing.assert_close(first.values, second.values, rtol=0, atol=0)
    torch.testing.assert_close(first.values, whole.values, rtol=1e-8, atol=1e-8)
    vectors = torch.cat([first.vectors, second.vectors])
    residuals = (A @ vectors - vectors * first.values).norm(dim=0)
    torch.testing.assert_close(residuals, first.residuals, rtol=1e-4, atol=1e-10)


def test_unknown_ends_and_blocks_that_do_not_fit_are_refused_before_any_product():
    def matvec(v):
        raise AssertionError("no product was asked for")

    with pytest.raises(ValueError, match="'largest', 'smallest' or 'magnitude', got 'top'"):
        lanczos(matvec, draw(9), which="top")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="lanczos also takes 'magnitude'"):
        lobpcg(matvec, draw(9), which="magnitude")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="4 columns does not fit into 3 dimensions"):
        lobpcg(matvec, draw(3), count=4)
