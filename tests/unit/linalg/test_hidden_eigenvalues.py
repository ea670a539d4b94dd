"""How often a random start hides the largest eigenvalue, and how often it was said to."""

import math

import numpy as np
import pytest
import torch

from lrscope.linalg import lanczos
from spectra import SPECTRA, Shards, draw, matrix

BULK = np.concatenate([np.random.default_rng(0).normal(size=500) ** 3 / 30, np.linspace(0.3, 0.7, 12)])
CLOSE = torch.tensor([1.0, 0.95, *BULK.clip(-0.8, 0.8)], dtype=torch.float64)
"""A bulk with a tail and two eigenvalues 5 % apart: the second is easily taken for the first at a tolerance of 1 %."""


def runs(spectrum, num=300, **more):
    return [lanczos(lambda v: spectrum * v, draw(len(spectrum), seed=s), tol=1e-2, **more) for s in range(num)]


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_the_bound_is_kept_where_plain_stopping_is_often_wrong(which):
    spectrum = -CLOSE if which == "smallest" else CLOSE
    wrong = {
        risk: sum(abs(float(r.values[0])) < 0.99 for r in runs(spectrum, risk=risk, which=which))
        for risk in (None, 0.05, 1e-3)
    }
    assert wrong[None] >= 5
    assert wrong[0.05] < 300 * 0.05
    assert wrong[1e-3] == 0


def test_the_answer_tells_its_risk_and_what_it_cost():
    plain, careful = runs(CLOSE, 50), runs(CLOSE, 50, risk=1e-2)
    assert all(math.isnan(r.risk) for r in plain)
    assert all(r.converged and r.risk <= 1e-2 for r in careful)
    extra = np.mean([r.num_matvecs for r in careful]) - np.mean([r.num_matvecs for r in plain])
    assert 0 < extra < 5


@pytest.mark.parametrize("name", SPECTRA)
def test_no_eigenvalue_is_beyond_the_value_by_more_than_the_bound_allows(name):
    """c^2 <= 1 / K holds for every start, so a hidden eigenvalue shows that its component was that small."""
    A, Q = matrix(SPECTRA[name])
    values = torch.tensor(SPECTRA[name], dtype=torch.float64)
    for seed in range(20):
        start = draw(len(A), seed=seed)
        for most in (3, 5, 8):
            found = lanczos(lambda v: A @ v, start, tol=0.3, risk=0.999, max_matvecs=most)
            if not found.converged:
                continue
            hidden = values > found.values[0] + 0.3 * found.values[0].abs() + 1e-9
            components = (Q.T @ (start / start.norm()))[hidden].abs()
            assert (components * math.sqrt(2 * len(A) / math.pi) <= found.risk + 1e-9).all()


def test_the_bound_is_kept_across_restarts():
    found = runs(CLOSE, 100, risk=0.05, max_basis=4)
    assert all(r.converged and r.risk <= 0.05 for r in found)
    assert sum(float(r.values[0]) < 0.99 for r in found) < 100 * 0.05
    assert all(float(r.values[0]) >= 0.99 for r in runs(CLOSE, 40, risk=1e-3, max_basis=4))


def test_a_spent_budget_is_not_converged():
    plain = lanczos(lambda v: CLOSE * v, draw(len(CLOSE)), tol=1e-2)
    assert plain.converged
    spent = lanczos(lambda v: CLOSE * v, draw(len(CLOSE)), tol=1e-2, risk=1e-6, max_matvecs=plain.num_matvecs)
    assert not spent.converged
    assert spent.risk > 1e-6


def test_nothing_hides_in_an_exhausted_space():
    for A in (3 * torch.eye(6).double(), torch.zeros(6, 6).double(), matrix([4.0, 1.0, -2.0])[0]):
        found = lanczos(lambda v, A=A: A @ v, draw(len(A)), tol=1e-9, risk=1e-9)
        assert found.converged
        assert found.risk < 1e-6


def test_shards_share_the_bound():
    A, _ = matrix([5.0, 4.8, *np.linspace(-1, 4, 60)])
    start = draw(62)
    whole = lanczos(lambda v: A @ v, start, risk=1e-3)
    first, second = Shards(40, 62).run(
        lambda m, inner, place, rank: lanczos(m, start[place], risk=1e-3, inner=inner), A
    )
    assert first.num_matvecs == second.num_matvecs == whole.num_matvecs
    assert first.risk == pytest.approx(second.risk, rel=1e-6)
    assert first.risk == pytest.approx(whole.risk, rel=1e-3)


def test_a_risk_needs_a_probability_and_one_vector():
    for risk, start in ((0.0, draw(9)), (1.0, draw(9)), (0.1, draw(9, 2))):
        with pytest.raises(ValueError, match="risk: expected a probability"):
            lanczos(lambda v: v, start, risk=risk)
