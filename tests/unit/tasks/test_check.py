"""Every error of the check, and that it leaves no trace."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cases
from lrscope.errors import LrscopeWarning, TaskError
from lrscope.tasks import Task
from lrscope.tasks.check import describe

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def linear(seed):
    return nn.Linear(4, 3)


def good_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


GOOD = Task(linear, good_loss, [(X[:8], Y[:8]), (X[8:], Y[8:])], [(X, Y)], {"surprise": good_loss}, name="good")
SHARED = nn.Linear(4, 3)


class Unseeded:
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __call__(self, seed):
        model = nn.Linear(4, 3)
        nn.init.constant_(model.weight, self.generator.random())
        return model


class Growing:
    width = 2

    def __call__(self, seed):
        self.width += 1
        return nn.Sequential(*(nn.Linear(4, 4) for _ in range(self.width)), nn.Linear(4, 3))


class OnceOnly:
    """Looks like it starts anew, and does not."""

    def __init__(self):
        self.batches = iter([(X, Y)])

    def __iter__(self):
        yield from self.batches


class Wandering:
    def __init__(self):
        self.generator = np.random.default_rng(0)

    def __iter__(self):
        yield X + float(self.generator.random()), Y


class Failing(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        raise FileNotFoundError("cat.jpg")


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))


def raising(seed):
    raise RuntimeError("no weights\nfound")


def with_backward(model, batch):
    loss = good_loss(model, batch)
    loss.backward()
    return loss


def with_step(model, batch):
    loss = good_loss(model, batch)
    with torch.no_grad():
        model.weight += 1
    return loss


def foreign(model, batch):
    return (torch.ones((), requires_grad=True) * 2).sum()


def bad_gradient(model, batch):
    return good_loss(model, batch) + (model.weight - model.weight.detach()).pow(0.5).sum()


def other_labels(model, batch):
    return nn.functional.cross_entropy(model(batch["input_ids"]), batch["labels"])


def summed(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


BROKEN = {
    "build raises": ({"build": raising}, r"build\(0\) on device='cpu' raised RuntimeError: no weights found"),
    "build no module": ({"build": lambda seed: 3}, "returned int, expected a torch.nn.Module"),
    "build frozen": ({"build": lambda seed: nn.Linear(4, 3).requires_grad_(False)}, "no parameter that requires"),
    "build lazy": ({"build": lambda seed: nn.LazyLinear(3)}, "'weight' is not known before the first forward"),
    "build lazy buffer": (
        {"build": lambda seed: nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.Linear(4, 3))},
        "'0.running_mean' is not known",
    ),
    "build shared": ({"build": lambda seed: SHARED}, "same parameters"),
    "build shared inside": ({"build": lambda seed: nn.Sequential(SHARED)}, "same parameters"),
    "build unseeded": ({"build": Unseeded()}, "different values in two calls .*'weight'.*seeded for you"),
    "build grows": ({"build": Growing()}, "different structure"),
    "train empty": ({"train": []}, "train: an epoch holds no batch"),
    "train dropped": (
        {"train": DataLoader(TensorDataset(X, Y), 32, drop_last=True)},
        "drop_last=True",
    ),
    "train exhausted": ({"train": OnceOnly()}, "train: holds batches the first time .* none the second"),
    "train fails": ({"train": DataLoader(Failing(), 2)}, "train: reading the first batch raised FileNotFoundError"),
    "evaluate empty": ({"evaluate": []}, "evaluate: an epoch holds no batch"),
    "evaluate exhausted": ({"evaluate": OnceOnly()}, "evaluate: holds batches the first time"),
    "no tensor": ({"train": [("a", "b")]}, "count="),
    "count raises": ({"count": lambda batch: batch.n}, r"count: called with tuple\(.*AttributeError"),
    "count wrong": ({"count": lambda batch: 0.5}, "count: expected a positive integer .* got 0.5"),
    "unpacking": (
        {"loss_fn": other_labels},
        r"loss_fn: called with Linear and the first train batch, tuple\(float32 \(8, 4\), int64 \(8,\)\), raised "
        r"TypeError: .*; it must unpack batches the way train yields them",
    ),
    "shape mismatch": ({"build": lambda seed: nn.Linear(5, 3)}, "RuntimeError: mat1 and mat2"),
    "not reduced": (
        {"loss_fn": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1], reduction="none")},
        r"tensor of shape \(\), got a tensor of shape \(8,\); .*\.mean\(\)",
    ),
    "a float": ({"loss_fn": lambda m, b: good_loss(m, b).item()}, r"got float; .*\.item\(\)"),
    "a pair": ({"loss_fn": lambda m, b: (good_loss(m, b), 1)}, "got tuple; return one tensor"),
    "nan": ({"loss_fn": lambda m, b: good_loss(m, b) * float("nan")}, "loss_fn: nan on the first train batch"),
    "detached": ({"loss_fn": lambda m, b: good_loss(m, b).detach()}, "requires_grad is False"),
    "foreign": ({"loss_fn": foreign}, "no trainable parameter"),
    "gradient": ({"loss_fn": bad_gradient}, "gradient is not finite in 'weight'"),
    "backward": ({"loss_fn": with_backward}, r"it called backward\(\)"),
    "step": ({"loss_fn": with_step}, "changed the model's parameters"),
    "sum": ({"loss_fn": summed}, r"it sums over the batch .*\.mean\(\)"),
    "evaluate unpacking": ({"evaluate": [X]}, "first evaluate batch, float32 "),
    "evaluate nan": ({"evaluate": [(X * float("inf"), Y)]}, "loss_fn: nan on the first evaluate batch"),
    "metric raises": ({"metrics": {"f1": lambda m, b: b.labels}}, r"metrics\['f1'\].*AttributeError"),
    "metric shape": ({"metrics": {"hits": lambda m, b: b[1] == 0}}, r"metrics\['hits'\]: .* shape \(16,\)"),
    "metric without evaluate": (
        {"evaluate": None, "metrics": {"x": lambda m, b: "1"}},
        r"metrics\['x'\]: .* got str",
    ),
}


REFUSED = {
    **{
        f"metric {name}": ({"metrics": {name: good_loss}}, f"'{name}' cannot name a metric")
        for name in ("loss", "lr", "eval_loss", "step", "sharpness", "sharpness_residual", "stable_lr", "headroom")
    },
    "metric that would end a record": ({"metrics": {"end": good_loss}}, "cannot name a metric"),
    "metric without a name": ({"metrics": {3: good_loss}}, "3 cannot name a metric"),
    "metrics in a list": ({"metrics": [good_loss]}, r"expected a dict from names to fn\(model, batch\), got list"),
    "steps": ({"steps": True}, r"Task\(steps=\): expected a positive integer, got True"),
    "name": ({"name": 3}, r"Task\(name=\): expected text, got 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_task_refuses_at_once(name):
    change, said = REFUSED[name]
    with pytest.raises(TaskError, match=said):
        replace(GOOD, **change)


@pytest.mark.parametrize("name", BROKEN)
def test_every_error(name):
    change, said = BROKEN[name]
    with pytest.raises(TaskError, match=said) as raised:
        replace(GOOD, **change).check()
    assert "\n" not in str(raised.value)


def test_a_good_task_passes_also_without_evaluation_and_with_number_metrics():
    GOOD.check()
    replace(GOOD, evaluate=None).check()
    replace(GOOD, metrics={"n": lambda m, b: 3}).check()


def test_batch_of_one_and_batches_that_cannot_be_cut_pass():
    replace(GOOD, train=[(X[:1], Y[:1])]).check()
    replace(GOOD, train=[(X, Y, torch.zeros(3))], loss_fn=good_loss, evaluate=None).check()


def test_sparse_gradients_pass():
    def build(seed):
        return nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Flatten(), nn.Linear(6, 3))

    replace(GOOD, build=build, train=[(torch.arange(16).reshape(8, 2) % 5, Y[:8])], evaluate=None).check()


def test_a_loader_that_ignores_the_seed_is_warned_of():
    with pytest.warns(LrscopeWarning, match="same seed gave two different first batches"):
        replace(GOOD, train=Wandering()).check()


def test_no_trace():
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    made = []

    def build(seed):
        made.append(cases.with_layer(lambda: nn.BatchNorm1d(8)))
        return made[-1]

    x = torch.cat([X, X[:, :2]], 1)
    task = replace(GOOD, build=build, train=[(x, Y)], evaluate=[(x, Y)])

    def state():
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    before = state(), loader.generator.get_state().tolist()
    task.check()
    replace(GOOD, train=loader).check()
    assert (state(), loader.generator.get_state().tolist()) == before
    assert all(p.grad is None for model in made for p in model.parameters())


def test_describe():
    batch = {"input_ids": torch.zeros(8, 64, dtype=torch.long), "rest": (torch.zeros(2), "a")}
    assert describe(batch) == "dict(input_ids: int64 (8, 64), rest: tuple(float32 (2,), str))"
    assert describe([torch.zeros(1)] * 9) == "list of 9: float32 (1,), …"
