"""Two networks trained apart on real digits: a barrier on the straight line, none on a curve, and less once aligned."""

import pytest
import torch
from torch import nn

from lrscope.landscape import align, barrier, connect
from lrscope.tasks import BatchStream, Task, digits


def convolutional(seed):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


def task(name):
    mlp = digits()
    ((x, y),) = mlp.batches(of="evaluate")
    build = mlp.build if name == "mlp" else convolutional
    # One of the four noisy copies of the test images: a quarter of the time.
    return Task(build, mlp.loss_fn, mlp.train, [(x[:797], y[:797])], metrics=mlp.metrics, name=name)


def trained(task, seed, steps):
    model, stream = task.model(seed), BatchStream(task.train, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss_fn(model, next(stream)).backward()
        optimizer.step()
    return model


def check(name, seed, *, training=200, steps=400, num_batches=8):
    it = task(name)
    a, b = trained(it, 2 * seed, training), trained(it, 2 * seed + 1, training)
    straight = barrier(it, a, b, num_batches=num_batches)
    assert straight.height > 0.3, straight
    assert straight.height > 10 * straight.stderr
    assert straight.on("test_error").height > 0.1
    curve = connect(it, a, b, steps=steps, seed=seed, num_batches=num_batches)
    assert curve.barrier.height < straight.height / 10, curve
    assert curve.barrier.on("test_loss").height < straight.on("test_loss").height / 10
    for t, m in ((0, a), (1, b)):
        assert torch.equal(curve(t), nn.utils.parameters_to_vector(m.parameters()))
    aligned = align(a, b)
    line = barrier(it, a, aligned.model, num_batches=num_batches)
    assert line.height < straight.height / 2, (line, straight)
    # the same network by other names: the ends of both lines are the same up to rounding
    assert line.ends == pytest.approx(straight.ends, rel=1e-4)
    print(f"{name}, seed {seed}: {straight.height:.3f}, curve {curve.barrier.height:.4f}, aligned {line.height:.4f}")


@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_apart_and_connected(name):
    check(name, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_apart_and_connected_with_every_seed(name, seed):
    check(name, seed, training=500, steps=1000, num_batches=None)
