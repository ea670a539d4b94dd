"""The one catalogue of tiny tasks: every kind of batch and layer that measuring code must live with.

``TASKS[name](dtype=torch.float64)`` makes a task of fewer than 2,000 parameters, whose epoch takes milliseconds.
All data are fixed; 20 training examples in batches of 8, so the last batch is smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lrscope.schedules import Linear
from lrscope.tasks import Batches, Task
from lrscope.tasks.models import CNN, GPT, MLP
from lrscope.training import Cell

NUM_TRAIN, NUM_EVAL, BATCH_SIZE = 20, 12, 8
FEATURES, CLASSES, VOCAB, LENGTH = 6, 3, 11, 7


def data(dtype: torch.dtype, kind: str = "features") -> tuple[Tensor, Tensor]:
    """Inputs and labels (or next tokens) of all examples, the same in every call."""
    g = torch.Generator().manual_seed(0)
    num = NUM_TRAIN + NUM_EVAL
    if kind == "tokens":
        tokens = torch.randint(VOCAB, (num, LENGTH + 1), generator=g)
        return tokens[:, :-1], tokens[:, 1:]
    shape = {"features": (FEATURES,), "image": (1, 8, 8), "series": (LENGTH, FEATURES)}[kind]
    x = torch.randn(num, *shape, generator=g, dtype=torch.float64)
    teacher = torch.randn(x[0].numel(), CLASSES, generator=g, dtype=torch.float64)
    return x.to(dtype), (x.flatten(1) @ teacher).argmax(-1)


def built(make: Callable[[], nn.Module], dtype: torch.dtype, seed: int) -> nn.Module:
    return make().to(dtype)


def task(
    name: str, make: Callable[[], nn.Module], loss_fn: Any, tensors: Any, dtype: torch.dtype, **more: Any
) -> Task:
    """Batches of ``tensors`` (a tensor, tuple or dict), in memory and shuffled each epoch."""

    def part(where: slice) -> Batches:
        cut = {k: t[where] for k, t in tensors.items()} if isinstance(tensors, dict) else [t[where] for t in tensors]
        parts = [cut] if isinstance(cut, dict) else cut
        return Batches(*parts, batch_size=BATCH_SIZE, shuffle=where.start is None)

    train, evaluate = part(slice(None, NUM_TRAIN)), part(slice(NUM_TRAIN, None))
    return Task(partial(built, make, dtype), loss_fn, train, evaluate, name=name, steps=30, **more)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    x, y = (batch["inputs"], batch["labels"]) if isinstance(batch, dict) else batch
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def accuracy(model: nn.Module, batch: Any) -> Tensor:
    x, y = (batch["inputs"], batch["labels"]) if isinstance(batch, dict) else batch
    return (model(x).argmax(-1) == y).double().mean()


def squared(model: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), F.one_hot(y, CLASSES).to(x.dtype))


def reconstruction(model: nn.Module, batch: Tensor) -> Tensor:
    return F.mse_loss(model(batch), batch)


def mlp(width: int = 8, activation: Any = "tanh", outputs: int = CLASSES) -> nn.Module:
    return MLP(FEATURES, outputs, width=width, depth=2, activation=activation)


class LastState(nn.Module):
    """An LSTM whose last output is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TiedBag(nn.Module):
    """One embedding used on both sides, without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCAB, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, VOCAB, bias=False)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.token(tokens))))


def frozen() -> nn.Module:
    model = mlp()
    next(iter(model.parameters())).requires_grad_(False)
    return model


def with_layer(layer: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), layer(), nn.Tanh(), nn.Linear(8, CLASSES))


def linear() -> nn.Module:
    return nn.Linear(FEATURES, CLASSES)


def gpt(tied: bool = True, dropout: float = 0.0) -> nn.Module:
    return GPT(VOCAB, context=LENGTH, width=8, depth=1, heads=2, tied=tied, dropout=dropout)


def _simple(name: str, make: Callable[[], nn.Module], loss_fn: Any = cross_entropy, kind: str = "features") -> Any:
    def make_task(dtype: torch.dtype = torch.float32) -> Task:
        metrics = {"accuracy": accuracy} if loss_fn is cross_entropy else {}
        return task(name, make, loss_fn, data(dtype, kind), dtype, metrics=metrics)

    return make_task


def cells(rates: tuple[float, ...] = (0.02, 0.1), seeds: tuple[int, ...] = (0, 1), steps: int = 40) -> list[Cell]:
    """A warmup to each rate from each seed."""
    return [Cell(Linear(0.0, lr, steps), seed=seed) for seed in seeds for lr in rates]


def dict_batches(dtype: torch.dtype = torch.float32) -> Task:
    x, y = data(dtype)
    tensors = {"inputs": x, "labels": y}
    return task("dict", mlp, cross_entropy, tensors, dtype, metrics={"accuracy": accuracy})


def tensor_batches(dtype: torch.dtype = torch.float32) -> Task:
    return task("tensor", partial(mlp, outputs=FEATURES), reconstruction, data(dtype)[:1], dtype)


def loader(dtype: torch.dtype = torch.float32) -> Task:
    """A shuffled ``DataLoader``, and no evaluation set."""
    x, y = data(dtype)
    train = DataLoader(TensorDataset(x[:NUM_TRAIN], y[:NUM_TRAIN]), BATCH_SIZE, shuffle=True)
    return Task(partial(built, mlp, dtype), cross_entropy, train, name="loader", steps=30)


TASKS: dict[str, Callable[..., Task]] = {
    "tuple": _simple("tuple", mlp),
    "dict": dict_batches,
    "tensor": tensor_batches,
    "loader": loader,
    "linear_squared": _simple("linear_squared", linear, squared),  # a quadratic: its Hessian is constant
    "relu": _simple("relu", partial(mlp, activation="relu")),
    "dropout": _simple("dropout", partial(with_layer, partial(nn.Dropout, 0.5))),
    "batch_norm": _simple("batch_norm", partial(with_layer, partial(nn.BatchNorm1d, 8))),
    "conv": _simple("conv", partial(CNN, 1, CLASSES, width=4), kind="image"),
    "lstm": _simple("lstm", LastState, kind="series"),
    "attention": _simple("attention", partial(gpt, tied=False), kind="tokens"),
    "attention_tied": _simple("attention_tied", gpt, kind="tokens"),
    "attention_dropout": _simple("attention_dropout", partial(gpt, dropout=0.2), kind="tokens"),
    "embedding_tied": _simple("embedding_tied", TiedBag, kind="tokens"),
    "frozen": _simple("frozen", frozen),
}
