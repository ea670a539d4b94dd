"""Deep linear chains against matrix networks in torch, and what is proved of their minima."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrscope import Objective, sharpness
from lrscope.solvable import UV, DeepLinear

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(depth=st.integers(2, 5), modes=st.integers(1, 3), seed=st.integers(0, 99), share=st.floats(0.1, 0.9))
def test_chains_are_an_aligned_matrix_network_trained_by_sgd(depth, modes, seed, share):
    model = DeepLinear(
        randn(modes, seed=seed).tolist(), depth, (0.6 + 0.3 * randn(depth, modes, seed=seed + 1)).tolist()
    )
    lr = share * min(model.critical_lr, model.max_lr)
    net, run = model.net(seed), model.run(lr, 15)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for step in range(run.steps + 1):
        loss = net.loss()
        assert float(loss.detach()) == pytest.approx(float(run.loss[step]), rel=1e-8, abs=1e-20)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@settings(max_examples=40)
@given(depth=st.integers(2, 6), y=st.floats(-4, 4).filter(lambda y: abs(y) > 0.05), seed=st.integers(0, 999))
def test_no_minimum_is_flatter_than_the_balanced_one(depth, y, seed):
    size = abs(y) ** (1 / depth)
    sign = [1.0] * (depth - 1) + [1.0 if y > 0 else -1.0]
    balanced = DeepLinear((y,), depth, tuple(size * s for s in sign))
    assert balanced.sharpness == pytest.approx(balanced.flattest_minimum, rel=1e-9)
    assert balanced.critical_lr == pytest.approx(2 / (depth * abs(y) ** (2 - 2 / depth)), rel=1e-9)
    logs = randn(depth, seed=seed)
    tilted = DeepLinear(
        (y,), depth, tuple((size * s * (logs - logs.mean()).exp()[k]).item() for k, s in enumerate(sign))
    )
    assert float(tilted.objective().loss()) < 1e-20
    assert tilted.sharpness >= balanced.sharpness * (1 - 1e-9)
    expected = y**2 * float((1 / tilted.weights**2).sum())
    assert tilted.sharpness == pytest.approx(expected, rel=1e-7)


def test_the_balanced_minimum_of_a_matrix_network_is_as_flat():
    """Its further directions (rotations between singular values) are not sharper."""
    for depth, targets in ((2, (2.0, 0.5)), (3, (2.0, 1.5, 0.1)), (4, (1.2, 0.9))):
        size = [[y ** (1 / depth) for y in targets]] * depth
        model = DeepLinear(targets, depth, size)
        real = Objective(model.net(1), lambda net, _: net.loss(), [torch.zeros(1)])
        assert real.loss() < 1e-25
        assert sharpness(real, tol=1e-9).value == pytest.approx(model.flattest_minimum, rel=1e-7)


@settings(max_examples=40)
@given(depth=st.integers(2, 5), seed=st.integers(0, 999), lr=st.floats(1e-3, 0.5))
def test_a_step_multiplies_the_imbalance_as_stated(depth, seed, lr):
    model = DeepLinear((1.5,), depth, randn(depth, seed=seed).tolist())
    w = model.weights[:, 0]
    (after,) = model._step(model._start(), torch.tensor([lr], dtype=DOUBLE))
    r, f = w.prod() - 1.5, w.prod()
    for i in range(depth):
        for j in range(i):
            factor = 1 - lr**2 * r**2 * (f / (w[i] * w[j])) ** 2
            got = after[0, i, 0] ** 2 - after[0, j, 0] ** 2
            expected = (w[i] ** 2 - w[j] ** 2) * factor
            assert float(got) == pytest.approx(float(expected), rel=1e-9, abs=1e-11 * float((after**2).max()))


def test_small_steps_conserve_the_imbalance_and_large_ones_lower_it():
    model = DeepLinear((2.0,), 3, (0.5, 1.0, 1.5))
    kept = [float(model.run(lr, 200_000 if lr < 1e-3 else 1000)["imbalance"][-1]) for lr in (4e-4, 4e-3, 0.2)]
    start = float(model.run(0.1, 1)["imbalance"][0])
    assert kept[0] == pytest.approx(start, rel=1e-3)
    assert abs(kept[0] - start) < abs(kept[1] - start) < abs(kept[2] - start)
    # Conserved to first order in the rate: ten times the rate loses about ten times as much.
    assert (start - kept[1]) / (start - kept[0]) == pytest.approx(10, rel=0.1)


def test_beyond_max_lr_nothing_converges_and_below_it_the_balanced_start_does():
    for depth in (2, 3, 5):
        model = DeepLinear((2.0,), depth, 0.9 * 2 ** (1 / depth))
        run = model.run([s * model.max_lr for s in (0.5, 0.9, 1.02, 1.2, 2)], 800)
        assert run.status[:2] == ("converged", "converged")
        assert "converged" not in run.status[2:]


def test_two_layers_of_width_one_are_the_uv_model():
    model = DeepLinear((0.7,), 2, (1.3, 0.4))
    uv = UV(1, y=0.7, begin=(1.3 * 0.4, 1.3**2 + 0.4**2))
    assert (uv.kernel, uv.sharpness) == pytest.approx((1.85, model.sharpness))
    torch.testing.assert_close(model.run(0.5, 20).loss[:10], uv.run(0.5, 20).loss[:10], rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1.0,), 1), "2 or more layers"),
        (((),), "targets: expected one finite"),
        (((float("nan"),),), "targets: expected one finite"),
        (((1.0,), 3, (1.0, 2.0)), r"begin: expected a number, 3 \(one per layer\)"),
    ],
)
def test_what_is_no_network_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepLinear(*arguments)


def test_targets_of_zero_have_no_limit():
    assert DeepLinear((0.0,)).max_lr == float("inf")
