"""Similarities against other roads to the same number: closed forms, SciPy, scikit-learn, the formulas as published.

The shape metrics' own package (netrep) is not on the package index; its linear metric is written out here with
SciPy's ``orthogonal_procrustes``. cca-zoo is not a dependency; its test runs where it is installed.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.cross_decomposition import CCA as SklearnCCA

from lrscope.similarity import cca, cka, procrustes, pwcca, svcca

pytestmark = pytest.mark.filterwarnings("ignore::lrscope.LrscopeWarning")  # small data on purpose
SHAPES = {"tall": (400, 8, 5), "equal": (300, 6, 6), "narrow x": (250, 3, 10)}


def data(shape, seed=0, dtype=np.float64):
    n, d1, d2 = SHAPES[shape]
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 4))
    x = hidden @ rng.normal(size=(4, d1)) + rng.normal(size=(n, d1)) * np.logspace(-1, 1, d1) + rng.normal(size=d1)
    y = hidden @ rng.normal(size=(4, d2)) + rng.normal(size=(n, d2)) - 5
    return x.astype(dtype), y.astype(dtype)


def centred(*arrays):
    return [a - a.mean(0) for a in arrays]


def by_scipy(x, y):
    """Canonical correlations from the generalized eigenproblem of the joint covariance."""
    x, y = centred(x, y)
    zero, cross = np.zeros, x.T @ y
    d1, d2 = cross.shape
    left = np.block([[zero((d1, d1)), cross], [cross.T, zero((d2, d2))]])
    right = scipy.linalg.block_diag(x.T @ x, y.T @ y)
    return scipy.linalg.eigh(left, right, eigvals_only=True)[::-1][: min(d1, d2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_cca_is_the_generalized_eigenproblem(shape, seed):
    x, y = data(shape, seed)
    assert np.allclose(cca(x, y).correlations, by_scipy(x, y), atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_cca_is_that_of_scikit_learn(shape):
    x, y = data(shape)
    count = min(x.shape[1], y.shape[1])
    a, b = SklearnCCA(n_components=count, max_iter=20_000, tol=1e-12).fit_transform(x, y)
    theirs = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(count)]
    assert np.allclose(cca(x, y).correlations, np.sort(np.abs(theirs))[::-1], atol=1e-4)  # theirs is iterative


@pytest.mark.parametrize("shape", SHAPES)
def test_cca_is_that_of_cca_zoo(shape):
    linear = pytest.importorskip("cca_zoo.linear")
    x, y = data(shape)
    count = min(x.shape[1], y.shape[1])
    a, b = linear.CCA(n_components=count).fit_transform([x, y])
    theirs = [abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) for i in range(count)]
    assert np.allclose(cca(x, y).correlations, np.sort(theirs)[::-1], atol=1e-8)


def covariance_road(x, y):
    """The formulation of the public SVCCA code: inverse roots of covariances, then an SVD; units are rows."""
    x, y = x.T, y.T
    d1 = len(x)
    covariance = np.cov(x, y)
    sxx, sxy, syy = covariance[:d1, :d1], covariance[:d1, d1:], covariance[d1:, d1:]

    def inverse_root(matrix):
        values, vectors = np.linalg.eigh(np.linalg.pinv(matrix, hermitian=True))
        return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T

    ix, iy = inverse_root(sxx), inverse_root(syy)
    u, s, _ = np.linalg.svd(ix @ sxy @ iy)
    return u, s, ix, x - x.mean(1, keepdims=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_pwcca_is_its_published_formula_on_the_activations(shape, seed):
    x, y = data(shape, seed)
    u, rho, root, units = covariance_road(x, y)
    count = len(rho)
    variables = u.T[:count] @ root @ units  # canonical variables of x over the examples
    variables /= np.linalg.norm(variables, axis=1, keepdims=True)
    alpha = np.abs(variables @ units.T).sum(1)
    expected = (alpha * rho).sum() / alpha.sum()
    assert pwcca(x, y).similarity == pytest.approx(expected, abs=1e-9)
    assert np.allclose(pwcca(x, y).weights, alpha / alpha.sum(), atol=1e-8)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_svcca_is_svd_then_cca(shape, variance):
    x, y = data(shape)
    kept = []
    for a in centred(x, y):
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        share = np.cumsum(s**2) / (s**2).sum()
        count = min(int((share < variance - 1e-12).sum()) + 1, len(s))
        kept.append((u[:, :count] * s[:count]) @ np.eye(count))
    result = svcca(x, y, variance=variance)
    assert result.ranks == (kept[0].shape[1], kept[1].shape[1])
    assert np.allclose(result.correlations, by_scipy(*kept), atol=1e-10)


def test_svcca_of_more_units_than_examples_is_svd_then_cca():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(60, 5)) * 10
    x, y = (hidden @ rng.normal(size=(5, d)) + 0.3 * rng.normal(size=(60, d)) for d in (200, 150))
    basis = []
    for a in centred(x, y):
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        basis.append(u[:, : int((np.cumsum(s**2) < 0.98 * (s**2).sum()).sum()) + 1])
    result = svcca(x, y, variance=0.98)
    assert np.allclose(result.correlations, np.linalg.svd(basis[0].T @ basis[1])[1], atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_cka_is_the_normalised_hsic_of_gram_matrices(shape, seed):
    x, y = data(shape, seed)
    n = len(x)
    centring = np.eye(n) - 1 / n
    K, L = (centring @ (a @ a.T) @ centring for a in (x, y))
    assert cka(x, y).similarity == pytest.approx((K * L).sum() / np.linalg.norm(K) / np.linalg.norm(L), abs=1e-11)


def song(K, L):
    """The unbiased HSIC as Song et al. write it, on kernels that are not centred, the diagonal set to 0."""
    n, one = len(K), np.ones(len(K))
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    middle = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + middle - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch", [None, 50])
def test_debiased_cka_is_song_et_al_whole_and_in_batches(shape, batch):
    x, y = data(shape)
    step = batch or len(x)
    pairs = [(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)]
    grams = [(a @ a.T, b @ b.T) for a, b in pairs]
    xy, xx, yy = (
        np.mean([song(*kernels) for kernels in chosen])
        for chosen in (grams, [(K, K) for K, _ in grams], [(L, L) for _, L in grams])
    )
    ours = cka(x, y, debiased=True, batch_size=batch).similarity
    assert ours == pytest.approx(xy / math.sqrt(xx * yy), abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_shape_distance_is_what_the_best_rotation_leaves(shape, seed):
    x, y = centred(*data(shape, seed))
    width = max(x.shape[1], y.shape[1])
    a, b = (np.pad(t, ((0, 0), (0, width - t.shape[1]))) for t in (x, y))
    raw = procrustes(x, y, metric="euclidean", normalised=False)
    rotation, _ = scipy.linalg.orthogonal_procrustes(b, a)
    assert raw.distance == pytest.approx(np.linalg.norm(a - b @ rotation), rel=1e-10)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    rotation, _ = scipy.linalg.orthogonal_procrustes(b, a)
    assert procrustes(x, y, metric="euclidean").distance == pytest.approx(np.linalg.norm(a - b @ rotation), rel=1e-9)
    assert procrustes(x, y).distance == pytest.approx(np.arccos((a * (b @ rotation)).sum()), rel=1e-9)


# Closed form: jointly normal data whose canonical correlations are known, mixed by known matrices.

RHO = torch.tensor([0.95, 0.7, 0.4, 0.0], dtype=torch.float64)


def normal(n, seed):
    g = torch.Generator().manual_seed(seed)
    a, noise = torch.randn(2, n, 4, generator=g, dtype=torch.float64)
    b = RHO * a + (1 - RHO**2).sqrt() * noise
    mix = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return a @ mix[0] + 1, b @ mix[1] - 2, mix


def population(mix):
    """Each measure on the covariances themselves."""
    sxx, syy = mix[0].T @ mix[0], mix[1].T @ mix[1]
    sxy = mix[0].T @ torch.diag(RHO) @ mix[1]
    frobenius = torch.linalg.norm
    alpha = mix[0].abs().sum(1)  # canonical variables are the a's; their products with the units are rows of the mix
    return {
        cca: RHO.mean(),
        pwcca: (alpha * RHO).sum() / alpha.sum(),
        cka: frobenius(sxy) ** 2 / frobenius(sxx) / frobenius(syy),
        procrustes: torch.linalg.svdvals(sxy).sum() / torch.sqrt(torch.trace(sxx) * torch.trace(syy)),
    }


@pytest.mark.parametrize("measure", [cca, pwcca, cka, procrustes])
def test_estimates_converge_to_the_population_at_the_usual_rate(measure):
    truth = float(population(normal(4, 0)[2])[measure])
    errors = []
    for n in (500, 50_000):
        found = [float(measure(*normal(n, seed)[:2])) for seed in range(8)]
        errors.append(math.sqrt(np.mean([(f - truth) ** 2 for f in found])))
    assert errors[1] < 0.004
    assert 4 < errors[0] / errors[1] < 25  # 10, were eight draws enough to know it


def test_debiased_cka_has_no_bias_where_the_plain_one_has():
    truth = float(population(normal(4, 0)[2])[cka])
    n, draws = 25, 400
    plain, debiased = (
        np.array([float(cka(*normal(n, seed)[:2], debiased=d)) for seed in range(draws)]) for d in (False, True)
    )
    assert plain.mean() - truth > 4 * plain.std() / math.sqrt(draws)
    assert abs(debiased.mean() - truth) < 0.5 * (plain.mean() - truth)


@pytest.mark.slow
def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Also for debiased CKA, for which drawing with replacement covers it less than half of the time."""
    truth = population(normal(4, 0)[2])
    for measure, options in ((cca, {}), (cka, {}), (cka, {"debiased": True})):
        covered = []
        for seed in range(60):
            found = measure(*normal(200, 1000 + seed)[:2], bootstrap=80, seed=seed, **options).interval
            covered.append(found.low <= float(truth[measure]) <= found.high)
        assert np.mean(covered) >= 0.83  # 0.95 less four standard errors of 60 draws


@pytest.mark.slow
@pytest.mark.parametrize(("debiased", "usual"), [(False, "percentile"), (True, "reflected")])
def test_halves_cover_where_drawing_with_replacement_does_not(debiased, usual):
    """The comparison on the page: 1,000 examples of 20 units whose CKA is known."""
    n, d, draws = 1000, 20, 60
    rho = torch.linspace(0.9, 0.1, d, dtype=torch.float64)
    truth = float((rho**2).mean())
    rng, covered = torch.Generator().manual_seed(1), {"halves": 0, "usual": 0}
    for seed in range(draws):
        x, noise = torch.randn(2, n, d, generator=rng, dtype=torch.float64)
        y = rho * x + (1 - rho**2).sqrt() * noise
        found = cka(x, y, debiased=debiased, bootstrap=60, seed=seed)
        covered["halves"] += found.interval.low <= truth <= found.interval.high
        again = [torch.randint(n, (n,), generator=rng) for _ in range(60)]
        low, high = np.quantile([float(cka(x[i], y[i], debiased=debiased)) for i in again], [0.025, 0.975])
        if usual == "reflected":
            low, high = 2 * found.similarity - high, 2 * found.similarity - low
        covered["usual"] += low <= truth <= high
    assert covered["halves"] >= 0.83 * draws
    assert covered["usual"] <= 0.7 * draws
