"""The training loop: any torch optimizer, a schedule, probes, a record, an exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Objective
from lrscope.optimizers import OptimizerSpec, ScheduledLR, group_rates
from lrscope.records import Cost, Logger, Run, RunWriter, Status
from lrscope.tasks import BatchStream, Task
from lrscope.training import checkpoint
from lrscope.training.divergence import has_diverged
from lrscope.training.evaluate import evaluated
from lrscope.training.freezing import Freezing, Frozen
from lrscope.training.listening import ScheduleLike, check_hearing, check_schedule, spec_of, tell
from lrscope.training.probes import Probe, TrainState, due, finish, restore_states, states_of
from lrscope.training.recording import has_survived

OptimizerLike = OptimizerSpec | str | dict[str, Any] | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def train(
    task: Task,
    optimizer: OptimizerLike,
    schedule: ScheduleLike,
    steps: int,
    *,
    probes: Sequence[Probe] = (),
    seed: int = 0,
    name: str = "train",
    out: Path | str | None = None,
    evaluate_every: int | None = None,
    checkpoint_seconds: float = 20.0,
    resume: bool = False,
    on_step: Callable[[TrainState], None] | None = None,
    loggers: Sequence[Logger] = (),
    frozen: Frozen | None = None,
) -> Run:
    """Train a fresh model of ``task`` and return what was seen.

    Global random states are as before afterwards: the run draws from its own, started at ``seed``. A run that
    diverges (see :mod:`lrscope.training.divergence`) stops there and says so in its status.

    Args:
        task: What is trained.
        optimizer: A name or text (``"adamw"``, ``"sgd(momentum=0.9)"``), an :class:`OptimizerSpec`, or a function
            from parameters to any ``torch.optim.Optimizer``. With a name the schedule's values are the learning
            rates; with a function they multiply the base learning rate of each of its groups.
        schedule: Learning rate as a function of the step; one that listens, such as
            :class:`~lrscope.schedules.Plateau`, :class:`~lrscope.schedules.TwoPhase` or
            :class:`~lrscope.stability.CatapultWarmup`; or a dict of them by group key, as
            :class:`~lrscope.ScheduledLR` takes it. What listens hears, before each update, the ``loss`` of its batch,
            ``eval_loss`` and metrics where evaluated, and every column of the probes. What it measures by itself is
            an event ``measured`` of the record, and part of the cost.
        steps: Optimizer updates to make.
        probes: Measured just before an update; see :class:`~lrscope.training.probes.Probe`.
        seed: Decides initialisation, data order and the model's own draws.
        name: Names the run and its files.
        out: Directory for ``NAME.jsonl`` (rows as they come) and ``NAME.pt`` (the checkpoint); ``None`` writes
            nothing.
        evaluate_every: Steps between evaluations; ``None`` evaluates at the end only.
        checkpoint_seconds: Wall time between checkpoints. One is also written on Ctrl-C and at the end.
        resume: Continue from ``out/NAME.pt`` if there is one, bit for bit as if never interrupted (on one device
            with deterministic kernels).
        on_step: Called after every update with what was seen before it, for progress. A ``KeyboardInterrupt``
            raised here is a clean stop: nothing of the run is lost.
        loggers: Also get every row, as it comes; see :mod:`lrscope.adapters.loggers`.
        frozen: Layers that stay as they are at first: patterns of parameter or module names, with the step at which
            they start to train, as in ``{"head": 200, "blocks.[23].*": 100}``. While held they have no gradient, so
            no weight decay and no momentum moves them, then or later; buffers such as BatchNorm's move as always.

    Returns:
        :class:`~lrscope.records.Run` with ``loss`` and ``lr`` at every step, and ``eval_loss`` and the task's
        metrics where evaluated. Cost is in evaluations of one training batch.

    Raises:
        TaskError: The task breaks its contract; found before training starts.
        ValueError: An argument is out of range, a pattern of ``frozen`` matches nothing, or the checkpoint belongs to
            another run.
        KeyboardInterrupt: Passed on after the checkpoint and the record are written.
    """
    _check(task, steps, seed, probes, evaluate_every)
    check_schedule(schedule, steps)
    check_hearing(schedule, task, evaluate_every, probes)
    task.check()
    config = {
        "task": task.name,
        "optimizer": _describe(optimizer),
        "schedule": spec_of(schedule),
        "steps": steps,
        "seed": seed,
        "probes": [p.name for p in probes],
    }
    model = task.model(seed)
    freeze = Freezing(frozen, model) if frozen is not None else None
    config |= {"frozen": dict(frozen)} if frozen is not None else {}
    opt = build_optimizer(optimizer, model)
    scheduler = ScheduledLR(opt, schedule)
    stream = BatchStream(task.train, seed)
    step, first_loss, seconds_before = 0, math.nan, 0.0
    evaluations, batch_size = 0, 1  # examples evaluated, and those of a training batch, for the cost
    measured = Cost()  # by schedules that measure
    lines = saved = None
    if out is not None:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        lines, saved = out / f"{name}.jsonl", out / f"{name}.pt"

    with isolated_rng(seed), mode_of(model, training=True):
        state: dict[str, Any] | None = None
        if resume and saved is not None and saved.exists():
            state = checkpoint.load(saved)
            _same_run(state["config"], config, saved)
            _same_model(state["model"], model.state_dict(), saved)
            model.load_state_dict(state["model"])
            opt.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            stream.load_state_dict(state["stream"])
            restore_states(probes, state["probes"])
            step, first_loss, seconds_before = state["step"], state["first_loss"], state["seconds"]
            evaluations, batch_size = state["evaluations"], state["batch_size"]
            measured = Cost(**state.get("measured", {}))
            checkpoint.set_random_state(state["random"])
        writer = RunWriter(lines, name, config, append=state is not None, loggers=loggers)
        if state is not None:
            writer.event(step, "resumed")

        started = saved_at = time.monotonic()
        status: Status = "finished"

        def seconds() -> float:
            return seconds_before + time.monotonic() - started

        def save() -> None:
            if saved is None:
                return
            checkpoint.save(
                saved,
                {
                    "config": config,
                    "step": step,
                    "first_loss": first_loss,
                    "seconds": seconds(),
                    "evaluations": evaluations,
                    "batch_size": batch_size,
                    "measured": measured.to_dict(),
                    "model": model.state_dict(),
                    "optimizer": opt.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "stream": stream.state_dict(),
                    "probes": states_of(probes),
                    "random": checkpoint.random_state(),
                },
            )
            writer.flush()

        safe = True  # between two updates, so the state can be saved as it is
        try:
            while step < steps:
                reading: dict[str, float] = {}
                if evaluate_every and step % evaluate_every == 0:
                    reading, examples = evaluated(task, model)
                    writer.row(step, **reading)
                    evaluations += examples
                safe = False
                batch = task.to_device(next(stream))
                batch_size = task.count(batch)
                opt.zero_grad(set_to_none=True)
                loss = task.loss_fn(model, batch)
                loss.backward()
                if freeze is not None:
                    freeze(step)
                value = float(loss.detach())
                first_loss = value if math.isnan(first_loss) else first_loss
                if has_diverged(value, first_loss):
                    status = "diverged"
                    writer.row(step, loss=value, lr=_lr(opt))
                    writer.event(step, "diverged", loss=value if math.isfinite(value) else None)
                    break
                spent = tell(
                    scheduler,
                    {**reading, "loss": value},
                    partial(Objective, model, task.loss_fn, [batch], count=task.count),
                )
                if spent != Cost():
                    measured += spent
                    writer.event(step, "measured", lr=_lr(opt), forwards=spent.forwards)
                seen = TrainState(step, steps, value, _lr(opt), model, opt, batch, _event_of(writer, step))
                columns: dict[str, float | None] = {}
                for probe in probes:
                    if due(probe, step):
                        columns |= probe(seen)
                tell(scheduler, columns)
                row: dict[str, float | None] = {"loss": value, "lr": _lr(opt), **group_rates(opt)}
                writer.row(step, **row | columns)
                opt.step()
                scheduler.step()
                step += 1
                safe = True
                if on_step is not None:
                    on_step(seen)
                if time.monotonic() - saved_at > checkpoint_seconds:
                    save()
                    saved_at = time.monotonic()
            if status == "finished":
                final, examples = evaluated(task, model)
                evaluations += examples
                writer.row(steps, **final)
                if not has_survived(final, first_loss):  # the last update, which no training loss judged
                    status = "diverged"
                    writer.event(steps, "diverged", loss=None)
                else:
                    finish(probes, model, steps)
            save()
        except KeyboardInterrupt:
            # Mid-update the state is torn: the last whole checkpoint stands, and resuming repeats from there.
            if safe:
                save()
            writer.event(step, "interrupted")
            writer.close()
            raise
        cost = Cost(evaluations / batch_size, min(step + 1, steps), updates=step, seconds=seconds()) + measured
        cost += sum((getattr(p, "cost", Cost()) for p in probes), Cost())
        return writer.end(status, cost)


def build_optimizer(optimizer: OptimizerLike, model: nn.Module) -> torch.optim.Optimizer:
    """A torch optimizer over ``model``'s trainable parameters; base learning rate 1 when given by name."""
    params = [p for p in model.parameters() if p.requires_grad]
    if callable(optimizer):
        built = optimizer(params)
        if not isinstance(built, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer: the function given returned {type(built).__name__}, expected a torch.optim.Optimizer"
            )
        return built
    return OptimizerSpec.parse(optimizer).build(params, lr=1.0)


def _describe(optimizer: OptimizerLike) -> Any:
    if callable(optimizer):
        return getattr(optimizer, "__qualname__", type(optimizer).__name__)
    return OptimizerSpec.parse(optimizer).to_spec()


def _event_of(writer: RunWriter, step: int) -> Callable[..., None]:
    return lambda kind, **detail: writer.event(step, kind, **detail)


def _lr(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def _check(task: Task, steps: int, seed: int, probes: Sequence[Probe], evaluate_every: int | None) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a lrscope Task, got {type(task).__name__}; wrap it in lrs.Task(build=…)")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected a positive integer, got {steps!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected an integer of 0 or more, got {seed!r}")
    if evaluate_every is not None and evaluate_every < 1:
        raise ValueError(f"evaluate_every: expected a positive number of steps or None, got {evaluate_every!r}")
    names = [p.name for p in probes]
    if len(set(names)) < len(names):
        raise ValueError(f"probes: names must differ, got {', '.join(names)}")


def _same_run(stored: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    different = [k for k in {**config, **stored} if stored.get(k) != config.get(k)]
    if different:
        lines = "; ".join(f"{k}: stored {stored.get(k)!r}, asked {config.get(k)!r}" for k in different)
        raise ValueError(
            f"resume: {path} holds another run ({lines}); ask for the stored one, or give another directory"
        )


def _same_model(stored: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    before, now = ({k: tuple(v.shape) for k, v in s.items() if isinstance(v, Tensor)} for s in (stored, state))
    different = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if different:
        key = different[0]
        raise ValueError(
            f"resume: {path} holds another model ({key!r}: stored {before.get(key, 'none')}, the task now builds "
            f"{now.get(key, 'none')}); undo the change, or give another directory"
        )


__all__ = ["OptimizerLike", "build_optimizer", "check_schedule", "train"]
