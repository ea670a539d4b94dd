"""A torch learning-rate scheduler that runs lrscope schedules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrscope.errors import ScheduleError
from lrscope.optimizers.announce import announce
from lrscope.optimizers.clock import UpdateClock
from lrscope.optimizers.drives import AS_SAVED, Drive, Drives, is_state
from lrscope.optimizers.lanes import (
    Group,
    Lane,
    Listener,
    base_of,
    floor_of,
    forget_momentum,
    name_of,
    own_tensors,
    place_of,
    plain,
)
from lrscope.schedules import FeedbackSchedule, Lookup, Replanned, Schedule
from lrscope.schedules.checks import did_you_mean, short, whole
from lrscope.schedules.replan import KEEPS

_VERSION = 2


class ScheduledLR(LRScheduler):
    r"""Drives the values of an optimizer's groups by schedules: a torch ``LRScheduler``.

    .. math:: \text{group}[key] = \max(\text{base}_{key} \cdot s_{key}(t), \text{floor})

    where t counts the updates that the optimizer has performed, and base is the group's own value when it was
    first seen; it is kept in the group as ``initial_<key>``, as torch keeps ``initial_lr``. Every value is computed
    from t alone: an edit of ``group["lr"]`` by hand lasts until the next step and leaks no further, and there is no
    rounding that adds up.

    - Call :meth:`step` after ``optimizer.step()``. It goes to the updates performed so far, which the optimizer
      itself is asked for: an update that mixed precision skipped, a micro-batch of an accumulated gradient, or a
      trainer that steps once per process moves nothing. :attr:`idle_calls` counts such calls, and being stepped
      several times per update is said once, in a warning.
    - Building changes the groups to the values at t, and their bases never: a second build changes nothing.
    - The state is plain data for ``torch.load(weights_only=True)``. Loading it writes the values at its step,
      whether the optimizer's state is loaded before or after.
    - A Tensor learning rate is filled in place. No step reads a value back from a device.
    - While it drives the momentum of SGD to 0, momentum buffers are forgotten: torch would keep them as they are, and
      go on from an old velocity once the momentum comes back.
    - A group added later takes its own value as base and joins before its first update.

    Args:
        optimizer: The optimizer; its groups' ``lr`` are the peaks if the schedule's largest factor is 1.
        schedule: Factors on ``lr``, or a dict from group keys (``"lr"``, ``"weight_decay"``, ``"momentum"``,
            ``"betas"``, ``"beta1"``, ``"beta2"``, ...) to schedules. The name of another key instead of a schedule
            follows it: ``{"lr": s, "weight_decay": "lr"}``. ``"momentum"`` is beta1 where a group has betas
            instead; the factor on ``betas`` is for each entry.
        last_epoch: One less than the step to start at, as in torch; -1 starts at step 0.
        groups: Schedules of single groups, by the group's ``"name"`` or its index; in place of ``schedule`` for the
            keys that they name.
        floor: The learning rate never goes below it: a number (absolute) or a share of each group's own rate
            (``"10%"``), for all groups or in a dict by group name.
        absolute: Keys whose schedules are the values themselves, not factors on the group's own.
        late: Names of groups in ``groups`` or ``floor`` that will be added later.
        own_clock: Whether a group added later starts at step 0 of its schedule, instead of joining at t.
        count: ``"updates"`` performed by the optimizer, or ``"calls"`` of :meth:`step`, as in torch.
        replan: What to keep if a state of another schedule is loaded, for trainers that restore by themselves; see
            :meth:`load_state_dict`.

    Raises:
        ScheduleError: A schedule, key, name or floor cannot mean anything.

    Example:
        >>> import torch
        >>> from lrscope.schedules import Cosine, warmup
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> scheduler = ScheduledLR(optimizer, warmup(2).then(Cosine(1.0, 0.0, 4)))
        >>> for _ in range(3):
        ...     print(optimizer.param_groups[0]["lr"])
        ...     optimizer.step()
        ...     scheduler.step()
        0.0
        0.05
        0.1
    """

    tells_bases = True
    """Whether loading a state of other bases is told."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Drive | Mapping[str, Drive],
        last_epoch: int = -1,
        *,
        groups: Mapping[str | int, Drive | Mapping[str, Drive]] | None = None,
        floor: float | str | Mapping[str | int, float | str] | None = None,
        absolute: Collection[str] = (),
        late: Collection[str] = (),
        own_clock: bool = False,
        count: str = "updates",
        replan: str | None = None,
    ) -> None:
        # The base class's own start is left out: it would take the values of the moment for the bases.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: must be a torch Optimizer, got {type(optimizer).__name__}")
        if count not in ("updates", "calls"):
            raise ScheduleError(f"count: unknown {short(count)}; {did_you_mean(count, ('updates', 'calls'))}")
        if replan is not None and replan not in KEEPS:
            raise ScheduleError(f"replan: unknown {short(replan)}; {did_you_mean(replan, KEEPS)}")
        self.optimizer = optimizer
        self.keep = replan
        self.drives = Drives(schedule, groups)
        self.floor = floor
        self.absolute = frozenset([absolute] if isinstance(absolute, str) else absolute) | self.drives.absolute()
        self.own_clock = bool(own_clock)
        self.last_epoch = whole("ScheduledLR", "last_epoch", last_epoch, at_least=-1) + 1
        self._step_count = 1
        self._check_names([late] if isinstance(late, str) else late)
        self._check_absolute()
        self._readers: dict[tuple[str, int], Lookup | Listener] = {}
        self._bases: dict[tuple[int, str], Any] = {}
        self._starts = [0] * len(optimizer.param_groups)
        self._counts = count == "updates"
        self._clock = UpdateClock(optimizer, self.write)
        self._bind()
        self._built = dict(self._bases)
        self._spec()  # what cannot be stored is refused now, not at the first checkpoint
        self.write()

    def step(self, epoch: int | None = None) -> None:
        """Go to the updates performed so far, after ``optimizer.step()``; ``epoch`` goes to that step instead."""
        self._step_count += 1
        clock = self._clock
        if epoch is not None:
            if isinstance(epoch, float | Tensor):
                raise ScheduleError(
                    f"ScheduledLR.step: epoch must be a whole number, got {short(epoch)}; a metric is reported by "
                    "scheduler.observe(loss=...), before step()"
                )
            self.last_epoch = whole("ScheduledLR.step", "epoch", epoch)
            clock.pending = 0
        elif not self._counts:
            self.last_epoch += 1
        elif clock.pending:
            self.last_epoch += clock.pending
            clock.pending = 0
            if clock.noting:
                clock.paired()
        else:
            clock.idle(self.optimizer)
            return
        self.write()
        for lane in self._lanes:
            if lane.key == "momentum":
                forget_momentum(self.optimizer, lane)

    def write(self) -> None:
        """Write the values of the current step to every group."""
        groups = self.optimizer.param_groups
        if groups is not self._bound or len(groups) != len(self._starts):
            self._bind()
        for lane in self._lanes:
            lane.write(self.last_epoch)
        self._clock.written = groups[0].get("lr")

    def observe(self, *, measure_on: Any = None, **metrics: float) -> None:
        """Report what was seen to the schedules that listen, such as :class:`~lrscope.schedules.Plateau`.

        Args:
            measure_on: For schedules that measure by themselves, such as
                :class:`~lrscope.stability.CatapultWarmup`: a function that makes the loss of the coming update's
                batch, ``lambda: lrs.Objective(model, loss_fn, [batch])``. Call this then between ``loss.backward()``
                (and clipping, if any) and ``optimizer.step()``. It is asked for only where something is measured.
            metrics: What was seen, by name.

        Raises:
            ScheduleError: None of them listens to any of it.
            MeasurementError: A schedule has to measure and cannot.
        """
        states, deaf = [], []
        for listener in {id(r): r for r in self._readers.values() if isinstance(r, Listener)}.values():
            schedule, state, step = listener.schedule, listener.state, self.last_epoch
            measured: Mapping[str, float] = {}
            if measure_on is not None and schedule.measures:
                unit = self._unit(listener)
                measured = schedule.measure(state, step, metrics, measure_on, self.optimizer, unit)
            try:
                states.append((listener, schedule.update(state, step, {**metrics, **measured})))
            except ScheduleError as error:
                deaf.append(error)
        if deaf and not states:
            raise deaf[0]
        for listener, state in states:
            listener.state, listener.heard = state, True
        self.write()

    def _unit(self, listener: Listener) -> float:
        """Learning rate of the first group that moves, for a value of 1 of a schedule that tries whole steps."""
        lanes = [lane for lane in self._lanes if lane.key == "lr" and lane.read is listener]
        bases = {id(group): base for lane in lanes for group, base, _ in lane.members}
        for i, group in enumerate(self.optimizer.param_groups):
            if id(group) not in bases:
                raise ScheduleError(
                    f"{type(listener.schedule).__name__}: measures with steps of all groups, but lr of group "
                    f"{name_of(group, i)} follows another schedule; let it drive lr of every group"
                )
        return next((base for base in bases.values() if base > 0), 1.0)

    @property
    def listens_to(self) -> frozenset[str]:
        """Names of what the schedules that listen want to hear by :meth:`observe`; empty where none does."""
        found = (r.schedule.listens_to for r in self._readers.values() if isinstance(r, Listener))
        return frozenset().union(*found)

    @property
    def heard(self) -> dict[str, dict[str, Any]]:
        """The states of the schedules that listen, by group key, as they are stored in :meth:`state_dict`."""
        return {path: dict(r.state) for (path, _), r in self._readers.items() if isinstance(r, Listener)}

    def replan(self, new: Schedule | int, *, keep: str, key: str = "lr", group: str | int | None = None) -> Replanned:
        """Change the plan from the current step on, and print both curves and the jump.

        Args:
            new: The new schedule, or a new length for the old one.
            keep: ``"lr"``, ``"fraction"`` or ``"shape"``, as in :func:`lrscope.schedules.replan`.
            key: The key whose schedule changes.
            group: The group whose own schedule changes; the common one unless given.
        """
        changed = self.drives.replan(key, group, new, self.last_epoch, keep)
        self._rebind()
        return changed

    @property
    def schedules(self) -> dict[str, Drive]:
        """What drives the keys of every group."""
        return self.drives.common

    @property
    def groups(self) -> dict[str | int, dict[str, Drive]]:
        """What drives keys of single groups instead."""
        return self.drives.groups

    @property
    def idle_calls(self) -> int:
        """Calls of :meth:`step` that found no update: skipped by mixed precision, or one call too many."""
        return self._clock.idle_calls

    def factors(self) -> dict[str, float]:
        """The schedules' values at the current step, by group key; those of single groups as ``"name/key"``."""
        return {path: read(self.last_epoch) for (path, start), read in self._readers.items() if start == 0}

    def driven_values(self) -> dict[str, float]:
        """What the next update uses, as ``<key>/<group>`` for logs: the learning rates, and every other driven key.

        A group is called by its ``name``, else by its index; entries of a tuple are numbered. Nothing is read from
        a device.
        """
        found: dict[str, float] = {}
        for i, (group, lr) in enumerate(zip(self.optimizer.param_groups, self.get_lr(), strict=True)):
            keys = {"lr": None} | {place_of(group, i, key)[0]: None for key in self.drives.of(group, i)}
            for key in keys:
                value = lr if key == "lr" else group[key]
                several = value if isinstance(value, tuple | list) else (value,)
                for j, number in enumerate(several):
                    if not isinstance(number, Tensor):
                        found[f"{key}/{name_of(group, i)}" + (f"/{j}" if len(several) > 1 else "")] = float(number)
        return found

    @property
    def base_lrs(self) -> list[float | Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Each group's own learning rate, which its schedule multiplies."""
        return [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    @property
    def _last_lr(self) -> list[float | Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.get_lr()

    @_last_lr.setter
    def _last_lr(self, value: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Torch's composites set it; it is computed anew all the same."""

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the current step, one per group, computed anew; plain numbers, so nothing aliases."""
        found = {
            id(group): max(base * lane.factor(self.last_epoch), floor)
            for lane in self._lanes
            if lane.key == "lr"
            for group, base, floor in lane.members
        }
        lrs = ((found.get(id(group)), group["lr"]) for group in self.optimizer.param_groups)
        return [(float(lr) if isinstance(lr, Tensor) else lr) if value is None else value for value, lr in lrs]

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rates last written, one per group: plain numbers, without asking a device for them."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Plain data: version, step (updates performed), and the specification of everything that is driven."""
        step = self._performed()
        state = {"version": _VERSION, "step": step, "spec": self._spec()}
        keys = sorted({key for _, key in self._bases})
        state["bases"] = {k: [self._bases.get((i, k)) for i in range(len(self._starts))] for k in keys}
        if self.own_clock:  # groups that have not joined yet will, at this step
            groups = self.optimizer.param_groups[len(self._starts) :]
            state["starts"] = self._starts + [group.get("schedule_start", step) for group in groups]
        if self.drives.replanned:
            state["replanned"] = {path: list(specs) for path, specs in self.drives.replanned.items()}
        heard = self.heard
        return state | {"heard": heard} if heard else state

    def load_state_dict(self, state_dict: dict[str, Any], *, replan: str | None = None) -> None:
        """Continue from a saved state and write its values to the groups.

        Args:
            state_dict: From :meth:`state_dict`.
            replan: What to keep if the state was saved with another schedule or length: ``"lr"``, ``"fraction"`` or
                ``"shape"``, as in :func:`lrscope.schedules.replan`. The jump is printed. ``None``: what the
                constructor was told; if nothing, that is an error.

        Raises:
            ScheduleError: The state is not one of ScheduledLR, or of another schedule than this one; the message
                draws both curves.
        """
        if not is_state(state_dict):
            raise ScheduleError(
                f"state_dict: must be a ScheduledLR state with version, step and spec, got {short(state_dict)}; "
                "to continue from another scheduler's checkpoint, build ScheduledLR(..., last_epoch=step - 1)"
            )
        if state_dict["version"] != _VERSION:
            raise ScheduleError(
                f"state_dict: version {short(state_dict['version'])} is not readable, only version {_VERSION}; "
                "load it with the lrscope that saved it"
            )
        step, saved = whole("state_dict", "step", state_dict["step"]), state_dict["spec"]
        ours = self._spec()
        for part in set(ours) - {"schedules"}:
            if saved.get(part) != ours[part]:
                raise ScheduleError(
                    f"state_dict: was saved with {part}={short(saved.get(part))}, this scheduler has "
                    f"{short(ours[part])}; {AS_SAVED}"
                )
        if self.tells_bases:
            self._tell_bases(state_dict.get("bases", {}))
        self.drives.load(saved["schedules"], state_dict.get("replanned", {}), step, replan or self.keep)
        self.last_epoch, self._step_count = step, step + 1
        self._clock.pending = 0
        groups, starts = self.optimizer.param_groups, state_dict.get("starts", ())
        for i, (group, start) in enumerate(zip(groups, starts, strict=False)):
            group["schedule_start"] = start
            self._starts[i : i + 1] = [start]  # also of a group that has not joined yet
        self._rebind()
        for (path, _), reader in self._readers.items():
            if isinstance(reader, Listener):
                reader.state, reader.heard = dict(state_dict.get("heard", {}).get(path, reader.state)), step > 0
        self.write()

    def _tell_bases(self, saved: Mapping[str, Any]) -> None:
        """A group's own value that the script has changed is lost, or not, by what else is restored: say so."""
        for (i, key), base in self._built.items():
            was = saved.get(key, ())[i : i + 1]
            if was and was[0] is not None and plain(was[0]) != base and key not in self.absolute:
                announce(
                    f"{key} of group {i} was saved with base {short(was[0])}, this run sets {short(base)}: restoring "
                    "the optimizer brings the saved one back; to change it on purpose scale the schedule"
                )

    def _spec(self) -> dict[str, Any]:
        floor = self.floor
        return {
            "schedules": self.drives.specs(),
            "floor": {str(name): f for name, f in floor.items()} if isinstance(floor, Mapping) else floor,
            "absolute": sorted(self.absolute),
            "own_clock": self.own_clock,
        }

    def _check_names(self, late: Collection[str]) -> None:
        """Every group that is named must be there, or announced as coming later: a wrong name must not be silent."""
        present = self.optimizer.param_groups
        names = [g["name"] for g in present if "name" in g]
        for name in (*self.groups, *(self.floor if isinstance(self.floor, Mapping) else ())):
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise ScheduleError(f"groups: a group is named by its name or index, got {short(name)}")
            there = name in names if isinstance(name, str) else 0 <= name < len(present)
            if not there and name not in late:
                named = (
                    did_you_mean(name, names) if names else "they have no names (give them: {'name': 'head', ...})"
                )
                raise ScheduleError(
                    f"groups: no parameter group is called {short(name)}; {named}, or an index below {len(present)}; "
                    f"a group that is added later is announced by late=[{name!r}]"
                )

    def _check_absolute(self) -> None:
        """What is absolute has no base, so nothing can be a share of it."""
        driven = self.drives.driven()
        for key in self.absolute - driven:
            raise ScheduleError(f"absolute: {short(key)} is not driven; {did_you_mean(key, driven)}")
        for drives in (self.schedules, *self.groups.values()):
            for key, drive in drives.items():
                if isinstance(drive, str) and ({key, drive} & self.absolute):
                    raise ScheduleError(
                        f"absolute: {key} follows {drive}, which works for factors only; give the group its peak as "
                        "its own rate, and a schedule with a largest factor of 1"
                    )
        floors = self.floor.values() if isinstance(self.floor, Mapping) else [self.floor]
        if self.floor is not None and "lr" not in driven:
            raise ScheduleError("floor: is for the learning rate, which no schedule drives here; drive it, or clip()")
        if "lr" in self.absolute and any(isinstance(floor, str) for floor in floors):
            raise ScheduleError(
                f"floor: {short(self.floor)} is a share of a base rate, and lr is absolute; give a number"
            )

    def _rebind(self) -> None:
        self._readers.clear()
        self._bind()

    def _bind(self) -> None:
        """Find out which value of which group follows which schedule, from what clock, with what base and floor."""
        groups = self.optimizer.param_groups
        for key in self.drives.driven():
            own_tensors(self.optimizer, key)
        lanes: dict[tuple[str, int, str, int | None], Lane] = {}
        for i, group in enumerate(groups):
            start = self._start_of(group, i)
            taken: dict[tuple[str, int | None], str] = {}
            for key, (path, drive) in self.drives.of(group, i).items():
                real, entry = place_of(group, i, key)
                _take(taken, key, real, entry)
                base = base_of(group, key, real, entry, self._bases.get((i, key)))
                self._bases[i, key] = base
                floor = floor_of(self._floor_of(group, i), base, f"group {i}") if key == "lr" else float("-inf")
                lane = (path, start, real, entry)
                if lane not in lanes:
                    lanes[lane] = Lane(self._reader(path, start, drive), start, real, entry, [])
                lanes[lane].members.append((group, 1.0 if key in self.absolute else base, floor))
        self._lanes = list(lanes.values())
        self._bound = groups
        self._clock.groups, self._clock.count = groups, len(groups)

    def _reader(self, path: str, start: int, drive: Schedule | FeedbackSchedule) -> Lookup | Listener:
        if isinstance(drive, FeedbackSchedule):
            start = 0  # what was heard is the same for every clock
        if (path, start) not in self._readers:
            reads = Listener(drive) if isinstance(drive, FeedbackSchedule) else Lookup(drive)
            self._readers[path, start] = reads
        return self._readers[path, start]

    def _performed(self) -> int:
        """Updates performed, also those that no step has taken yet."""
        return self.last_epoch + (self._clock.pending if self._counts else 0)

    def _start_of(self, group: Group, index: int) -> int:
        """The step at which the group's clock began; kept in the group, so it is stored with the optimizer."""
        if index >= len(self._starts):
            self._starts.append(group.get("schedule_start", self._performed() if self.own_clock else 0))
        if self.own_clock:
            self._starts[index] = group.setdefault("schedule_start", self._starts[index])
        return self._starts[index]

    def _floor_of(self, group: Group, index: int) -> Any:
        if not isinstance(self.floor, Mapping):
            return self.floor
        return self.floor.get(index, self.floor.get(group.get("name")))  # pyright: ignore[reportArgumentType]

    def __getstate__(self) -> dict[str, Any]:
        # Hooks and the groups' bindings belong to one optimizer object; a copy makes its own.
        left_out = ("_clock", "_lanes", "_bound")
        return {k: v for k, v in vars(self).items() if k not in left_out} | {"_pending": self._clock.pending}

    def __setstate__(self, state: dict[str, Any]) -> None:
        pending = state.pop("_pending")
        vars(self).update(state)
        self._clock = UpdateClock(self.optimizer, self.write)
        self._clock.pending = pending
        self._bind()
        self._clock.written = self.optimizer.param_groups[0].get("lr")


def _take(taken: dict[tuple[str, int | None], str], key: str, real: str, entry: int | None) -> None:
    """Note that ``key`` drives a value of the group; two schedules for one value would overwrite each other."""
    for (other, its_entry), name in taken.items():
        if other == real and (entry is None or its_entry in (None, entry)):
            raise ScheduleError(f"schedule: {name} and {key} both drive {real}; give one of them")
    taken[real, entry] = key
