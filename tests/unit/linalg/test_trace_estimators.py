"""Traces and densities against matrices whose eigenvalues are known; errors against what seeds really do."""

import math

import numpy as np
import pytest
import torch

from lrscope.linalg import Estimate, hutch_pp, hutchinson, slq, xtrace
from spectra import SPECTRA, Shards, draw, matrix

ESTIMATORS = [hutchinson, hutch_pp, xtrace]
DECAY = list(1 / np.arange(1, 121) ** 2)
SPREAD = {name: SPECTRA[name] for name in ("outlier", "negative dominates", "tiny gap", "clustered")} | {
    "decay": DECAY
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def like(A):
    return torch.zeros(len(A), dtype=A.dtype)


def over_seeds(estimator, A, num_matvecs=24, seeds=150):
    found = [estimator(lambda v: A @ v, like(A), num_matvecs=num_matvecs, generator=seeded(s)) for s in range(seeds)]
    return np.array([e.value for e in found]), np.array([e.stderr for e in found])


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", SPREAD)
def test_estimates_are_unbiased_and_their_errors_are_those_of_other_seeds(estimator, name):
    A, _ = matrix(SPREAD[name])
    values, stderrs = over_seeds(estimator, A)
    errors = values - np.sum(SPREAD[name])
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(errors))
    assert 0.7 < math.sqrt((stderrs**2).mean()) / errors.std() < 1.3
    assert np.mean(abs(errors) <= 3 * stderrs) > 0.9


def test_hutchinson_has_the_variance_of_its_formula():
    A, _ = matrix(np.linspace(-1, 2, 40))
    values, _ = over_seeds(hutchinson, A, num_matvecs=5, seeds=600)
    off = A - torch.diag(A.diagonal())
    assert values.var() == pytest.approx(float(2 / 5 * (off**2).sum()), rel=0.2)


def test_sketches_win_where_eigenvalues_decay():
    A, _ = matrix(DECAY)
    spread = [over_seeds(estimator, A, seeds=60)[0].std() for estimator in ESTIMATORS]
    assert spread[0] > 10 * spread[1]
    assert spread[1] > 1.3 * spread[2]


@pytest.mark.parametrize("estimator", [hutch_pp, xtrace])
def test_low_rank_is_found_out_and_exact(estimator):
    A, _ = matrix([5.0, 4.0, -3.0] + [0.0] * 60)
    found = estimator(lambda v: A @ v, like(A), num_matvecs=30)
    assert found.value == pytest.approx(6, rel=1e-12)
    assert found.stderr == 0
    assert found.num_matvecs <= 30


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("estimator", [hutch_pp, xtrace])
def test_a_kernel_full_of_sign_vectors_does_not_deceive(estimator, seed):
    """Half of all sign vectors of length 4 are orthogonal to (1, 1, 1, 1) or nearly so; the trace is still 4."""
    found = estimator(lambda v: v.sum() * torch.ones_like(v), torch.zeros(4).double(), generator=seeded(seed))
    assert found.value == pytest.approx(4, rel=1e-9)


def test_hutchinson_is_exact_on_diagonals_and_xtrace_on_the_whole_space():
    d = draw(20)
    assert hutchinson(lambda v: d * v, d, num_matvecs=2).value == pytest.approx(float(d.sum()))
    A, _ = matrix(np.linspace(-3, 2, 12))
    assert xtrace(lambda v: A @ v, like(A), num_matvecs=24).value == pytest.approx(-6, rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_product_is_counted_and_the_seed_decides(estimator):
    A, _ = matrix(SPECTRA["outlier"])
    calls = []

    def matvec(v):
        calls.append(1)
        return A @ v

    first = estimator(matvec, like(A), num_matvecs=20, generator=seeded(3))
    assert first.num_matvecs == len(calls) == 20
    assert estimator(matvec, like(A), num_matvecs=20, generator=seeded(3)) == first
    assert estimator(matvec, like(A), num_matvecs=20, generator=seeded(4)) != first


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_good_to_its_digits(estimator, dtype):
    A, _ = matrix(DECAY)
    exact = estimator(lambda v: A @ v.double(), like(A), num_matvecs=24, generator=seeded(0))
    found = estimator(lambda v: (A @ v.double()).to(dtype), like(A).to(dtype), num_matvecs=24, generator=seeded(0))
    # other bits are drawn in another dtype, so both are compared with the truth
    for one, digits in ((exact, 1e-9), (found, 1e-2 if dtype == torch.bfloat16 else 1e-5)):
        assert abs(one.value - sum(DECAY)) < 4 * one.stderr + digits


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_product_that_is_not_finite_gives_nan(estimator):
    calls = []

    def matvec(v):
        calls.append(1)
        return v * (float("nan") if len(calls) == 4 else torch.arange(30.0))

    assert math.isnan(estimator(matvec, torch.zeros(30), num_matvecs=12).value)
    calls.clear()
    assert math.isnan(slq(matvec, torch.zeros(30), steps=5, num_probes=2).moment(1).value)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, slq])
def test_shards_agree_with_each_other_and_with_the_truth(estimator):
    A, _ = matrix([8.0, 5.0, *np.linspace(0, 1, 40)])

    def work(matvec, inner, place, rank):
        shard = torch.zeros(42, dtype=torch.float64)[place]
        more = {"num_probes": 30} if estimator is slq else {}
        return estimator(matvec, shard, generator=seeded(10 + rank), inner=inner, **more)

    first, second = Shards(29, 42).run(work, A)
    if estimator is slq:
        assert first.size == 42
        np.testing.assert_allclose(first.nodes, second.nodes)
        first, second = first.trace(), second.trace()
    assert first == second
    assert abs(first.value - 33) < 4 * first.stderr


@pytest.mark.parametrize("estimator", [*ESTIMATORS, slq])
def test_too_few_products_and_shards_without_seeds_are_refused(estimator):
    few = {"num_probes": 1} if estimator is slq else {"num_matvecs": 1}
    with pytest.raises(ValueError, match="expected at least"):
        estimator(lambda v: v, torch.zeros(9), **few)
    with pytest.raises(ValueError, match="another seed on every process"):
        estimator(lambda v: v, torch.zeros(9), inner=lambda X, Y: X @ Y.T)
    with pytest.raises(ValueError, match="at least 1 product"):
        slq(lambda v: v, torch.zeros(9), steps=0)


def test_an_estimate_prints_its_error():
    assert str(Estimate(12.3456, 0.123, 30)) == "12.346 +- 0.1 (standard error), 30 products"


@pytest.mark.parametrize("name", SPECTRA)
def test_every_run_is_the_gauss_rule_of_its_vector(name):
    """m steps from v integrate every power below 2m exactly: sum w x^k = v' A^k v."""
    A, _ = matrix(SPECTRA[name])
    A = A / max(float(A.norm()), 1e-30)
    spectrum = slq(lambda v: A @ v, like(A), steps=4, num_probes=3, generator=seeded(7))
    generator = seeded(7)
    for nodes, weights in zip(spectrum.nodes, spectrum.weights, strict=True):
        v = torch.randn(len(A), dtype=torch.float64, generator=generator)
        v = power = v / v.norm()
        for k in range(8):
            assert float((weights * nodes**k).sum()) == pytest.approx(float(v @ power), abs=1e-12)
            power = A @ power
    assert spectrum.weights.sum(1) == pytest.approx(1)


@pytest.mark.parametrize("name", SPREAD)
def test_moments_and_functions_are_those_of_the_eigenvalues(name):
    eigenvalues = np.array(SPREAD[name])
    A, _ = matrix(eigenvalues)
    spectrum = slq(lambda v: A @ v, like(A), steps=20, num_probes=40)
    assert spectrum.num_matvecs == 800
    for k in range(5):
        found = spectrum.moment(k)
        assert abs(found.value - (eigenvalues**k).mean()) < 4 * found.stderr + 1e-12
    assert abs(spectrum.trace().value - eigenvalues.sum()) < 4 * spectrum.trace().stderr
    soft = spectrum.trace(lambda x: np.exp(x / 5))
    assert abs(soft.value - np.exp(eigenvalues / 5).sum()) < 4 * soft.stderr


def test_the_density_is_the_smoothed_one_within_its_errors():
    eigenvalues = np.array([10.0, *np.linspace(-1, 1, 60)])
    A, _ = matrix(eigenvalues)
    spectrum = slq(lambda v: A @ v, like(A), steps=61, num_probes=60)
    grid = np.linspace(-3, 12, 1500)
    density, stderr = spectrum.density(grid, width=0.2)
    exact = (np.exp(-0.5 * ((grid[:, None] - eigenvalues) / 0.2) ** 2) / (0.2 * math.sqrt(2 * math.pi))).mean(1)
    seen = exact > 1e-3 * exact.max()
    assert np.mean(abs(density - exact)[seen] < 3 * stderr[seen]) > 0.97
    assert np.trapezoid(density, grid) == pytest.approx(1, rel=1e-6)
    top = np.trapezoid(density[grid > 5], grid[grid > 5])
    assert top == pytest.approx(1 / 61, abs=4 * np.trapezoid(stderr[grid > 5], grid[grid > 5]))


@pytest.mark.parametrize("value", [0.0, 1.0, -3e-7])
def test_a_single_eigenvalue_has_a_density_of_finite_width(value):
    spectrum = slq(lambda v: value * v, torch.zeros(8, dtype=torch.float64), num_probes=2)
    assert spectrum.num_matvecs == 2
    grid = spectrum.grid(2000)
    assert np.trapezoid(spectrum.density(grid)[0], grid) == pytest.approx(1, rel=1e-6)
    assert grid[spectrum.density(grid)[0].argmax()] == pytest.approx(value, rel=1e-2, abs=1e-4)


def test_wrong_widths_and_powers_are_refused():
    spectrum = slq(lambda v: v, torch.zeros(8), num_probes=2)
    with pytest.raises(ValueError, match="width: expected a positive"):
        spectrum.density(width=0.0)
    with pytest.raises(ValueError, match="k: expected"):
        spectrum.moment(-1)
