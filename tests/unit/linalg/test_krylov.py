"""What is known of a matrix on a subspace, after any sequence of steps, is what the matrix does there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope.linalg.krylov import BLOCK, Krylov
from lrscope.linalg.pairs import dot
from spectra import draw, matrix

SIZE = 30
A, Q = matrix([9.0, 8.0, *np.linspace(-3, 5, SIZE - 2)])


def space_of(start, limit=SIZE, product=lambda v: A @ v):
    space = Krylov(product, start, limit, "largest", dot)
    space.join(start)
    return space


def rows(space):
    return space.basis.combine(np.eye(len(space)))


def relation(space, matrix):
    """A V' - V'H - R'C, which shall be zero."""
    V = rows(space)
    dtype = V.dtype
    H, C = torch.tensor(space.H, dtype=dtype), torch.tensor(space.C, dtype=dtype)
    return (matrix.to(dtype) @ V.T - V.T @ H - space.R.T @ C).norm()


def orthonormal(space):
    both = torch.cat([rows(space), space.R])
    return (both @ both.T - torch.eye(len(both), dtype=both.dtype)).abs().max()


STEPS = st.lists(st.sampled_from(["grow", "grow last", "join", "join inside", "shrink"]), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 99))
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-3)])
def test_every_sequence_of_steps_keeps_the_relation(dtype, close, steps, seed):
    space = space_of(draw(SIZE, seed=seed).to(dtype), product=lambda v: A.to(dtype) @ v)
    for i, step in enumerate(steps):
        if len(space) >= SIZE - 1:
            break
        if step == "grow":
            space.grow(space.ritz(1)[1][:, 0])
        elif step == "grow last":
            space.grow()
        elif step == "join":
            space.join(draw(SIZE, seed=1000 * seed + i).to(dtype))
        elif step == "join inside":  # where the last product led, and a little more
            inside = space.R.sum(0) if len(space.R) else rows(space)[0]
            space.join(inside + 1e-3 * draw(SIZE, seed=i).to(dtype))
        elif len(space) > 2:
            space.shrink(len(space) // 2)
    assert relation(space, A) < close
    assert orthonormal(space) < close
    values, S, residuals, _ = space.ritz(3)
    X = space.vectors(S)
    true = (A.to(dtype) @ X.T - X.T * torch.tensor(values, dtype=dtype)).norm(dim=0)
    np.testing.assert_allclose(residuals, true.numpy(), atol=close)


def test_residuals_are_the_true_ones_for_a_product_that_is_not_quite_symmetric():
    noise = 1e-2 * draw(SIZE, SIZE, seed=5)
    start = draw(SIZE)
    space = space_of(start, product=lambda v: A @ v + noise @ v)
    for _ in range(9):
        space.grow()
    values, S, residuals, _ = space.ritz(2)
    X = space.vectors(S).T
    true = (A @ X + noise @ X - X * torch.tensor(values)).norm(dim=0)
    np.testing.assert_allclose(residuals, true.numpy(), rtol=1e-9)
    assert residuals[0] > 1e-3


@pytest.mark.parametrize("restarts", [False, True])
def test_where_the_space_leads_is_known_for_every_eigenvector_from_its_component_in_the_start(restarts):
    """u'R = c rho(mu) with the recursion that the risk rests on, also across restarts."""
    start = draw(SIZE)
    space = space_of(start)
    for _ in range(8):
        if restarts and len(space) == 4:
            space.shrink(2)
        space.grow()
    V, R = rows(space), space.R[0]
    for mu, u in zip((9.0, 8.0, 5.0), Q.T[[0, 1, SIZE - 1]], strict=True):
        c = abs(float(u @ start) / float(start.norm()))
        seen = float((V @ u).norm() ** 2 + (R @ u) ** 2) ** 0.5
        assert seen <= 1 + 1e-12
        # The bound is c / seen at its smallest, and never below the component itself.
        assert c <= space.component(mu) * (1 + 1e-9)
        assert space.component(mu) <= c / seen * (1 + 1e-6)


def test_a_space_that_leads_nowhere_says_so_and_hides_nothing():
    space = space_of(Q[:, 3])
    assert not space.grow()
    assert not space.join(Q[:, 3])
    assert space.num_matvecs == 1
    assert space.component(9.0) == 0


def test_rotations_are_the_same_however_many_blocks_and_strips(monkeypatch):
    monkeypatch.setattr("lrscope.linalg.krylov.STRIP", 7)
    space = space_of(draw(SIZE))
    for _ in range(2 * BLOCK + 1):
        space.grow()
    S = space.ritz(BLOCK + 2)[1]
    expected = space.basis.combine(S)
    space.shrink(BLOCK + 2)
    torch.testing.assert_close(rows(space), expected)
    assert relation(space, A) < 1e-11
