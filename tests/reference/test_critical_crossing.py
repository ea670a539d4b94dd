"""The critical learning rate of random networks against a dense scan of the one-step loss."""

import math
import statistics

import pytest
import torch
from torch import nn

from lrscope import Objective
from lrscope.curvature.point import loss_and_grad
from lrscope.optimizers.clone import NextStep
from lrscope.stability.critical import live_optimizer
from lrscope.stability.crossing import Search

ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU)
OPTIMIZERS = ("sgd(momentum=0)", "sgd", "adam", "adamw", "giadam")


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def squares(model, batch):
    return (model(batch[0]) - nn.functional.one_hot(batch[1], 5)).square().mean()


def network(seed):
    """A random depth, width, activation, loss and optimizer, some of them after ten updates."""
    g = torch.Generator().manual_seed(seed)

    def one_of(options):
        return options[int(torch.randint(len(options), (1,), generator=g))]

    torch.manual_seed(seed)
    depth, width, act = one_of((1, 2, 4)), one_of((16, 64, 128)), one_of(ACTIVATIONS)
    layers = [nn.Linear(20, width), act()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), act()]
    model = nn.Sequential(*layers, nn.Linear(width, 5)).double()
    batch = (torch.randn(64, 20, generator=g, dtype=torch.float64), torch.randint(5, (64,), generator=g))
    objective = Objective(model, one_of((cross_entropy, squares)), [batch])
    optimizer, _ = live_optimizer(one_of(OPTIMIZERS), objective)
    if one_of((False, True)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        for _ in range(10):
            optimizer.zero_grad()
            objective.loss_fn(model, batch).backward()
            optimizer.step()
    return objective, optimizer


def first_crossing(objective, optimizer, about, num=120):
    """Where the loss first exceeds its start, to 2 %: a scan from a hundredth of ``about`` to three times it."""
    theta = objective.point()
    loss, grad = loss_and_grad(objective, theta)
    move = NextStep(optimizer, objective.model, theta, grad)
    for lr in torch.logspace(math.log10(about / 100), math.log10(3 * about), num * 3, dtype=torch.float64).tolist():
        if not objective.loss(theta + move(lr)) <= loss:
            return lr
    return math.inf


@pytest.mark.slow
def test_the_search_finds_the_first_crossing_of_two_hundred_random_networks():
    ratios, passes = [], []
    for seed in range(230):
        objective, optimizer = network(seed)
        found, cost = Search().step(objective, optimizer, objective.point())
        if found.status == "momentum points uphill":  # there is no crossing to find
            continue
        assert found.status == "found"
        passes.append(cost.forwards)
        ratios.append(found.lr / first_crossing(objective, optimizer, found.lr))
    assert len(ratios) >= 200
    assert statistics.median(passes) <= 12
    assert max(passes) <= 25
    inside = sum(0.95 <= r <= 1.05 for r in ratios)
    print(
        f"{len(ratios)} networks: {inside} within 5 %, ratios {min(ratios):.3f} to {max(ratios):.3f}, "
        f"{statistics.median(passes)} passes in the median, {max(passes)} at most"
    )
    assert inside == len(ratios)
