"""Check of li2019: weight decay and its exponential translation are one run, and slips in the formulas are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.optimizers import EquivalentLR, ScheduledLR
from lrscope.papers.claim import Holds, Numbers, claim
from lrscope.papers.li2019.networks import BATCH, NormalisedNet, Rates, digits, loss_of, network
from lrscope.schedules import (
    Constant,
    Cosine,
    Piecewise,
    Schedule,
    Table,
    exponential_equivalent,
    exponential_rate,
    texp,
    texp_minus,
)

GAMMA = 0.9
EXTRAS: dict[str, dict[str, Any]] = {"eps 1e-5": {"eps": 1e-5}, "head and affine too": {"affine": True}}
Before = Callable[[int, torch.optim.Optimizer], None]


def _seen(net: NormalisedNet) -> Tensor:
    """Directions of the hidden layers, and logits of 100 images that are not trained on."""
    with torch.no_grad():
        directions = [(w / w.norm()).flatten() for w in net.weights]
        return torch.cat([*directions, net(digits(net.head.weight.dtype)[0][:100]).flatten()])


def _steps(
    net: NormalisedNet, optimizer: Any, steps: int, before: Before, after: Callable[[], None] | None
) -> Tensor:
    rows = []
    for t in range(steps):
        before(t, optimizer)
        optimizer.zero_grad()
        loss_of(net, t, 0).backward()
        optimizer.step()
        if after is not None:
            after()
        rows.append(_seen(net))
    return torch.stack(rows)


class Bench:
    """One network and one order of batches; runs by tables of learning rate, weight decay and momentum."""

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps = seed, steps

    def table(
        self,
        lr: Rates,
        decay: Any = 0.0,
        momentum: Any = GAMMA,
        *,
        extra: Before | None = None,
        nesterov: bool = False,
        net: NormalisedNet | None = None,
        optimizer: type | None = None,
    ) -> Tensor:
        """Everything that is trained, by one group; ``extra`` touches the buffers before a step."""
        net = network(self.seed) if net is None else net
        trained = [p for p in net.parameters() if p.requires_grad]
        tables = [np.broadcast_to(values, self.steps) for values in (lr, decay, momentum)]
        if optimizer is None:
            run = torch.optim.SGD(trained, lr=0.0, momentum=float(tables[2][0]), nesterov=nesterov)
        else:
            run = optimizer(trained)

        def before(t: int, of: torch.optim.Optimizer) -> None:
            rate, wd, gamma = (float(table[t]) for table in tables)
            of.param_groups[0].update(lr=rate, weight_decay=wd, momentum=gamma)
            if extra is not None:
                extra(t, of)

        return _steps(net, run, self.steps, before, None)

    def buffers(self, add: dict[int, float]) -> Before:
        """Adds ``add[t]`` times the weights to the momentum buffers before step t."""

        def extra(t: int, of: torch.optim.Optimizer) -> None:
            if t in add:
                for p in of.param_groups[0]["params"]:
                    buffer = of.state[p].get("momentum_buffer")
                    fresh = torch.zeros_like(p) if buffer is None else buffer
                    of.state[p]["momentum_buffer"] = fresh + add[t] * p.detach()

        return extra


class Textbook(torch.optim.Optimizer):
    """The two forms of SGD with momentum that torch does not have."""

    rule = ""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # noqa: ARG002 # pyright: ignore[reportIncompatibleMethodOverride]
        (group,) = self.param_groups
        lr, gamma, decay = group["lr"], group["momentum"], group["weight_decay"]
        for p in group["params"]:
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            if self.rule == "velocity":
                buffer.mul_(gamma).sub_(p.grad + decay * p, alpha=lr)
                p.add_(buffer)
            else:
                buffer.mul_(gamma).add_(p.grad)
                p.mul_(1 - lr * decay).sub_(buffer, alpha=lr)


class Velocity(Textbook):
    rule = "velocity"


class Decoupled(Textbook):
    rule = "decoupled"


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _shift(lr: float, decay: float) -> float:
    """Weight decay's settled part of the buffer, in units of the weights."""
    alpha = exponential_rate(lr, decay, GAMMA)
    return (1 - alpha) / (alpha * lr)


def _recurrence(schedule: Schedule, lr: float, decay: float | Schedule, steps: int, **options: Any) -> Any:
    options = {"momentum": GAMMA, **options}
    return exponential_equivalent(schedule, base_lr=lr, weight_decay=decay, steps=steps, max_scale=None, **options)


def constant_rate(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """Gaps of what is exact and of what is wrong, at a constant rate."""
    right, wrong = {}, {}
    T = bench.steps
    for lr, decay in ((0.05, 0.01), (0.1, 5e-4), (0.05, 0.05)):
        name = f"lr {lr:g}, wd {decay:g}"
        theirs = bench.table(np.full(T, lr), decay)
        growth = lr * texp(Constant(1.0), base_lr=lr, weight_decay=decay, momentum=GAMMA, steps=T).values(T)
        filled = bench.buffers({0: -_shift(lr, decay)})
        right[f"{name}: the theorem with its buffer"] = _gap(bench.table(growth, extra=filled), theirs)
        ours = lr * _recurrence(Constant(1.0), lr, decay, T).values(T)
        right[f"{name}: recurrence"] = _gap(bench.table(ours), theirs)
        wrong[f"{name}: the theorem from an empty buffer"] = _gap(bench.table(growth), theirs)
        wrong[f"{name}: weight decay off"] = _gap(bench.table(np.full(T, lr)), theirs)
    ours = 0.05 * _recurrence(Constant(1.0), 0.05, 0.01, T, momentum=0.0).values(T)
    right["no momentum"] = _gap(bench.table(ours, momentum=0.0), bench.table(np.full(T, 0.05), 0.01, 0.0))
    ours = 0.05 * _recurrence(Constant(1.0), 0.05, 0.01, T).values(T)
    flat = np.full(T, 0.05)
    wrong["Nesterov"] = _gap(bench.table(ours, nesterov=True), bench.table(flat, 0.01, nesterov=True))
    for name, options in EXTRAS.items():
        nets = [network(bench.seed, **options) for _ in range(2)]
        wrong[name] = _gap(bench.table(ours, net=nets[0]), bench.table(flat, 0.01, net=nets[1]))
    return right, wrong


def switches(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """The same for a step decay 0.1 / 0.02 / 0.004, and for TEXP-- and the weight decay it stands for."""
    right, wrong = {}, {}
    T, lr, decay, factors = bench.steps, 0.1, 0.01, (1.0, 0.2, 0.04)
    at = (T // 3, 2 * T // 3)
    phases = Piecewise(factors, at)
    theirs = bench.table(lr * phases.values(T), decay)
    right["step decay: recurrence"] = _gap(bench.table(lr * _recurrence(phases, lr, decay, T).values(T)), theirs)

    tapered = lr * texp(phases, base_lr=lr, weight_decay=decay, momentum=GAMMA, steps=T).values(T)
    pairs = [(lr * f, decay) for f in factors]
    filled = {0: -_shift(*pairs[0])}
    right["TEXP, corrected"] = _gap(
        bench.table(tapered, extra=bench.buffers(filled | _fixes(tapered, at, pairs))), theirs
    )
    wrong["TEXP, not corrected at the switches"] = _gap(bench.table(tapered, extra=bench.buffers(filled)), theirs)
    careless = tapered.copy()
    alphas = [exponential_rate(*pair, GAMMA) for pair in pairs]
    for switch, old, new in zip(at, alphas, alphas[1:], strict=False):
        careless[switch:] *= old / new
    fixed = bench.buffers(filled | _fixes(careless, at, pairs))
    wrong["TEXP, growth of the new phase alone at a switch"] = _gap(bench.table(careless, extra=fixed), theirs)

    theirs = bench.table(np.full(T, lr), decay * phases.values(T))
    slow = lr * texp_minus(phases, base_lr=lr, weight_decay=decay, momentum=GAMMA, steps=T).values(T)
    pairs = [(lr, decay * f) for f in factors]
    fixed = bench.buffers(filled | _fixes(slow, at, pairs))
    right["TEXP-- and weight decay over 5, corrected"] = _gap(bench.table(slow, extra=fixed), theirs)
    wrong["TEXP-- and weight decay over 5, not corrected"] = _gap(
        bench.table(slow, extra=bench.buffers(filled)), theirs
    )
    return right, wrong


def _fixes(table: np.ndarray, at: Sequence[int], pairs: Sequence[tuple[float, float]]) -> dict[int, float]:
    """What the momentum buffers lack at each switch, in units of the weights (sheet: T2)."""
    fixes = {}
    for switch, old, new in zip(at, pairs, pairs[1:], strict=False):
        square = table[switch - 1] / (exponential_rate(*old, GAMMA) * old[0])
        fixes[switch] = (_shift(*old) - _shift(*new)) / square
    return fixes


def shapes(bench: Bench) -> tuple[dict[str, float], dict[str, float]]:
    """The same for cosines, random values, the other two rules, and groups with a rebase."""
    right, wrong = {}, {}
    T, lr, decay = bench.steps, 0.1, 0.01
    cosine = Cosine(1.0, 0.0, T)
    random = np.random.default_rng(bench.seed)
    noisy, decays = (np.exp(0.5 * random.normal(size=T)) for _ in range(2))
    noisy *= np.minimum(np.arange(T) / 30, 1)  # a warmup, from 0
    cases = {
        "cosine by step": (cosine.values(T), np.full(T, decay)),
        "cosine by epoch": (cosine.values(T)[np.arange(T) // 20 * 20], np.full(T, decay)),
        "random rate and decay, with warmup": (noisy, decay * decays),
    }
    for name, (factors, wd) in cases.items():
        ours = _recurrence(_table(factors), lr, _table(wd), T)
        right[name] = _gap(bench.table(lr * ours.values(T)), bench.table(lr * factors, wd))
    eta = lr * cosine.values(T)
    alpha = np.array([exponential_rate(rate, decay, GAMMA) for rate in eta])
    frozen = eta / alpha * np.cumprod(np.concatenate([[1.0], alpha[:-1]])) ** -2.0
    wrong["cosine with frozen growth"] = _gap(bench.table(frozen), bench.table(eta, decay))

    for optimizer in (Velocity, Decoupled):
        s = _recurrence(cosine, lr, decay, T, rule=optimizer.rule)
        theirs = bench.table(eta, decay, optimizer=optimizer)
        momenta = GAMMA * s.momentum_schedule().values(T)
        right[optimizer.rule] = _gap(bench.table(lr * s.values(T), 0.0, momenta, optimizer=optimizer), theirs)
        wrong[f"{optimizer.rule}, momentum kept"] = _gap(bench.table(lr * s.values(T), optimizer=optimizer), theirs)

    for name, scale in (("groups", None), ("groups, rebased", 1.0625)):
        right[name] = _gap(_groups(bench, cosine, True, scale), _groups(bench, cosine, False, scale))
    return right, wrong


def _table(values: np.ndarray) -> Table:
    return Table(tuple(map(float, values)))


def _groups(bench: Bench, schedule: Schedule, translated: bool, scale: float | None) -> Tensor:
    """Layers with rates and decays of their own; affine parameters and head train as they did."""
    net = network(bench.seed, affine=True)
    first, *others = net.weights
    groups = [
        {"params": [first], "lr": 0.1, "weight_decay": 0.02},
        {"params": others},
        {"params": [*net.affine, *net.head.parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=GAMMA, weight_decay=0.01)
    if translated:
        scheduler = EquivalentLR(optimizer, schedule, invariant=[0, 1], steps=bench.steps, max_scale=scale)
    else:
        scheduler = ScheduledLR(optimizer, schedule)
    return _steps(net, optimizer, bench.steps, lambda _t, _o: None, scheduler.step)


@claim(
    "li2019/equivalence",
    "SGD with weight decay is SGD without it at an exponentially growing learning rate, step by step",
    where="the main theorem",
    sure="source",
    shows=["gap_if_right"],
    headline=True,
)
def equivalence(seeds: Sequence[int] = (0, 1, 2), steps: int = 300) -> tuple[Numbers, Holds]:
    """64-24-24-24 with batch normalisation (eps 0, no affine) and a fixed head, batches of 64, 300 steps in float64:
    largest gap over all steps of normalised weights and of logits of 100 other images, between two runs.
    """
    right: dict[str, list[float]] = {}
    wrong: dict[str, list[float]] = {}
    for seed in seeds:
        bench = Bench(seed, steps)
        for part in (constant_rate, switches, shapes):
            for store, gaps in zip((right, wrong), part(bench), strict=True):
                for name, gap in gaps.items():
                    store.setdefault(name, []).append(gap)
    return {"gap_if_right": right, "gap_if_wrong": wrong, "batch": BATCH}, {
        **{f"{name}: below 1e-10": max(gaps) < 1e-10 for name, gaps in right.items()},
        **{f"{name}: seen, above 1e-4": min(gaps) > 1e-4 for name, gaps in wrong.items()},
    }
