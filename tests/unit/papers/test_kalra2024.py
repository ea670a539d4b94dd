"""The set-ups of kalra2024 against plain training."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lrscope.optimizers import OptimizerSpec
from lrscope.papers import descent
from lrscope.papers.kalra2024 import grids, networks
from lrscope.tasks import BatchStream


def test_the_kth_update_of_a_warmup_has_k_shares_of_the_peak():
    values = grids.schedule(0.5, 32, 400).values(400)
    np.testing.assert_allclose(values[:32], 0.5 * np.arange(1, 33) / 32, rtol=1e-12)
    s = np.arange(369)
    np.testing.assert_allclose(values[31:], 0.05 + 0.45 * (1 + np.cos(np.pi * s / 368)) / 2, rtol=1e-12)
    assert values[-1] == pytest.approx(0.05)
    assert grids.schedule(0.5, 1, 400)(0) == 0.5


def test_images_are_standardised_one_by_one_and_none_is_both_trained_on_and_judged_by():
    task = networks.minibatches()
    x, y = next(iter(task.evaluate))
    seen = task.train.data[0]
    assert seen.shape == (1437, 64)
    assert x.shape == (360, 64)
    assert set(y.tolist()) == set(range(10))
    for images in (x, seen):
        torch.testing.assert_close(images.mean(1), torch.zeros(len(images)), rtol=0, atol=1e-5)
        torch.testing.assert_close(images.std(1), torch.ones(len(images)))


@pytest.mark.parametrize("net", [networks.ResidualMLP, networks.FCN])
def test_weights_have_the_variance_of_the_standard_parameterisation(net):
    model = networks.minibatches(net, width=256).model(0)
    for name, p in model.named_parameters():
        if p.ndim == 2 and p.numel() > 10_000:
            assert float(p.detach().var()) * p.shape[1] == pytest.approx(2.0, rel=0.05), name
    assert float(model.head.weight.detach().var()) * 256 == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("name", ["adam", "giadam", "riadam", "radam"])
def test_a_grid_ends_as_training_one_by_one_does(name):
    net = networks.minibatches(networks.ResidualMLP, width=16, blocks=1)
    before = torch.get_rng_state()
    found = grids.grid(net, name, warmup=4, peaks=[0.01, 0.1], seeds=[0, 3], steps=12)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.optimizer == name
    for i, peak in enumerate(found.peaks):
        for j, seed in enumerate((0, 3)):
            model, stream = net.model(seed), BatchStream(net.train, seed)
            options = {"seed": seed} if name == "riadam" else {}
            optimizer = OptimizerSpec.from_spec({"name": name, **options}).build(model.parameters(), lr=1.0)
            losses = []
            for step in range(12):
                optimizer.param_groups[0]["lr"] = grids.schedule(peak, 4, 12)(step)
                x, y = next(stream)
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                losses.append(float(loss.detach()))
                optimizer.step()
            (x, y) = next(iter(net.evaluate))
            accuracy = float((model(x).argmax(-1) == y).float().mean())
            assert found.accuracy[i, j] == pytest.approx(accuracy, abs=2 / 360)  # rounding may turn a close call
            assert found.largest_loss[i, j] == pytest.approx(max(losses), rel=1e-3)
            assert found.finite[i, j]


def test_the_last_good_peak_is_the_largest_whose_mean_is_above_the_level():
    accuracy = np.array([[0.99, 0.95], [0.98, 0.5], [0.93, 0.92], [0.1, 0.1]])
    found = grids.Grid("adam", 1, np.array([1.0, 2.0, 4.0, 8.0]), accuracy, accuracy > 0, accuracy)
    assert found.last_good() == 4.0
    assert found.last_good(0.96) == 1.0
    assert found.last_good(0.99) == 0.0
    assert found.at(2.0) == pytest.approx(0.74)


@pytest.mark.parametrize("start", ["sp", "mup"])
def test_parameterisations_are_the_papers(start):
    """muP: variance of the product 2 / fan_in in hidden layers, and an output that shrinks with the width."""
    net = networks.full_batch(start, width=256).model(0)
    for layer, scale in zip([*net.hidden, net.head], net.scales, strict=True):
        gain = scale**2 * float(layer.weight.detach().var()) * layer.in_features
        expected = 2.0 if layer is not net.head else (1 / 256 if start == "mup" else 1.0)
        assert gain == pytest.approx(expected, rel=0.15)
    flat = networks.full_batch("zero").model(0)
    assert not flat.head.weight.any()
    assert networks.full_batch(bias=False).model(0).head.bias is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_descent_side_by_side_is_plain_sgd(dtype):
    task = networks.full_batch(width=8, depth=3, num_train=40, dtype=dtype)
    rates = descent.constant([0.1, 0.5, 2.0], 7) * torch.linspace(0.5, 1.0, 7)[:, None]
    found = descent.descend(task, [0, 0, 5], rates, at=[0, 4, 7])
    ((x, y),) = task.train
    for i, seed in enumerate((0, 0, 5)):
        model = task.model(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        for step in range(8):
            theta = torch.cat([p.detach().flatten() for p in model.parameters()])
            if step in (0, 4, 7):
                torch.testing.assert_close(found.thetas[[0, 4, 7].index(step), i], theta, rtol=1e-4, atol=1e-6)
            if step == 7:
                break
            optimizer.param_groups[0]["lr"] = float(rates[step, i])
            loss = task.loss_fn(model, (x, y))
            assert float(found.losses[step, i]) == pytest.approx(float(loss.detach()), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
