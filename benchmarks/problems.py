"""The losses that the curvature benchmarks measure, their units, and how results are kept.

``PROBLEMS`` are small enough for a tight reference in float64; :func:`perceptron`, :func:`convolutional` and
:func:`language` make the same kinds of model at the sizes where time and memory are looked at.
"""

from __future__ import annotations

import copy
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope import Objective
from lrscope.records import environment
from lrscope.tasks import digits, topics
from lrscope.tasks.models import CNN, GPT

RESULTS = Path(__file__).parent / "results"
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A model, how outputs are compared with targets, and one batch."""

    name: str
    model: nn.Module
    criterion: Criterion
    inputs: Tensor
    targets: Tensor

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.params)

    def loss(self) -> Tensor:
        return self.criterion(self.model(self.inputs), self.targets)

    def grad(self) -> tuple[Tensor, ...]:
        """As plain torch makes it: the unit of every time and memory."""
        return torch.autograd.grad(self.loss(), self.params)

    def objective(self) -> Objective:
        """A fresh one each time: nothing is remembered of earlier measurements."""

        def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return self.criterion(model(batch[0]), batch[1])

        return Objective(self.model, loss_fn, [(self.inputs, self.targets)])

    def copy(self, dtype: torch.dtype = torch.float32) -> Problem:
        def cast(t: Tensor) -> Tensor:
            return t.to(dtype) if t.is_floating_point() else t

        model = copy.deepcopy(self.model).to(dtype)
        return Problem(self.name, model, self.criterion, cast(self.inputs), cast(self.targets))

    def trained(self, name: str, optimizer: Callable[[Any], torch.optim.Optimizer], steps: int) -> Problem:
        """A copy after ``steps`` updates on its own batch."""
        other = self.copy()
        steppers = optimizer(other.params)
        for _ in range(steps):
            steppers.zero_grad()
            other.loss().backward()
            steppers.step()
        steppers.zero_grad()
        return Problem(name, other.model, other.criterion, other.inputs, other.targets)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples, and over positions where outputs are ``(B, T, vocab)``."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def perceptron(*, width: int = 64, examples: int = 200, squared: bool = False, act: Any = nn.Tanh) -> Problem:
    """Handwritten digits and a network of two hidden layers."""
    torch.manual_seed(0)
    x, y = _digits(examples)
    model = nn.Sequential(
        nn.Linear(64, width), act(), nn.Linear(width, width), act(), nn.Linear(width, 10)
    )  # torch's own initialisation, as most users have it
    if squared:
        return Problem("digits MLP, MSE, start", model, F.mse_loss, x, F.one_hot(y, 10).to(x))
    return Problem("digits MLP, cross-entropy, start", model, cross_entropy, x, y)


def convolutional(*, width: int = 8, examples: int = 200) -> Problem:
    torch.manual_seed(0)
    x, y = _digits(examples)
    return Problem("digits CNN, start", CNN(1, 10, width=width), cross_entropy, x.view(-1, 1, 8, 8), y)


def language(*, width: int = 32, depth: int = 2, heads: int = 2, batch: int = 8, context: int = 32) -> Problem:
    """Characters of English prose and a GPT."""
    torch.manual_seed(0)
    tokens, following = next(iter(topics(batch_size=batch, context=context).train))
    vocab = topics().build(0).head.out_features
    model = GPT(vocab, context=context, width=width, depth=depth, heads=heads)
    return Problem("GPT, start", model, cross_entropy, tokens, following)


def problems() -> list[Problem]:
    """Six, of 2,000 to 30,000 parameters: at the start, and where training has been."""
    squared, plain = perceptron(squared=True), perceptron()

    def descent(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
        return lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9)

    def adam(params: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, lr=3e-3)

    return [
        squared,
        squared.trained("digits MLP, MSE, trained", descent(0.5), 300),
        plain,
        plain.trained("digits MLP, cross-entropy, trained", descent(0.1), 300),
        convolutional().trained("digits CNN, trained", adam, 100),
        language().trained("GPT, trained", adam, 100),
    ]


def _digits(examples: int) -> tuple[Tensor, Tensor]:
    task = digits(batch_size=examples, noise=0.0)
    x, y = next(iter(task.train))
    return x.flatten(1), y


def seconds(do: Callable[[], Any]) -> float:
    """Of one call, on the GPU with everything that it started; garbage is collected before, not during."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        _wait()
        began = time.perf_counter()
        do()
        _wait()
        return time.perf_counter() - began
    finally:
        if enabled:
            gc.enable()


def taking_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, ``repeats`` times in turn, after one unmeasured round.

    A shared machine is slow for a while and fast for a while; what took turns can be divided.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, do in calls.items():
            spent = seconds(do)
            if i:
                taken[name].append(spent)
    return taken


def ratio(numerator: Iterable[float], denominator: Iterable[float]) -> float:
    """Median of the ratios of what was measured in the same turn."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def peak_bytes(do: Callable[[], Any]) -> int:
    """Most memory in use during ``do()`` beyond what was in use before.

    On a CPU from the profiler's record of every allocation and release by torch's allocator, which, unlike the
    process's resident memory, knows neither caches nor other tenants; scratch space inside oneDNN is not seen. On a GPU
    from the caching allocator's own count. What the call returns is part of it.
    """
    gc.collect()
    if torch.cuda.is_available():
        _wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        do()
        _wait()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        found = do()
    del found
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return most


def keep(name: str, packages: Iterable[str] = (), **found: Any) -> Path:
    """Raw numbers as ``results/name.json``, with when and where they were made."""
    versions = {p: metadata.version(p) for p in packages}
    where = environment() | {"threads": torch.get_num_threads(), "peers": versions}
    path = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"date": str(date.today()), "environment": where, **found}, indent=1) + "\n")
    return path


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
