"""Runs whose weights are wanted at chosen steps: trained once, kept, and found again in a directory."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.optimizers import OptimizerSpec
from lrscope.records import Run, strict_json
from lrscope.schedules import Constant, Join, Schedule
from lrscope.tasks import Task
from lrscope.tasks.fingerprint import fingerprint
from lrscope.tasks.fingerprint import same as _alike
from lrscope.training import Probe, TrainState, checkpoint, train
from lrscope.training.loop import OptimizerLike

State = dict[str, Tensor]
OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, in [0, 1]."""


class Keep:
    """A probe that keeps the model's state dict before chosen updates, and after the last one.

    Args:
        at: Numbers of finished updates.
        folder: Where to keep them, a file each; ``None`` keeps them in memory.
    """

    name = "keep"
    every: int | None = None

    def __init__(self, at: Iterable[int], folder: Path | None = None) -> None:
        self.at = frozenset(at)
        self.folder = folder
        self._states: dict[int, State] = {}

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        self._keep(state.model, state.step)
        return {}

    def finish(self, model: nn.Module, step: int) -> None:
        self._keep(model, step)

    @property
    def states(self) -> dict[int, State]:
        """State dicts by step; steps that the run never reached are missing."""
        if self.folder is None:
            return dict(sorted(self._states.items()))
        files = {step: self._file(step) for step in sorted(self.at)}
        return {step: checkpoint.load(file)["model"] for step, file in files.items() if file.exists()}

    def has(self, step: int) -> bool:
        return step in self._states if self.folder is None else self._file(step).exists()

    def _keep(self, model: nn.Module, step: int) -> None:
        if step not in self.at:
            return
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        if self.folder is None:
            self._states[step] = state
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(self._file(step), {"step": step, "model": state})

    def _file(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step-{step:08d}.pt"


def trained(
    task: Task,
    optimizer: OptimizerLike,
    schedule: Any,
    steps: int,
    at: Iterable[int],
    *,
    name: str,
    seed: int,
    out: Path | None,
    on_progress: OnProgress | None = None,
    probes: Iterable[Probe] = (),
    frozen: Mapping[str, int] | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Run, dict[int, State]]:
    """A run and its states at the steps ``at``; one that is finished in ``out`` is read, not repeated.

    A run whose states were kept at other steps is trained again, to the same end. ``about`` is what decides the run
    beside its configuration and the task's fingerprint.

    Raises:
        ValueError: ``out`` holds a run of this name of another task, or with other settings.
    """
    keep = Keep(at, None if out is None else out / f"{name}-states")

    def complete(run: Run) -> bool:
        upto = run.steps_done + (run.status == "finished")  # a step that diverged was not looked at
        return all(keep.has(step) for step in keep.at if step < upto)

    resume = out is not None
    if out is not None:
        lines = out / f"{name}.jsonl"
        _same_task(task, seed, out / f"{name}-task.json", dict(about or {}), known=lines.exists())
        if lines.exists():
            before = Run.read(lines)
            rule = optimizer if callable(optimizer) else OptimizerSpec.parse(optimizer).to_spec()
            asked = {"schedule": schedule.to_spec(), "steps": steps, "seed": seed, "task": task.name}
            asked |= {"optimizer": rule, "frozen": None if frozen is None else dict(frozen)}
            if all(before.config.get(k) == v for k, v in asked.items()) and before.status in ("finished", "diverged"):
                if complete(before):
                    return before, keep.states
                resume = False

    def told(state: TrainState) -> None:
        if on_progress is not None:
            on_progress(f"training: {name}", (state.step + 1) / steps)

    def go(resume: bool) -> Run:
        return train(
            task,
            optimizer,
            schedule,
            steps,
            probes=[keep, *probes],
            seed=seed,
            name=name,
            out=out,
            resume=resume,
            on_step=told,
            frozen=frozen,
        )

    run = go(resume)
    if resume and not complete(run):  # it went on from beyond a step that is wanted now
        run = go(False)
    return run, keep.states


def _same_task(task: Task, seed: int, file: Path, about: dict[str, Any], *, known: bool) -> None:
    """Hold the task and ``about`` against what ``file`` says of the run beside it, or write it for a new run."""
    asked = {"task": task.name, **fingerprint(task, seed), **about}
    if known:
        before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        differ = [k for k in {**asked, **before} if not _alike(before.get(k), asked.get(k))]
        if differ:
            said = ", ".join(WORDS.get(k, f"{k}: stored {before.get(k)!r}, asked {asked.get(k)!r}") for k in differ)
            raise ValueError(f"out: {file.parent} holds another study's runs ({said}); give another directory")
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    torn = file.with_name(f".{file.name}.{os.getpid()}")
    torn.write_text(strict_json(asked), encoding="utf-8")
    torn.replace(file)


WORDS = {
    "parameters": "the task's network has other parameters",
    "first_loss": "the task's first batch has another loss",
    "teacher": "the teacher has other weights",
}


def digest(model: nn.Module) -> str:
    """Of all its parameters and buffers, bit by bit."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def check_task(task: Any) -> None:
    if not isinstance(task, Task):
        hint = f"give lrs.tasks.load({task!r})" if isinstance(task, str) else "wrap it in lrs.Task(build=…)"
        raise TypeError(f"task: expected a lrscope Task, got {type(task).__name__}; {hint}")


def directory(out: Path | str | None) -> Path | None:
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"out: {out} is a file; give a directory")
    return None if out is None else Path(out)


def check_whole(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_rate(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite learning rate above 0, got {value!r}")


def length_of(task: Task, steps: int | None) -> int:
    """Updates of a run, as asked or as the task says."""
    length = task.steps if steps is None else steps
    if length is None:
        raise ValueError(f"steps: the task {task.name!r} names no length of its own; give the updates of a run")
    check_whole("steps", length, 1)
    return length


def with_drops(lr: float, steps: int, drops: Sequence[float]) -> Schedule:
    """``lr``, a tenth of it from the first share of the run on, a hundredth from the second …"""
    where = [0, *(round(share * steps) for share in drops)]
    if any(not 0 < share < 1 for share in drops) or sorted(set(where)) != where:
        raise ValueError(f"drops: expected increasing shares of the run between 0 and 1, got {tuple(drops)!r}")
    ends = [*where[1:], None]
    parts = [
        Constant(lr * 0.1**i, None if end is None else end - begin)
        for i, (begin, end) in enumerate(zip(where, ends, strict=True))
    ]
    return Join(tuple(parts)) if len(parts) > 1 else parts[0]


def loaded(task: Task, state: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """A model of ``task`` with the weights of ``state``."""
    model = task.model(seed)
    model.load_state_dict(state)
    return model


@torch.no_grad()
def movement(before: Mapping[str, Tensor], after: Mapping[str, Tensor], layer: str) -> float:
    r""":math:`\|w - w_0\| / \|w_0\|` over the weights of a layer; ``nan`` where they start at 0."""
    of_layer = [n for n in before if n.rpartition(".")[0] == layer]
    names = [n for n in of_layer if before[n].is_floating_point() and before[n].ndim > 1]
    moved = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
    size = sum(float(before[n].double().square().sum()) for n in names)
    return (moved / size) ** 0.5 if size > 0 else float("nan")
