"""Following the top eigenvalue of a moving matrix, and the regression behind it."""

import pytest
import torch

from lrscope.linalg import EigenTracker, ProductMemory

SIZE = 40


def family(seed=0):
    """A symmetric matrix that is affine in theta, with two large eigenvalues that cross on the way."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator))
    base = torch.cat([torch.tensor([3.0, 2.0]), torch.linspace(-0.5, 1, SIZE - 2)]).double()
    slope = torch.zeros(SIZE, dtype=torch.float64)
    slope[0], slope[1] = -1.0, 1.0
    A0, A1 = Q @ torch.diag(base) @ Q.T, Q @ torch.diag(slope) @ Q.T
    tilt = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator) / SIZE**0.5
    A1 = A1 + 0.05 * (tilt + tilt.T)
    return lambda theta: A0 + theta[0] * A1


def theta(s):
    out = torch.zeros(SIZE, dtype=torch.float64)
    out[0] = s
    return out


def follow(tracker, path):
    A, errors = family(), []
    for s in path:
        pairs = tracker.update(lambda v, s=s: A(theta(s)) @ v, theta(s))
        top = torch.linalg.eigvalsh(A(theta(s)))[-1]
        errors.append(abs(float(pairs.values[0] / top) - 1))
    return errors


def test_a_crossing_is_followed_within_the_budget():
    calls = [0]
    tracker, A, errors = EigenTracker(tol=1e-2), family(), []
    path = torch.linspace(0, 1, 120).tolist()  # at 0.5 the leading vector changes
    for s in path:
        pairs = tracker.update(lambda v, s=s: A(theta(s)) @ v, theta(s))
        calls[0] += pairs.num_matvecs
        errors.append(abs(float(pairs.values[0] / torch.linalg.eigvalsh(A(theta(s)))[-1]) - 1))
    assert max(errors) < 0.02
    assert calls[0] <= 1.25 * len(path) + 15


def test_period_two_oscillation_is_followed_although_the_vector_swaps_every_step():
    path = [0.5 + 0.3 * (-1) ** t + 0.0005 * t for t in range(80)]
    errors = follow(EigenTracker(tol=1e-2), path)
    assert max(errors[20:]) < 0.01


def test_a_matrix_that_stands_still_costs_one_product_and_a_rare_look():
    tracker = EigenTracker()
    A = family()(theta(0.2))
    pairs = [tracker.update(lambda v: A @ v, theta(0.2)) for _ in range(40)][10:]
    assert sum(p.num_matvecs for p in pairs) <= 30 + 6
    assert all(p.converged for p in pairs)


def test_interrupting_changes_nothing():
    path = [0.01 * t for t in range(30)]
    whole, first, second = EigenTracker(), EigenTracker(), EigenTracker()
    errors = follow(whole, path)
    follow(first, path[:13])
    second.load_state_dict(first.state_dict())
    assert follow(second, path[13:]) == errors[13:]


def test_a_product_that_is_not_finite_is_reported_and_forgotten():
    tracker = EigenTracker()
    A = family()(theta(0.0))
    tracker.update(lambda v: A @ v, theta(0.0))
    bad = tracker.update(lambda v: v * float("nan"), theta(0.0))
    assert bad.values.isnan().all()
    assert not bad.converged
    good = tracker.update(lambda v: A @ v, theta(0.0))
    assert float(good.values[0]) == pytest.approx(float(torch.linalg.eigvalsh(A)[-1]), rel=1e-2)


def test_memory_recovers_an_affine_matrix_from_its_products():
    A, memory = family(), ProductMemory(40, rank=3, num_coordinates=1, decay=1.0, ridge=1e-10)
    generator = torch.Generator().manual_seed(5)
    Q = torch.linalg.qr(torch.randn(SIZE, 3, dtype=torch.float64, generator=generator))[0]
    A = {s: Q @ (torch.diag(torch.tensor([3.0, 2.0, 1.0]).double()) * (1 + s)) @ Q.T for s in (0.1, 0.2, 0.4, 0.7)}
    for s, M in A.items():
        for _ in range(5):
            x = Q @ torch.randn(3, dtype=torch.float64, generator=generator)
            x = x / x.norm()
            memory.add(x, M @ x, theta(s), 0)
    C, T = memory.predict(theta(0.5), 1)
    V = memory.combine(C)
    torch.testing.assert_close(torch.linalg.eigvalsh(T), torch.tensor([1.5, 3.0, 4.5]).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(V @ V.T, torch.eye(3, dtype=torch.float64))


def test_the_zero_matrix_is_followed_at_zero():
    tracker = EigenTracker()
    for _ in range(3):
        assert tracker.update(lambda v: 0 * v, theta(0.0)).values.tolist() == [0]
