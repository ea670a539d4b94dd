"""The schedulers of ``torch.optim.lr_scheduler``, read from the instance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as tl
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from lrscope.adapters.imported import Imported, collected, share
from lrscope.adapters.torch_formulas import (
    COMPOSITES,
    READERS,
    NoFormulaError,
    Place,
    base_of,
    leaves,
    momentum,
    own_copy,
    read,
)
from lrscope.errors import ScheduleError
from lrscope.schedules import Plateau, Table
from lrscope.schedules.checks import short, whole


def from_torch(scheduler: LRScheduler, *, steps: int | None = None) -> Imported:
    """The whole curve of a torch scheduler, from step 0 and past its end, as schedules.

    Reads every class of ``torch.optim.lr_scheduler`` and ``SWALR``, fresh or in the middle of a run, and changes
    nothing: functions of the user's own are called, an object that can be called as a copy. Values equal torch's own
    step-by-step computation within the rounding of float64; docs/from_torch.md lists where they are meant to differ.

    Args:
        scheduler: The scheduler, on its optimizer.
        steps: Updates in the run. Needed only where torch has no formula and the values are tabulated: functions
            of the user's own (``LambdaLR``, ``MultiplicativeLR``, a ``scale_fn``), a ``ChainedScheduler`` whose
            parts do more than multiply, and a momentum cycle that is part of a sequence. The last value is held.

    Returns:
        Factors on each group's ``initial_lr``; ``.run(optimizer)`` is the :class:`~lrscope.ScheduledLR`, ``.only()``
        the one schedule of a scheduler without differences between groups. A cycled momentum is there with its own
        values. ``ReduceLROnPlateau`` is a :class:`~lrscope.schedules.Plateau`, which falls only if it is told:
        ``scheduler.observe(loss=...)``.

    Raises:
        ScheduleError: ``steps`` is needed, a function of the user's keeps a state, or the class is not torch's:
            :func:`simulate` can tabulate it.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> from_torch(torch.optim.lr_scheduler.StepLR(optimizer, 30)).only()
        StepDecay(0.1, 30)
    """
    _check(scheduler)
    steps = None if steps is None else whole("from_torch", "steps", steps, at_least=1)
    groups = scheduler.optimizer.param_groups
    if isinstance(scheduler, tl.ReduceLROnPlateau):
        return collected({"lr": [_plateau(scheduler, i) for i in range(len(groups))]}, _bases(groups))
    try:
        bases = [base_of(scheduler, i) for i in range(len(groups))]
        drives = {"lr": [read(scheduler, Place(i, base, steps)) for i, base in enumerate(bases)]}
        momenta = [momentum(scheduler, i) for i in range(len(groups))]
    except NoFormulaError as reason:
        if steps is None:
            raise ScheduleError(f"{reason}; give steps= and the values are tabulated") from None
        return _tabulated(_rebuilt(scheduler), steps)
    if any(m is not None for m in momenta):
        drives["momentum"] = [m for m in momenta if m is not None]
    return collected(drives, bases, [key for key in drives if key == "momentum"])


def simulate(scheduler: LRScheduler, steps: int) -> Imported:
    """The values of any scheduler, tabulated by running a copy of it, with whatever torch does.

    For classes of the user's own, and to get torch's values where :func:`from_torch` reads what was meant. The
    scheduler and its optimizer stay as they are; the copy drives an optimizer without parameters.

    Args:
        scheduler: Freshly built if it, or a part of it, is ``SWALR`` or not one of torch's own classes: the others
            can be wound back. It must not need metrics.
        steps: How many steps; cost is that many calls of ``scheduler.step()``. The last value is held.

    Raises:
        ScheduleError: The scheduler has been stepped and cannot be wound back, or fails on its own.
    """
    _check(scheduler)
    if isinstance(scheduler, tl.ReduceLROnPlateau):
        raise ScheduleError("simulate: ReduceLROnPlateau follows a metric and has no values before the run")
    steps = whole("simulate", "steps", steps, at_least=1)
    lasting = [leaf for leaf in leaves(scheduler) if type(leaf) not in READERS]
    if type(scheduler) is SWALR:  # it does not keep the rate that it started from
        lasting = [scheduler]
    if not lasting:
        return _tabulated(_rebuilt(scheduler), steps)
    if max(leaf.last_epoch for leaf in leaves(scheduler)) > 0:
        raise ScheduleError(
            f"simulate: {type(lasting[0]).__name__} has been stepped, and cannot be wound back to its start; build "
            "it anew and simulate it before its first step"
        )
    bench = _bench(scheduler.optimizer, rewind=False)
    return _tabulated(copy.deepcopy(scheduler, {id(scheduler.optimizer): bench}), steps)


def _check(scheduler: Any) -> None:
    if not isinstance(scheduler, LRScheduler):
        raise TypeError(
            f"scheduler: expected a torch LRScheduler, got {type(scheduler).__name__}; if it wraps one, give that"
        )


def _bases(groups: Sequence[dict[str, Any]]) -> list[float]:
    return [float(group.get("initial_lr", group["lr"])) for group in groups]


def _plateau(s: tl.ReduceLROnPlateau, index: int) -> Plateau:
    group = s.optimizer.param_groups[index]
    if "initial_lr" not in group and s.last_epoch > 0:
        raise ScheduleError(
            "ReduceLROnPlateau: it keeps no base rate, and may have lowered the present one; read it before its "
            "first step"
        )
    base = float(group.get("initial_lr", group["lr"]))
    return Plateau(
        factor=float(s.factor),
        patience=s.patience,
        threshold=float(s.threshold),
        mode=s.mode,
        relative=s.threshold_mode == "rel",
        cooldown=s.cooldown,
        low=share(s.min_lrs[index], base, "min_lr"),
        eps=share(s.eps, base, "eps"),
    )


def _bench(optimizer: Optimizer, *, rewind: bool) -> Optimizer:
    """An optimizer with the same groups and one parameter of no size in each, to be driven without a trace."""
    groups = []
    for group in optimizer.param_groups:
        own = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in group.items() if k != "params"}
        if rewind and "initial_lr" in own:
            own["lr"] = float(own["initial_lr"])
        groups.append(own | {"params": [torch.zeros(0, requires_grad=True)]})
    bench = Optimizer(groups, dict(optimizer.defaults))
    stepped = lambda: None  # noqa: E731  torch asks whether the optimizer was stepped first, and it has nothing to do
    stepped._wrapped_by_lr_sched = bench._opt_called = True  # pyright: ignore[reportAttributeAccessIssue,reportFunctionMemberAccess]
    bench.step = stepped  # pyright: ignore[reportAttributeAccessIssue]
    return bench


def _rebuilt(scheduler: Any, bench: Optimizer | None = None) -> Any:
    """The scheduler as it was when it was new, parts in their order, on an optimizer of its own."""
    bench = _bench(scheduler.optimizer, rewind=True) if bench is None else bench
    if type(scheduler) in COMPOSITES:
        parts = [_rebuilt(part, bench) for part in scheduler._schedulers]
        if type(scheduler) is tl.SequentialLR:
            return tl.SequentialLR(bench, parts, list(scheduler._milestones))
        return tl.ChainedScheduler(parts, bench)
    fresh = copy.copy(scheduler)
    fresh.optimizer, fresh.last_epoch = bench, -1
    if hasattr(fresh, "lr_lambdas"):
        fresh.lr_lambdas = [own_copy(function) for function in fresh.lr_lambdas]
    if hasattr(fresh, "_scale_fn_custom"):
        fresh._scale_fn_custom = own_copy(fresh._scale_fn_custom)
    if type(fresh) is tl.CosineAnnealingWarmRestarts:
        fresh.T_cur, fresh.T_i = -1, fresh.T_0
    fresh._initial_step()
    return fresh


def _tabulated(scheduler: Any, steps: int) -> Imported:
    """Run a scheduler whose optimizer is our own."""
    groups: Sequence[dict[str, Any]] = scheduler.optimizer.param_groups
    cycles = any(getattr(leaf, "cycle_momentum", False) for leaf in leaves(scheduler))
    keys = ["lr", "momentum"] if cycles else ["lr"]
    rows: dict[str, list[list[float]]] = {key: [[] for _ in groups] for key in keys}
    bases = _bases(groups)
    for t in range(steps):
        if t:
            try:
                scheduler.step()
            except Exception as error:
                raise ScheduleError(
                    f"{type(scheduler).__name__}: torch itself fails at step {t} with {type(error).__name__}: "
                    f"{short(str(error))}; ask for at most {t} steps"
                ) from error
        for i, group in enumerate(groups):
            rows["lr"][i].append(share(group["lr"], bases[i], "lr"))
            if cycles:
                rows["momentum"][i].append(float(group["momentum"] if "momentum" in group else group["betas"][0]))
    return collected({key: [Table(tuple(row)) for row in rows[key]] for key in keys}, bases, keys[1:])
