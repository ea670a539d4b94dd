"""The smallest task: a curve fitted by a network of your own, with tuple batches.

lrscope run examples/regression.py:task
"""

import torch
from torch import nn

import lrscope as lrs


class Curve(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, x):
        return self.layers(x)


def loss_fn(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def task(width: int = 32) -> lrs.Task:
    generator = torch.Generator().manual_seed(0)  # the data are the same in every run; only the model's seed changes
    x = torch.linspace(-3, 3, 512)[:, None]
    y = torch.sin(2 * x) + 0.1 * torch.randn(x.shape, generator=generator)
    return lrs.Task(
        build=lambda _: Curve(width),  # gets the seed, but torch is already seeded with it
        loss_fn=loss_fn,
        train=lrs.tasks.Batches(x[::2], y[::2], batch_size=32, shuffle=True),
        evaluate=[(x[1::2], y[1::2])],
        steps=300,
    )
