"""What drives which key of which group, and how that may change in the middle of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrscope.errors import ScheduleError
from lrscope.optimizers.announce import announce
from lrscope.schedules import FeedbackSchedule, Replanned, Schedule, from_spec, replan
from lrscope.schedules.base import kinds
from lrscope.schedules.checks import did_you_mean, short, whole
from lrscope.schedules.replan import both_curves

Drive = Schedule | FeedbackSchedule | str
"""What drives a key: a schedule, or the name of the key that it follows."""

AS_SAVED = "build it as it was saved, or start anew"
_REMEDY = (
    'load_state_dict(state, replan="lr"), "fraction" or "shape"; '
    "schedules.from_spec(state['spec']['schedules'][...]) is the saved one"
)


def is_state(value: Any) -> bool:
    """Whether ``value`` looks like the state of a ScheduledLR."""
    keys = {"version", "step", "spec"}
    return isinstance(value, Mapping) and keys <= set(value) and isinstance(value["spec"], Mapping)


class Drives:
    """Schedules by key, for all groups and for single ones.

    A path names one of them: ``"lr"``, or ``"head/lr"`` of a single group.

    Attributes:
        common: What drives the keys of every group.
        groups: What drives keys of single groups instead, by the group's name or index.
        replanned: By path, the specifications that a script may still build after a change of plan.
        remedy: How a plan is changed on purpose, for the error that refuses another one; an adapter has its own.
    """

    def __init__(self, schedule: Any, groups: Mapping[str | int, Any] | None) -> None:
        self.common = _by_key("schedule", schedule)
        self.remedy = _REMEDY
        if not isinstance(groups, Mapping | None):
            raise ScheduleError(f"groups: must be a dict from names or indices to schedules, got {short(groups)}")
        if len({str(name) for name in groups or ()}) < len(groups or ()):
            raise ScheduleError(
                f"groups: a name and an index look the same in {short(list(groups or ()))}; rename one"
            )
        self.groups = {name: _by_key(f"groups[{name!r}]", s) for name, s in (groups or {}).items()}
        self.replanned: dict[str, list[Any]] = {}

    def driven(self) -> set[str]:
        """Every key that is driven in some group."""
        return {key for drives in (self.common, *self.groups.values()) for key in drives}

    def absolute(self) -> set[str]:
        """Keys whose schedule says itself that its values are absolute."""
        return {key for _, drives, key in self._places() if getattr(drives[key], "absolute", False)}

    def of(self, group: Mapping[str, Any], index: int) -> dict[str, tuple[str, Schedule | FeedbackSchedule]]:
        """For each driven key of a group: the path of what drives it, and that."""
        drives = {key: (key, drive) for key, drive in self.common.items()}
        names = [name for name in (index, group.get("name")) if name in self.groups]
        if len(names) > 1:
            raise ScheduleError(f"groups: group {index} is given schedules by its index and by its name {names[1]!r}")
        for name in names:
            if name is not None:
                drives |= {key: (f"{name}/{key}", drive) for key, drive in self.groups.get(name, {}).items()}
        found: dict[str, tuple[str, Schedule | FeedbackSchedule]] = {}
        for key, (path, drive) in drives.items():
            path, drive = drives.get(drive, (path, drive)) if isinstance(drive, str) else (path, drive)
            if isinstance(drive, str):
                raise ScheduleError(f"schedule: {key} follows {short(drive)}, which no schedule drives")
            found[key] = (path, drive)
        return found

    def specs(self) -> dict[str, Any]:
        """Plain data, by path."""
        return {path: _to_spec(drives[key]) for path, drives, key in self._places()}

    def replan(self, key: str, group: str | int | None, new: Schedule | int, at: int, keep: str) -> Replanned:
        """Change one schedule from step ``at`` on."""
        drives = self.common if group is None else self.groups.get(group, {})
        old = drives.get(key)
        if isinstance(old, str | FeedbackSchedule):
            what = f"follows {old}; replan that" if isinstance(old, str) else "is driven by a schedule that listens"
            raise ScheduleError(f"replan: {key} {what}")
        if not isinstance(old, Schedule):
            raise ScheduleError(f"replan: {short(key)} has no schedule of its own; {did_you_mean(key, drives)}")
        if not isinstance(new, Schedule):
            new = old.stretch(whole("replan", "new", new, at_least=1))
        changed = replan(old, new, at=at, keep=keep)
        self._adopt(key if group is None else f"{group}/{key}", drives, key, changed, new)
        return changed

    def load(self, saved: Mapping[str, Any], replanned: Mapping[str, list[Any]], step: int, keep: str | None) -> None:
        """Go on from the schedules of a state: they are these, or were replanned before, or are replanned now.

        Raises:
            ScheduleError: They are others, and ``keep`` does not say how to change the plan; both curves are drawn.
        """
        ours, changes = self.specs(), []
        if set(saved) != set(ours):
            then, now = ", ".join(saved), ", ".join(ours)
            raise ScheduleError(f"state_dict: was saved driving {then}, this scheduler drives {now}; {AS_SAVED}")
        for path, drives, key in self._places():
            theirs, new = saved[path], drives[key]
            if theirs == ours[path]:
                continue
            if not isinstance(new, Schedule) or not isinstance(theirs, Mapping) or theirs.get("kind") not in kinds():
                raise ScheduleError(
                    f"state_dict: {path} was driven by {short(theirs)}, and is by {short(new)} now; {AS_SAVED}"
                )
            old = from_spec(theirs)
            if ours[path] in replanned.get(path, ()) or theirs in self.replanned.get(path, ()):
                changes.append((path, drives, key, old, None))  # the plan was changed from or to this one before
            elif keep is not None:
                changes.append((path, drives, key, replan(old, new, at=step, keep=keep), new))
            else:
                raise ScheduleError(
                    f"state_dict: {path} was saved with another schedule: at step {step} its factor is "
                    f"{old(step):.6g}, that of this one {new(step):.6g}; {AS_SAVED}, or change the plan on purpose: "
                    f"{self.remedy}\n{both_curves(old, new)}"
                )
        for path, drives, key, changed, new in changes:
            if isinstance(changed, Replanned):
                self._adopt(path, drives, key, changed, new)
            else:
                drives[key] = changed
        for path, specs in replanned.items():
            self._remember(path, specs)

    def _adopt(self, path: str, drives: dict[str, Drive], key: str, changed: Replanned, new: Schedule) -> None:
        """Run the changed plan, and remember from and to what, so that the script may resume with either."""
        self._remember(path, [changed.old.to_spec(), new.to_spec()])
        drives[key] = changed.schedule
        announce(f"{path} {changed}")

    def _remember(self, path: str, specs: list[Any]) -> None:
        known = self.replanned.setdefault(path, [])
        known += [spec for spec in specs if spec not in known]

    def _places(self) -> list[tuple[str, dict[str, Drive], str]]:
        """Where every schedule is kept: its path, the dict and the key."""
        own = [(f"{name}/{key}", drives, key) for name, drives in self.groups.items() for key in drives]
        return [(key, self.common, key) for key in self.common] + own


def _by_key(where: str, schedule: Any) -> dict[str, Drive]:
    if isinstance(schedule, Mapping) and "kind" in schedule:
        schedule = from_spec(schedule)
    if isinstance(schedule, FeedbackSchedule):
        schedule = schedule.drives()
    by_key = dict(schedule) if isinstance(schedule, Mapping) else {"lr": schedule}
    for key, value in by_key.items():
        follows = isinstance(value, str) and isinstance(schedule, Mapping)
        if isinstance(value, Mapping) and "kind" in value:
            by_key[key] = from_spec(value)
        elif not (isinstance(value, Schedule | FeedbackSchedule) or follows):
            plan = "; of a Plan give plan.schedule" if hasattr(value, "schedule") else ""
            raise ScheduleError(
                f"{where}: must be a Schedule or its spec, or a dict from group keys to them; got {short(value)} for "
                f"{short(key)}; text is read by lrscope.schedules.parse, a number is Constant(number){plan}"
            )
    if not by_key:
        raise ScheduleError(f"{where}: the dict is empty; give at least {{'lr': schedule}}")
    return by_key


def _to_spec(drive: Drive) -> Any:
    return drive if isinstance(drive, str) else drive.to_spec()
