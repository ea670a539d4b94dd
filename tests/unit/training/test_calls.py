"""Calls in a form for stacked replicas against torch's own, values and gradients, alone and mapped."""

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from lrscope.training.calls import BatchedCalls


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + len(shape)))


CALLS = {
    "conv": (lambda x, w, b: F.conv2d(x, w), (3, 2, 7, 6), (4, 2, 3, 3), (4,)),
    "conv, bias and padding": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (3, 2, 7, 6), (4, 2, 3, 3), (4,)),
    "conv, stride": (lambda x, w, b: F.conv2d(x, w, b, (2, 3), (1, 0)), (3, 2, 8, 9), (4, 2, 3, 2), (4,)),
    "conv, dilation": (lambda x, w, b: F.conv2d(x, w, b, 2, 2, 2), (3, 2, 9, 8), (4, 2, 3, 3), (4,)),
    "conv, 1 x 1": (lambda x, w, b: F.conv2d(x, w, b), (3, 2, 4, 4), (4, 2, 1, 1), (4,)),
    "conv, groups": (lambda x, w, b: F.conv2d(x, w, b, groups=2), (3, 4, 5, 5), (4, 2, 3, 3), (4,)),
    "conv, same": (lambda x, w, b: F.conv2d(x, w, b, padding="same"), (3, 2, 5, 5), (4, 2, 3, 3), (4,)),
    "conv of one image": (lambda x, w, b: F.conv2d(x, w, b), (2, 5, 5), (4, 2, 3, 3), (4,)),
    "group norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (3, 4, 5, 2), (4,), (4,)),
    "group norm, series": (lambda x, w, b: F.group_norm(x, 4, w, b, 0.1), (3, 4, 5), (4,), (4,)),
    "group norm, flat": (lambda x, w, b: F.group_norm(x, 2, w, b), (3, 4), (4,), (4,)),
    "group norm, plain": (lambda x, w, b: F.group_norm(x, 2) * w + b, (3, 4, 5), (5,), (5,)),
    "means of cells": (lambda x, w, b: F.adaptive_avg_pool2d(x, (2, 3)) * w + b, (3, 4, 6, 6), (3,), (3,)),
    "mean of all": (lambda x, w, b: F.adaptive_avg_pool2d(x, 1) * w + b, (3, 4, 6, 6), (1,), (1,)),
    "unequal cells": (lambda x, w, b: F.adaptive_avg_pool2d(x, 4) * w + b, (3, 4, 6, 6), (4,), (4,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_and_gradients_are_torchs_own(name):
    call, *shapes = CALLS[name]
    inputs = [draw(*shape, seed=i) for i, shape in enumerate(shapes)]
    weights = draw(*call(*inputs).shape, seed=9)

    def loss(*inputs):
        return (call(*inputs) * weights).sin().sum()

    def step(*inputs):
        return call(*inputs), grad(loss, (0, 1, 2))(*inputs)

    def check(run, *inputs):
        expected = run(*inputs)
        with BatchedCalls():
            torch.testing.assert_close(run(*inputs), expected, rtol=1e-10, atol=1e-11)

    check(step, *inputs)
    several = [torch.stack([t, -0.5 * t, t + 0.1]) for t in inputs]
    check(vmap(step), *several)
    check(vmap(step, in_dims=(None, 0, 0)), inputs[0], *several[1:])


def test_one_hot_vectors_are_torchs_own():
    labels = torch.tensor([[2, 0], [1, 2]])
    for classes in (3, 5, -1):
        expected = F.one_hot(labels, classes)
        with BatchedCalls():
            assert torch.equal(F.one_hot(labels, classes), expected)
            if classes > 0:
                assert torch.equal(vmap(lambda y, c=classes: F.one_hot(y, c))(labels), expected)
