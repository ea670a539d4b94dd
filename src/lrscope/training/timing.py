"""Seconds of a step by each of the ways to train several runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from lrscope.isolation import isolated_rng, mode_of
from lrscope.optimizers.functional import FunctionalOptimizer
from lrscope.optimizers.spec import OptimizerSpec
from lrscope.tasks import BatchStream, Task
from lrscope.training.captured import Graphs, Lane
from lrscope.training.chunk import LOOK_EVERY
from lrscope.training.feed import Feed, joined
from lrscope.training.lanes import threads, workers
from lrscope.training.program import Program, Traits
from lrscope.training.updates import Updates

TRIALS = 3
"""Timed steps, after one to warm up. The fastest counts: other programs on the machine only ever add time."""

CAPTURED_STEPS = 2 + (TRIALS + 1) * LOOK_EVERY
"""Gradients of a replica to time a captured program: two to check it by, and whole blocks of updates."""


def batched(task: Task, spec: OptimizerSpec, seeds: Sequence[int], traits: Traits, number: int) -> float:
    program, rule = Program(task, seeds, traits), FunctionalOptimizer(spec)
    state = rule.init(program.theta)
    feed = Feed.of(task, seeds)
    still = torch.zeros(len(seeds), 1, device=program.theta.device, dtype=program.theta.dtype)

    def step() -> None:
        losses, grads = program.gradients(*feed.next(seeds))
        rule.update(program.theta, grads, still, state)
        losses.sum().item()  # waits for the device

    with isolated_rng(seeds[0]), mode_of(program.model, training=True), threads(number):
        return _best(step)


def captured(task: Task, spec: OptimizerSpec, seeds: Sequence[int], traits: Traits, lanes: int) -> float:
    """Seconds of a step per chunk when ``lanes`` train at the same time; infinite if they cannot be captured."""
    graphs, feed, shared = Graphs(), Feed.of(task, seeds), len(set(seeds)) == 1
    (draw,) = feed.block(1, seeds)
    steps: list[Callable[[], None]] = []
    wide = torch.promote_types(traits.grad.dtype, torch.float32)
    still = torch.zeros(LOOK_EVERY, len(seeds), 1, dtype=wide)
    with isolated_rng(seeds[0]), ExitStack() as stack:
        for _ in range(lanes):
            program = Program(task, seeds, traits)
            stack.enter_context(mode_of(program.model, training=True))
            played, rule = Lane(graphs).enter(program), FunctionalOptimizer(spec)
            batch, dims = joined(draw, seeds, shared=shared)
            if played.tape(batch, dims) is None:
                return float("inf")
            state, losses = rule.init(program.theta), torch.empty(LOOK_EVERY, len(seeds), dtype=traits.loss.dtype)
            rule.update(played.program.theta, played.gradients(batch, dims)[1], still[0], state)
            updates = Updates(played, rule, state, seeds, shared=shared)
            updates.prepare(draw)
            numbers = rule.numbers(still, state.step)
            steps.append(partial(updates.play, [draw] * LOOK_EVERY, numbers, losses))
        with workers(lanes) as pool:
            if pool is None:
                return _best(steps[0]) / LOOK_EVERY
            together = _best(lambda: [future.result() for future in [pool.submit(step) for step in steps]])
            return together / lanes / LOOK_EVERY


def one_run(task: Task, spec: OptimizerSpec, seed: int, number: int) -> float:
    model, stream = task.model(seed), BatchStream(task.train, seed)
    opt = spec.build([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        opt.zero_grad()
        loss = task.loss_fn(model, task.to_device(next(stream)))
        loss.backward()
        opt.step()
        loss.item()

    with isolated_rng(seed), mode_of(model, training=True), threads(number):
        return _best(step)


def _best(step: Callable[[], Any]) -> float:
    step()
    times = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return min(times)
