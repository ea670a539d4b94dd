"""What a checkpoint says about the learning rate, whoever wrote it, against what a schedule says."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import ScheduleError
from lrscope.optimizers.drives import is_state
from lrscope.optimizers.lanes import floor_of, place_of
from lrscope.schedules import Schedule, from_spec
from lrscope.schedules.checks import short

_TOLERANCE = 1e-6  # relative: a rate that went through a float32 Tensor is that far off
_DEPTH = 4


@dataclass(frozen=True)
class StoredGroup:
    """A parameter group in a checkpoint: its place among them, its name, and everything it holds but parameters."""

    index: int
    name: str | None
    values: Mapping[str, Any]

    @property
    def lr(self) -> float:
        return float(self.values["lr"])


@dataclass(frozen=True)
class StoredRates:
    """What a checkpoint says about one optimizer.

    Attributes:
        name: Where in the checkpoint the optimizer lies.
        groups: Its parameter groups.
        steps: Updates done, by who counted them: ``"optimizer"``, ``"scheduler"``, ``"trainer"``. The first knows
            best; a trainer may count updates that mixed precision skipped.
        state: The state of the ScheduledLR that drove it; empty for another scheduler.
    """

    name: str
    groups: tuple[StoredGroup, ...]
    steps: dict[str, int]
    state: Mapping[str, Any]

    @property
    def schedules(self) -> dict[str, Any]:
        """The specifications that a ScheduledLR stored, by path: ``"lr"``, or ``"head/lr"`` of a single group."""
        return dict(self.state["spec"].get("schedules", {})) if self.state else {}


@dataclass(frozen=True)
class Compared:
    """One stored value against the schedule's; ``hint`` says what a wrong one looks like.

    ``expected`` is ``None`` for a value driven by a schedule that listens: it depends on what was observed.
    """

    group: StoredGroup
    key: str
    stored: float
    expected: float | None
    agrees: bool
    hint: str


def read_rates(path: str | Path, *, trust: bool = False) -> tuple[StoredRates, ...]:
    """Read a checkpoint: a file of ``torch.save``, of Lightning, or a directory of the Hugging Face Trainer.

    Args:
        path: The file, or a directory that holds ``optimizer.pt``.
        trust: Also read files that hold more than plain data and tensors; such a file may run code when it is read.

    Returns:
        Each optimizer in it.

    Raises:
        ScheduleError: It is no such file, holds no optimizer state, or does not tell which ScheduledLR drove which
            of several optimizers.
        OSError: It cannot be read.
    """
    path = Path(path)
    found: dict[str, Any] = {}
    for file in _files(path):
        if file.suffix == ".json":
            found[file.stem] = json.loads(file.read_text())
        else:
            found[file.stem] = _load(file, trust)
    named, deeper = _dicts(found if path.is_dir() else found[path.stem])
    dicts = [d for _, d in named]
    optimizers = [(name, d) for name, d in named if _is_optimizer(d)]
    if not optimizers:
        deep = f" within {_DEPTH} levels of dicts and lists, deeper ones are not searched" if deeper else ""
        raise ScheduleError(
            f"{path.name}: holds no optimizer state (a dict with param_groups that have an lr){deep}, but "
            f"{short(sorted(map(str, found.get(path.stem, found))))}; save optimizer.state_dict() with the weights"
        )
    states = _states([d for _, d in optimizers], [d for d in dicts if is_state(d)], path.name)
    epochs = [d["last_epoch"] for d in dicts if isinstance(d.get("last_epoch"), int)]
    if len(optimizers) > 1 and len(epochs) != len(optimizers):
        epochs = []  # whose they are is not known
    trainer = next((d["global_step"] for d in dicts if isinstance(d.get("global_step"), int)), None)
    if len(optimizers) > 1:
        trainer = None  # Lightning counts the updates of all together
    rates = []
    for i, ((name, optimizer), state) in enumerate(zip(optimizers, states, strict=True)):
        steps = {"optimizer": _performed(optimizer), "scheduler": epochs[i] if i < len(epochs) else None}
        if state:
            steps["scheduler"] = int(state["step"])
        steps = {who: n for who, n in (steps | {"trainer": trainer}).items() if n is not None}
        groups = tuple(
            StoredGroup(i, g.get("name"), {key: v for key, v in g.items() if key != "params"})
            for i, g in enumerate(optimizer["param_groups"])
        )
        rates.append(StoredRates(name, groups, steps, state))
    return tuple(rates)


def compare(
    stored: StoredRates, schedule: Schedule | None, step: int, base_lr: float | None = None
) -> list[Compared]:
    """Each driven value of each group against what its schedule says at ``step``.

    A ScheduledLR writes the values of its step when its state is loaded. So where it counts ``step`` updates,
    values of one step before are right, too: the checkpoint was saved between ``optimizer.step()`` and its own.

    Args:
        stored: From :func:`read_rates`.
        schedule: Factors on the learning rate; ``None`` for those that a ScheduledLR stored. Values of other keys
            are compared with the stored schedules.
        step: Updates done.
        base_lr: The base of groups that stored none.

    Raises:
        ScheduleError: A group stored no base, and none is given.
    """
    specs = stored.schedules | ({} if schedule is None else {"lr": schedule})
    listening = set(stored.state.get("heard", ())) - ({"lr"} if schedule is not None else set())
    pending = bool(stored.state) and stored.state["step"] == step > 0
    built: dict[str, Schedule] = {}
    rows = []
    for group in stored.groups:
        for key, path in _drives(specs, group).items():
            spec = specs[path]
            if path not in listening and path not in built:
                built[path] = spec if isinstance(spec, Schedule) else from_spec(spec)
            for name, value, base, low in _values(stored, group, key, base_lr):
                if path in listening:
                    kind = spec.get("kind") if isinstance(spec, Mapping) else spec
                    hint = f"driven by {kind}, a schedule that listens: what it should be cannot be known"
                    rows.append(Compared(group, name, value, None, True, hint))
                    continue
                curve = _curve(built[path], base, low, _start(stored, group, step))
                expected = curve(step)
                agrees, hint = _close(value, expected, base), ""
                if not agrees and pending and _close(value, curve(step - 1), base):
                    agrees, hint = True, "of one step before; loading writes it"
                if not agrees:
                    hint = _hint(value, curve, built[path], step)
                rows.append(Compared(group, name, value, expected, agrees, hint))
    return rows


def stored_schedule(stored: StoredRates, path: str = "lr") -> Schedule | None:
    """The schedule of the learning rate that a ScheduledLR stored, if there is one whose values can be known."""
    spec = stored.schedules.get(path)
    return from_spec(spec) if isinstance(spec, Mapping) and path not in stored.state.get("heard", ()) else None


def refused(stored: StoredRates, schedule: Schedule) -> str | None:
    """Why a ScheduledLR with this schedule would not load the stored state; ``None`` if it would."""
    spec = schedule.to_spec()
    if (
        not stored.state
        or stored.schedules.get("lr") == spec
        or spec in stored.state.get("replanned", {}).get("lr", ())
    ):
        return None
    old = stored.schedules.get("lr")
    was = (
        f"was saved with another schedule, {short(old)}"
        if old is not None
        else "was saved without one for every group"
    )
    return f"its ScheduledLR {was}: load_state_dict refuses the one given"


def _drives(specs: Mapping[str, Any], group: StoredGroup) -> dict[str, str]:
    """For each driven key of the group, the path of the schedule that drives it: its own one, if there is one."""
    paths = {path: path for path in specs if "/" not in path}
    for name in (str(group.index), group.name):
        paths |= {p.rpartition("/")[2]: p for p in specs if "/" in p and p.rpartition("/")[0] == name}
    # What is named instead of a schedule is the key that is followed.
    return {
        key: paths.get(specs[path], path) if isinstance(specs[path], str) else path for key, path in paths.items()
    }


def _values(
    stored: StoredRates, group: StoredGroup, key: str, base_lr: float | None
) -> Iterator[tuple[str, float, float, float]]:
    """Name, stored value, base and floor of a driven key: several for a tuple that is driven as a whole."""
    spec, values = stored.state.get("spec", {}), group.values
    real, entry = place_of(values, group.index, key)
    value = values[real] if entry is None else values[real][entry]
    base: Any = values.get(f"initial_{key}", base_lr if key == "lr" else None)
    if key in spec.get("absolute", ()):
        base = tuple(1.0 for _ in value) if isinstance(value, tuple | list) else 1.0
    if base is None:
        name = f"group {group.index} of the checkpoint has no initial_{key}"
        raise ScheduleError(
            f"base_lr: {name}, as it was saved without a scheduler; give the peak learning rate"
            if key == "lr"
            else f"{name}, though its ScheduledLR drives {key}; were optimizer and scheduler saved together?"
        )
    floor = spec.get("floor")
    if isinstance(floor, Mapping):
        floor = floor.get(str(group.index), floor.get(str(group.name)))
    if isinstance(value, tuple | list):
        bases = base if isinstance(base, tuple | list) else [base] * len(value)
        for i, (one, its_base) in enumerate(zip(value, bases, strict=True)):
            yield f"{key}/{i}", float(one), float(its_base), -math.inf
    else:
        base = float(base)
        low = floor_of(floor, base, f"group {group.index}") if key == "lr" else -math.inf
        yield key, float(value), base, low


def _start(stored: StoredRates, group: StoredGroup, step: int) -> int:
    """The step at which the group's own clock began."""
    if not stored.state.get("spec", {}).get("own_clock"):
        return 0
    starts = stored.state.get("starts", ())
    return starts[group.index] if group.index < len(starts) else group.values.get("schedule_start", step)


def _curve(schedule: Schedule, base: float, low: float, start: int) -> Callable[[int], float]:
    return lambda step: max(base * schedule(max(step - start, 0)), low)


def _close(value: float, expected: float, base: float) -> bool:
    return math.isclose(value, expected, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * abs(base) * 1e-6)


def _hint(value: float, curve: Callable[[int], float], schedule: Schedule, step: int) -> str:
    """Which other step has this value, or how many times off it is."""
    last = max(schedule.num_steps or 0, 2 * step, 1)
    # A window of every step near by, and a sample of the rest of a long run.
    near = set(range(max(step - 2000, 0), min(step + 2000, last) + 1))
    steps = sorted(near | {round(last * i / 2000) for i in range(2001)})
    close = []
    for t in steps:
        try:
            if math.isclose(curve(t), value, rel_tol=1e-6, abs_tol=0.0):
                close.append(t)
        except ScheduleError:  # a schedule that may not be asked past its end
            break
    if close:
        t = min(close, key=lambda t: abs(t - step))
        where = {1: "one step late", -1: "one step early: saved before scheduler.step()"}.get(t - step, f"step {t}")
        return f"that of {where}"
    expected = curve(step)
    return f"{value / expected:.4g} times as high" if expected else "where the schedule is 0"


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
        # Only what torch.save has written can hold more than plain data.
        advice = "is it a file of torch.save?"
        if not trust and zipfile.is_zipfile(file):
            advice = "if you trust its origin, --trust reads it"
        raise ScheduleError(
            f"{file.name}: cannot be read as plain data and tensors ({short(line)}); {advice}"
        ) from error


def _dicts(value: Any) -> tuple[list[tuple[str, Mapping[str, Any]]], bool]:
    """Every dict within by its place, outer ones first, and whether there are deeper ones.

    A model's weights are not entered, being tensors, nor what an optimizer holds.
    """
    found, seen, level = [], set(), [("", value)]
    for _ in range(_DEPTH):
        following: list[tuple[str, Any]] = []
        for place, item in level:
            inner: list[tuple[str, Any]] = []
            if isinstance(item, Mapping):
                if id(item) in seen:
                    continue
                seen.add(id(item))
                found.append((place, item))
                if not _is_optimizer(item):
                    inner = [(f"{place}.{key}" if place else str(key), v) for key, v in item.items()]
            elif isinstance(item, list | tuple):
                inner = [(f"{place}[{i}]", v) for i, v in enumerate(item)]
            following += [(name, v) for name, v in inner if isinstance(v, Mapping | list | tuple)]
        level = following
    return found, any(isinstance(item, Mapping) for _, item in level)


def _is_optimizer(d: Mapping[str, Any]) -> bool:
    groups = d.get("param_groups")
    return isinstance(groups, list) and bool(groups) and all(isinstance(g, Mapping) and "lr" in g for g in groups)


def _states(optimizers: list[Mapping[str, Any]], ours: list[Mapping[str, Any]], file: str) -> list[Mapping[str, Any]]:
    """For each optimizer the state of its ScheduledLR; empty if it has none."""
    if not ours or len(optimizers) == len(ours):
        return ours or [{} for _ in optimizers]
    if len(optimizers) == 1:
        return ours[:1]
    # A scheduler leaves the base values in its groups, so one without them has none.
    driven = [any(str(key).startswith("initial_") for g in d["param_groups"] for key in g) for d in optimizers]
    if sum(driven) != len(ours):
        raise ScheduleError(
            f"{file}: holds {len(optimizers)} optimizers and {len(ours)} states of ScheduledLR, and does not say "
            "which belong together; save each optimizer with its own to a file, and check these"
        )
    left = iter(ours)
    return [next(left) if has else {} for has in driven]


def _performed(optimizer: Mapping[str, Any]) -> int | None:
    """Updates that the optimizer counts in its own state; some, such as SGD, count none."""
    state = optimizer.get("state")
    entries = state.values() if isinstance(state, Mapping) else ()
    counts = [
        e["step"] for e in entries if isinstance(e, Mapping) and isinstance(e.get("step"), int | float | Tensor)
    ]
    return int(max(float(c) for c in counts)) if counts else None
