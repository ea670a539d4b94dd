"""Paths as weights on control points: against their definitions, SciPy's curves, and quadrature of the speed."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.interpolate import BPoly

from lrscope.landscape.path import Path, Points, combined, weights


def points(count, size=7, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(size, generator=g, dtype=torch.float64).to(dtype) for _ in range(count))


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_bezier_is_scipys(count):
    p = points(count)
    theirs = BPoly(torch.stack(p).numpy()[:, None, :], [0, 1])
    for t in (0.0, 0.1, 0.5, 0.93, 1.0):
        np.testing.assert_allclose(Path(p, "bezier", torch.float64)(t).numpy(), theirs(t), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_chain_is_linear_between_its_points(count):
    p = points(count)
    path = Path(p, "chain", torch.float64)
    knots = np.linspace(0, 1, count)
    for t in np.linspace(0, 1, 23):
        want = [np.interp(t, knots, [float(q[i]) for q in p]) for i in range(len(p[0]))]
        np.testing.assert_allclose(path(float(t)).numpy(), want, rtol=1e-12, atol=1e-14)


def test_the_sheets_formulas_for_one_bend():
    a, bend, b = points(3)
    for t in (0.0, 0.2, 0.5, 0.77, 1.0):
        bezier = (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b
        chain = 2 * (t * bend + (0.5 - t) * a) if t <= 0.5 else 2 * ((t - 0.5) * b + (1 - t) * bend)
        torch.testing.assert_close(Path((a, bend, b), "bezier", torch.float64)(t), bezier)
        torch.testing.assert_close(Path((a, bend, b), "chain", torch.float64)(t), chain)


@pytest.mark.parametrize("kind", ["bezier", "chain"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_ends_are_exact_to_the_bit(kind, dtype):
    p = points(4, size=1000, dtype=dtype)
    p[0][0], p[0][1] = -0.0, torch.finfo(dtype).tiny  # which sums and products may lose
    path = Path(p, kind, dtype)
    for t, end in ((0.0, p[0]), (1.0, p[-1])):
        assert path(t).dtype == dtype
        assert torch.equal(path(t).view(torch.uint8), end.view(torch.uint8))
        assert path(t).data_ptr() != end.data_ptr()


def test_weights_sum_to_one():
    t = np.linspace(0, 1, 101)
    for kind in ("bezier", "chain"):
        for count in (2, 3, 5, 9):
            np.testing.assert_allclose(weights(kind, t, count).sum(axis=1), 1, rtol=1e-12)


def test_half_precision_is_combined_in_single():
    a, b = torch.full((1,), 1.0, dtype=torch.bfloat16), torch.full((1,), 1.0078125, dtype=torch.bfloat16)
    found = combined((a, b), (0.5, 0.5))
    assert found.dtype == torch.float32
    assert found.item() == 1.00390625  # between two neighbours of bfloat16


def test_length_of_a_bezier_curve_by_quadrature():
    p = points(4)
    theirs = BPoly(torch.stack(p).numpy()[:, None, :], [0, 1]).derivative()
    want, _ = quad(lambda t: float(np.linalg.norm(theirs(t))), 0, 1, epsabs=1e-12)
    path = Path(p, "bezier", torch.float64)
    assert path.length == pytest.approx(want, rel=1e-9)
    t = np.linspace(0, 1, 4001)
    assert path.travelled(t)[-1] == pytest.approx(want, rel=1e-6)


def test_length_of_a_chain_is_that_of_its_segments():
    p = points(5)
    want = sum(float((q - r).norm()) for q, r in zip(p[1:], p[:-1], strict=True))
    path = Path(p, "chain", torch.float64)
    assert path.length == pytest.approx(want, rel=1e-12)
    assert path.distance == pytest.approx(float((p[-1] - p[0]).norm()), rel=1e-12)
    np.testing.assert_allclose(path.travelled(np.linspace(0, 1, 5))[-1], want)


def test_a_straight_bezier_is_as_long_as_the_distance():
    a, b = points(2)
    assert Path((a, (a + b) / 2, b), "bezier", torch.float64).length == pytest.approx(
        float((a - b).norm()), rel=1e-12
    )
    still = Path((a, a), "chain", torch.float64)
    assert still.length == still.distance == 0


@pytest.mark.parametrize("t", [-0.1, 1.5, math.nan])
def test_places_off_the_path_are_refused(t):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Path(points(2), "chain", torch.float64)(t)


def test_points_are_made_one_by_one_or_stacked():
    p = points(3)
    many = Points(p, np.random.default_rng(0).normal(size=(5, 3)), torch.float32)
    assert len(many) == 5
    assert torch.equal(many.stack(range(1, 4)), torch.stack(list(many))[1:4])
    torch.testing.assert_close(
        many[2].double(), torch.stack(p).T @ torch.from_numpy(many.weights[2]), rtol=1e-6, atol=1e-6
    )
