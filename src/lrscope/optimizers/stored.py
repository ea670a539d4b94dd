"""What a checkpoint says about the learning rate, whoever wrote it, against what a schedule says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import ScheduleError
from lrscope.schedules import Schedule, from_spec
from lrscope.schedules.checks import short

_TOLERANCE = 1e-6  # relative: a rate that went through a float32 Tensor is that far off
_DEPTH = 4


@dataclass(frozen=True)
class StoredGroup:
    """A parameter group in a checkpoint: its place among them, its name, its rate, and the base of that rate."""

    index: int
    name: str | None
    lr: float
    initial_lr: float | None


@dataclass(frozen=True)
class StoredRates:
    """What a checkpoint says about the learning rate.

    Attributes:
        groups: The parameter groups of the first optimizer found.
        steps: Updates done, by who counted them: ``"optimizer"``, ``"scheduler"``, ``"trainer"``. The first knows
            best; a trainer may count updates that mixed precision skipped.
        schedules: The schedules that a ScheduledLR stored, by path; empty for another scheduler.
    """

    groups: tuple[StoredGroup, ...]
    steps: dict[str, int]
    schedules: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One group's stored rate against the schedule's; ``hint`` says what a wrong one looks like."""

    group: StoredGroup
    expected: float
    agrees: bool
    hint: str


def read_rates(path: str | Path, *, trust: bool = False) -> StoredRates:
    """Read a checkpoint: a file of ``torch.save``, of Lightning, or a directory of the Hugging Face Trainer.

    Args:
        path: The file, or a directory that holds ``optimizer.pt``.
        trust: Also read files that hold more than plain data and tensors; such a file may run code when it is read.

    Raises:
        ScheduleError: It is no such file, or holds no optimizer state.
        OSError: It cannot be read.
    """
    path = Path(path)
    found: dict[str, Any] = {}
    for file in _files(path):
        if file.suffix == ".json":
            found[file.stem] = json.loads(file.read_text())
        else:
            found[file.stem] = _load(file, trust)
    dicts = list(_dicts(found))
    optimizer = next((d for d in dicts if _is_optimizer(d)), None)
    if optimizer is None:
        raise ScheduleError(
            f"{path.name}: holds no optimizer state (a dict with param_groups that have an lr), but "
            f"{short(sorted(map(str, found.get(path.stem, found))))}; save optimizer.state_dict() with the weights"
        )
    groups = tuple(
        StoredGroup(i, g.get("name"), float(g["lr"]), None if "initial_lr" not in g else float(g["initial_lr"]))
        for i, g in enumerate(optimizer["param_groups"])
    )
    ours = next((d for d in dicts if {"version", "step", "spec"} <= set(d) and isinstance(d["spec"], Mapping)), None)
    schedules = {} if ours is None else dict(ours["spec"].get("schedules", {}))
    return StoredRates(groups, _steps(dicts, optimizer, ours), schedules)


def compare(stored: StoredRates, schedule: Schedule, step: int, base_lr: float | None = None) -> list[Compared]:
    """Each group's stored rate against its base times the schedule at ``step``.

    Args:
        stored: From :func:`read_rates`.
        schedule: Factors on the base.
        step: Updates done.
        base_lr: The base of groups that stored none.

    Raises:
        ScheduleError: A group stored no base, and none is given.
    """
    factor = schedule(step)
    rows = []
    for group in stored.groups:
        base = group.initial_lr if group.initial_lr is not None else base_lr
        if base is None:
            raise ScheduleError(
                f"base_lr: group {group.index} of the checkpoint has no initial_lr, as it was saved without a "
                "scheduler; give the peak learning rate"
            )
        expected = base * factor
        agrees = math.isclose(group.lr, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * abs(base) * 1e-6)
        rows.append(Compared(group, expected, agrees, "" if agrees else _hint(group.lr, base, schedule, step)))
    return rows


def stored_schedule(stored: StoredRates, path: str = "lr") -> Schedule | None:
    """The schedule of the learning rate that a ScheduledLR stored, if there is one."""
    spec = stored.schedules.get(path)
    return from_spec(spec) if isinstance(spec, Mapping) else None


def _hint(lr: float, base: float, schedule: Schedule, step: int) -> str:
    """Which other step has this rate, or how many times off it is."""
    last = max(schedule.num_steps or 0, 2 * step, 1)
    # A window of every step near by, and a sample of the rest of a long run.
    near = set(range(max(step - 2000, 0), min(step + 2000, last) + 1))
    steps = sorted(near | {round(last * i / 2000) for i in range(2001)})
    close = [t for t in steps if math.isclose(base * schedule(t), lr, rel_tol=1e-6, abs_tol=0.0)]
    if close:
        t = min(close, key=lambda t: abs(t - step))
        where = {1: "one step late", -1: "one step early: saved before scheduler.step()"}.get(t - step, f"step {t}")
        return f"that of {where}"
    expected = base * schedule(step)
    return f"{lr / expected:.4g} times as high" if expected else "where the schedule is 0"


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        names = ("optimizer.pt", "scheduler.pt", "trainer_state.json")
        files = [path / name for name in names if (path / name).is_file()]
        if not files:
            raise ScheduleError(f"{path.name}: a directory without {', '.join(names)}; name the checkpoint's file")
        return files
    if not path.exists():
        raise ScheduleError(f"{str(path)!r}: no such file or directory")
    return [path]


def _load(file: Path, trust: bool) -> Any:
    try:
        return torch.load(file, weights_only=not trust, map_location="cpu")
    except OSError:
        raise
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = "is it a file of torch.save?" if trust else "if you trust its origin, --trust reads it"
        raise ScheduleError(
            f"{file.name}: cannot be read as plain data and tensors ({short(line)}); {advice}"
        ) from error


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every dict within, outer ones first; a model's weights are not entered, being tensors."""
    level = [value]
    for _ in range(_DEPTH):
        following: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                yield item
                following += [v for v in item.values() if isinstance(v, Mapping | list | tuple)]
            elif isinstance(item, list | tuple):
                following += [v for v in item if isinstance(v, Mapping | list | tuple)]
        level = following


def _is_optimizer(d: Mapping[str, Any]) -> bool:
    groups = d.get("param_groups")
    return isinstance(groups, list) and bool(groups) and all(isinstance(g, Mapping) and "lr" in g for g in groups)


def _steps(dicts: list[Mapping[str, Any]], optimizer: Mapping[str, Any], ours: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    state = optimizer.get("state")
    entries = state.values() if isinstance(state, Mapping) else ()
    counts = [
        e["step"] for e in entries if isinstance(e, Mapping) and isinstance(e.get("step"), int | float | Tensor)
    ]
    if counts:
        found["optimizer"] = int(max(float(c) for c in counts))
    scheduler = next((d["last_epoch"] for d in dicts if isinstance(d.get("last_epoch"), int)), None)
    if ours is not None:
        found["scheduler"] = int(ours["step"])
    elif scheduler is not None:
        found["scheduler"] = scheduler
    trainer = next((d["global_step"] for d in dicts if isinstance(d.get("global_step"), int)), None)
    if trainer is not None:
        found["trainer"] = trainer
    return found
