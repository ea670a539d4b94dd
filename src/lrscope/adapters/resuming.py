"""A schedule in someone else's trainer: it goes on as it was saved, it is alone, and what runs is said once."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lrscope.adapters.telling import tell, warn_of_length
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.optimizers.lanes import name_of
from lrscope.schedules import Horizon
from lrscope.schedules.checks import whole


class TrainerLR(ScheduledLR):
    """A ScheduledLR that a trainer restores.

    The state of another scheduler is passed over: :class:`Guard` then asks where this one is to begin.

    Attributes:
        restored: Whether a state was loaded.
        as_saved: Whether the values at the restored step are those that were written when it was saved.
    """

    tells_bases = False  # the guard compares them, once everything is restored
    restored = False
    as_saved = False

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        # Saved after an update and before the step that follows it: the optimizer still has the values used.
        return state if state["step"] == self.last_epoch else state | {"written": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any], *, replan: str | None = None) -> None:
        if not isinstance(state_dict, Mapping) or not {"version", "step", "spec"} <= set(state_dict):
            return
        super().load_state_dict(state_dict, replan=replan)
        self.restored = True
        self.as_saved = "written" not in state_dict and state_dict["spec"] == self.state_dict()["spec"]


class Guard:
    """Watches one optimizer and its scheduler by hooks on the optimizer, so under any trainer.

    Before the first update it compares a resumed run with its checkpoint and says what runs; at every update it
    compares the optimizer's learning rates with the schedule's.

    Attributes:
        scheduler: Built before the trainer restores anything: its bases are those of this run's settings.
        begun: Whether :meth:`begin` has been called.
    """

    def __init__(
        self,
        scheduler: ScheduledLR,
        call: str,
        *,
        updates: Callable[[], int],
        length: Callable[[], Horizon | None],
        active: Callable[[], bool],
        start: int | None = None,
        steps: bool = False,
    ) -> None:
        """
        Args:
            scheduler: What drives the optimizer.
            call: The function that the user gave the schedule to, for messages.
            updates: How many updates the trainer has made before this run.
            length: The run's length, asked for when the data are there.
            active: Whether the trainer trains; what happens to the optimizer elsewhere is nobody's business.
            start: Step to begin at where the checkpoint holds no state of the schedule.
            steps: Whether to step the scheduler after each update.
        """
        self.scheduler, self.call, self.steps = scheduler, call, steps
        self.updates, self.length, self.active = updates, length, active
        self.start = None if start is None else whole(call, "start", start)
        self.begun = False
        scheduler.drives.remedy = f'{call}(..., replan="lr"), "fraction" or "shape"'
        optimizer = scheduler.optimizer
        self._bases = {
            (i, key): group[f"initial_{key}"]
            for i, group in enumerate(optimizer.param_groups)
            for key in scheduler.drives.of(group, i)
        }
        self._stored: dict[str, float] = {}
        self._agreed = self._told = False
        # After ScheduledLR's own hooks, so that a group added late has joined and the update is counted.
        self._handles = [
            optimizer.register_load_state_dict_post_hook(self._loaded),
            optimizer.register_step_pre_hook(self._before_update),
            optimizer.register_step_post_hook(self._after_update),
        ]
        former = guard_of(optimizer)
        if former is not None:
            former.close()
        _GUARDS[optimizer] = weakref.ref(self)

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def begin(self, updates: int | None = None) -> None:
        """Before the first update: refuse to go on otherwise than saved, and say what runs. Later calls do nothing.

        Raises:
            ScheduleError: Checkpoint and this run's settings disagree.
        """
        if self.begun:
            return
        updates = self.updates() if updates is None else updates
        note = self._resume(updates) if updates else ""
        self._check()  # before anything is said to run
        self.begun = True
        length = self.length()
        tell(self.scheduler, length, note)
        if length is not None:
            moved = 0 if self.start is None else self.scheduler.last_epoch - updates
            warn_of_length(self.scheduler, length.steps + moved)

    def _resume(self, updates: int) -> str:
        scheduler, note = self.scheduler, f"; resumed at update {updates:,}"
        if not getattr(scheduler, "restored", scheduler.last_epoch > 0):
            if self.start is not None:
                self._adopt(self.start)
            elif scheduler.last_epoch == 0:
                raise ScheduleError(
                    f"resume: the checkpoint is at update {updates} but holds no state of this schedule, which would "
                    f"begin again at step 0; say where it is with {self.call}(..., start={updates}), or start=0 to "
                    "begin it here"
                )
            return f"{note}, step {scheduler.last_epoch:,} of the schedule"
        self._compare(updates)
        skipped = updates - scheduler.last_epoch
        if self.start is not None:
            return f"{note}, step {scheduler.last_epoch:,} of the schedule"
        if skipped < -1:  # -1: the checkpoint was written within an update that the trainer had not counted yet
            raise ScheduleError(
                f"resume: the schedule in the checkpoint is at step {scheduler.last_epoch}, the trainer at {updates}"
                f"; {self.call}(..., start=) says that it began elsewhere on purpose"
            )
        return note + (f", of which {skipped:,} were skipped" if skipped > 0 else "")

    def _adopt(self, start: int) -> None:
        """Begin at a step of our own in a run of another scheduler, whose bases are not ours."""
        for (i, key), base in self._bases.items():
            self.scheduler.optimizer.param_groups[i][f"initial_{key}"] = base
        self.scheduler.load_state_dict(self.scheduler.state_dict() | {"step": start})

    def _compare(self, updates: int) -> None:
        scheduler, groups = self.scheduler, self.scheduler.optimizer.param_groups
        for (i, key), base in self._bases.items():
            stored = groups[i].get(f"initial_{key}", base)
            if stored != base and key not in scheduler.absolute:
                raise ScheduleError(
                    f"resume: {key} of group {name_of(groups[i], i)} has base {stored!r} in the checkpoint of update "
                    f"{updates}, this run sets {base!r}, which the trainer has overwritten; put it back; to change "
                    f'it on purpose scale the schedule, such as "2 * (...)", with {self.call}(..., replan="shape")'
                )
        if not getattr(scheduler, "as_saved", scheduler.keep is None):
            return
        now = used_values(scheduler)
        for name, stored in self._stored.items():
            if name in now and not math.isclose(now[name], stored, rel_tol=1e-6):  # a Tensor's rate is in float32
                raise ScheduleError(
                    f"resume: {name} is {stored!r} in the checkpoint of update {updates}, and would go on at "
                    f"{now[name]!r}, as this schedule has it; put back what changed it"
                )

    def _loaded(self, optimizer: Optimizer) -> None:
        rates = {f"lr/{name_of(g, i)}": float(g["lr"]) for i, g in enumerate(optimizer.param_groups)}
        self._stored = used_values(self.scheduler) | rates
        self.scheduler.write()  # where the scheduler was restored first

    def _before_update(self, *_: Any) -> None:
        if self.active():
            self.begin()
            self._check()

    def _after_update(self, *_: Any) -> None:
        if self.active():
            self._check()  # once more: a closure may have changed them
            self._agreed = True
            if self.steps:
                self.scheduler.step()

    def _check(self) -> None:
        """Compare what the update uses with what the schedule says: an error at first, later a warning."""
        if self._told:
            return
        scheduler = self.scheduler
        for i, (group, expected) in enumerate(
            zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True)
        ):
            actual = group["lr"]
            if isinstance(actual, Tensor):  # asking a device for a number at every update would be slow
                same = self._agreed or math.isclose(float(actual), float(expected), rel_tol=1e-6)
            else:
                same = actual == expected
            if same:
                continue
            message = (
                f"learning rate: the schedule says {expected!r} for update {scheduler.last_epoch} of group "
                f"{name_of(group, i)}, the optimizer has {float(actual)!r}: something else sets it too; look for "
                "another callback or scheduler, a learning-rate finder, or an assignment to group['lr']"
            )
            if not self._agreed:
                raise ScheduleError(message)
            self._told = True
            warnings.warn(message, LrscopeWarning, stacklevel=3)
            return


_GUARDS: weakref.WeakKeyDictionary[Optimizer, weakref.ref[Guard]] = weakref.WeakKeyDictionary()


def guard_of(optimizer: Optimizer) -> Guard | None:
    """The guard that watches ``optimizer``: one at most."""
    known = _GUARDS.get(optimizer)
    return None if known is None else known()


def used_values(scheduler: ScheduledLR) -> dict[str, float]:
    """What the optimizer really has, as :meth:`ScheduledLR.driven_values` names it; no Tensor is read."""
    groups = scheduler.optimizer.param_groups
    rates = {f"lr/{name_of(g, i)}": float(g["lr"]) for i, g in enumerate(groups) if not isinstance(g["lr"], Tensor)}
    return scheduler.driven_values() | rates
