"""timm: its schedulers and configurations as schedules, and its way of stepping for ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from torch.optim import Optimizer

from lrscope.adapters.imported import Drive, Imported, collected, share
from lrscope.adapters.timm_formulas import after, curve, falls_to_zero, stairs
from lrscope.adapters.unread import warn_of_unread
from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import Constant, Linear, Plateau
from lrscope.schedules.checks import did_you_mean, number, several, short, whole


def from_timm(
    source: Any,
    *,
    updates_per_epoch: int | None = None,
    optimizer: Optimizer | None = None,
    steps: int | None = None,
) -> Imported:
    """The schedule that timm's training script would run, from one of its schedulers or from its configuration.

    Values equal timm's at every update, with a stair per epoch or, under ``--sched-on-updates``, without;
    docs/from_timm.md names the one place where they may differ. timm need not be installed to read a configuration.

    Args:
        source: A scheduler of ``timm.scheduler``, or the arguments of timm's training script as a dict or namespace
            (``sched``, ``epochs``, ``lr``, ``min_lr``, ``warmup_epochs``, ``sched_on_updates``, ``lr_cycle_limit``,
            ...); what is missing is as in ``timm.scheduler.scheduler_kwargs``.
        updates_per_epoch: Optimizer updates in an epoch. Needed by whatever is counted in epochs, thus by every
            configuration.
        optimizer: For a configuration: the factors are then of each group's own rate and ``lr_scale``. Without it
            they are of ``lr``, for looking at only. A scheduler knows its optimizer.
        steps: Updates in the run; needed only by ``step`` with a decay interval that is not whole.

    Returns:
        Factors on each group's ``initial_lr``, with its ``lr_scale`` in them. ``plateau`` becomes a
        :class:`~lrscope.schedules.Plateau` that observes ``loss``.

    Raises:
        ScheduleError: An unknown ``sched``, a number that is needed and missing, learning-rate noise (random, so no
            schedule), or a plateau with a warmup or an ``lr_scale``.

    Example:
        >>> config = {"sched": "cosine", "epochs": 10, "lr": 0.5, "warmup_epochs": 2, "warmup_lr": 0.05,
        ...           "warmup_prefix": True, "sched_on_updates": True}
        >>> from_timm(config, updates_per_epoch=100).only()
        Linear(0.1, 1.0, 200).then(Cosine(1.0, 0.0, 1000))

    References:
        timm 1.0.31, ``timm/scheduler``.
    """
    updates = (
        None if updates_per_epoch is None else whole("from_timm", "updates_per_epoch", updates_per_epoch, at_least=1)
    )
    if type(source).__name__ in _SCHEDULERS and hasattr(source, "base_values"):
        kind, settings, optimizer = _SCHEDULERS[type(source).__name__], source, source.optimizer
    else:
        kind, settings = _from_config(source, updates)
    if settings.noise_range_t is not None:
        raise ScheduleError("lr_noise: a rate with random noise is no schedule; leave the noise out")
    stair = 1
    if settings.t_in_epochs and kind != "plateau":
        if updates is None:
            raise ScheduleError("updates_per_epoch: needed, since this scheduler counts epochs")
        stair = updates
    groups = _groups(optimizer, settings)
    bases = () if optimizer is None else [base for base, _ in groups]
    return collected({"lr": [_drive(kind, settings, *of, stair, steps) for of in groups]}, bases)


class TimmStepping:
    """A :class:`~lrscope.ScheduledLR` with the face of a timm scheduler, for loops that are written for those.

    As there, the loop keeps count: ``step_update(num_updates)`` after each update, ``step(epoch)`` after each epoch
    with the number of the next one, and after a resume one of them with where to go on. The value is that of the
    update asked for, whatever was asked before.

    Args:
        scheduler: What runs the schedule.
        updates_per_epoch: Optimizer updates in an epoch.

    Example:
        >>> import torch
        >>> from lrscope.schedules import Linear
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> stepping = TimmStepping(ScheduledLR(optimizer, Linear(1.0, 0.0, 10)), updates_per_epoch=5)
        >>> stepping.step_update(2)
        >>> stepping.scheduler.get_last_lr()
        [0.4]
        >>> stepping.step_update(5)
        >>> stepping.step(epoch=1)
        >>> stepping.scheduler.get_last_lr()
        [0.25]
    """

    def __init__(self, scheduler: ScheduledLR, updates_per_epoch: int) -> None:
        if not isinstance(scheduler, ScheduledLR):
            raise TypeError(f"scheduler: expected a ScheduledLR, got {type(scheduler).__name__}")
        self.scheduler = scheduler
        self.updates_per_epoch = whole("TimmStepping", "updates_per_epoch", updates_per_epoch, at_least=1)
        drives = [scheduler.schedules, *scheduler.groups.values()]
        self._updates: int | None = None  # what the loop has reported since the last epoch
        self._told = False
        self._heard = {d.metric for keys in drives for d in keys.values() if isinstance(d, Plateau)}

    def step(self, epoch: int, metric: float | None = None) -> None:
        """Go to the first update of ``epoch``; ``metric`` is what a plateau listens to.

        If the updates reported do not end where ``epoch`` begins, ``updates_per_epoch`` is wrong and every epoch
        would begin with a jump: that is said once, in a warning.
        """
        update = whole("TimmStepping.step", "epoch", epoch) * self.updates_per_epoch
        if self._updates not in (None, update) and not self._told:
            self._told = True
            warnings.warn(
                f"TimmStepping: step(epoch={epoch}) goes to update {update}, but the loop has just reported "
                f"{self._updates} updates; updates_per_epoch={self.updates_per_epoch} does not fit the loop",
                LrscopeWarning,
                stacklevel=2,
            )
        self._updates = None
        self.scheduler.step(update)
        if metric is not None and self._heard:
            self.scheduler.observe(**dict.fromkeys(self._heard, float(metric)))

    def step_update(self, num_updates: int, metric: float | None = None) -> None:
        """Go to the update that follows ``num_updates`` finished ones; the metric of an update is not used."""
        del metric
        self._updates = whole("TimmStepping.step_update", "num_updates", num_updates)
        self.scheduler.step(self._updates)

    def state_dict(self) -> dict[str, Any]:
        """That of the scheduler."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """That of the scheduler."""
        self.scheduler.load_state_dict(state_dict)


_SCHEDULERS = {
    "CosineLRScheduler": "cosine",
    "TanhLRScheduler": "tanh",
    "PolyLRScheduler": "poly",
    "StepLRScheduler": "step",
    "MultiStepLRScheduler": "multistep",
    "WSDLRScheduler": "wsd",
    "PlateauLRScheduler": "plateau",
}
_KEYS = (
    *("sched", "sched_on_updates", "epochs", "lr", "min_lr", "warmup_epochs", "warmup_lr", "warmup_prefix"),
    *("decay_epochs", "decay_milestones", "decay_rate", "lr_cycle_mul", "lr_cycle_decay", "lr_cycle_limit"),
    *("lr_k_decay", "lr_decay_fn", "lr_stable_timescale", "patience_epochs", "eval_metric", "lr_noise"),
    # Known to timm and rightly not read: these shape the noise, and a cooldown stays at the floor.
    *("lr_noise_pct", "lr_noise_std", "cooldown_epochs", "model_ema_warmup"),
)
_NAMES = ("cosine", "tanh", "poly", "step", "constant", "multistep", "wsd", "rsqrt", "plateau", "none")


def _from_config(config: Any, updates: int | None) -> tuple[str, SimpleNamespace]:
    """The settings that timm's factory would give to the scheduler, under the scheduler's own names."""

    def read(key: str, default: Any = None) -> Any:
        return config.get(key, default) if isinstance(config, Mapping) else getattr(config, key, default)

    def amount(key: str, default: float, *, above: float | None = None) -> Any:
        value = number("config", key, read(key, default), above=above)
        return int(value) if value == int(value) else value

    def count(key: str, default: float, *, above: float | None = None) -> int:
        """An amount in epochs, in what the scheduler counts: epochs or updates, and a whole number of them."""
        value = amount(key, default, above=above) * unit
        if value < 0 or value != int(value):
            counted = "updates (epochs times updates_per_epoch)" if unit > 1 else "epochs" if in_epochs else "updates"
            raise ScheduleError(f"config: {key} must be a whole number of {counted}, got {short(read(key, default))}")
        return int(value)

    name = read("sched")
    if name not in _NAMES:
        raise ScheduleError(
            f"sched: unknown {short(name)}; {did_you_mean(name, _NAMES)}"
            if name is not None
            else f"source: expected a timm scheduler or a configuration with sched, got {short(config)}"
        )
    in_epochs = not read("sched_on_updates", False)
    if updates is None:
        raise ScheduleError("updates_per_epoch: needed, since a configuration counts in epochs")
    unit = 1 if in_epochs else updates
    keys = config if isinstance(config, Mapping) else getattr(config, "__dict__", ())
    warn_of_unread(keys, _KEYS, ("warmup", "sched", "lr_cycle"))
    decay = None if read("decay_epochs", 30) is None else amount("decay_epochs", 30, above=0)
    wsd, cycles = name in ("wsd", "rsqrt"), name in ("cosine", "tanh", "poly")
    s = SimpleNamespace(
        lr=read("lr"),
        t_in_epochs=in_epochs,
        noise_range_t=read("lr_noise"),
        t_initial=count("epochs", 100, above=0) if wsd else amount("epochs", 100, above=0) * unit,
        lr_min=amount("min_lr", 0.0),
        warmup_t=0 if name == "none" else count("warmup_epochs", 5),
        warmup_lr_init=amount("warmup_lr", 1e-5),
        warmup_prefix=bool(read("warmup_prefix", False)),
        cycle_mul=amount("lr_cycle_mul", 1.0, above=0),
        cycle_decay=amount("lr_cycle_decay", 0.1),
        cycle_limit=whole("config", "lr_cycle_limit", amount("lr_cycle_limit", 1)) if cycles else 1,
        k_decay=amount("lr_k_decay", 1.0, above=0),
        power=amount("decay_rate", 0.1),
        decay_rate=amount("decay_rate", 0.1),
        decay_t=(90 if decay is None else decay) * unit,
        lb=-7.0,
        ub=3.0,
    )
    if name == "constant":
        s.decay_rate, s.decay_t = 1.0, 1
    elif name == "multistep":
        at = several("config", "decay_milestones", read("decay_milestones", [30, 60]))
        s.decay_t = [number("config", "decay_milestones", m) * unit for m in at]
    elif wsd:
        _plan_wsd(s, name, 0.2 if decay is None else decay, read, unit)
    elif name == "plateau":
        s.patience, s.mode = (
            amount("patience_epochs", 10),
            "min" if "loss" in str(read("eval_metric", "top1")) else "max",
        )
    kind = {"constant": "step", "rsqrt": "wsd"}.get(name, name)
    return kind, s


def _plan_wsd(s: SimpleNamespace, name: str, decay: float, read: Callable[..., Any], unit: int) -> None:
    s.t_initial = s.t_initial if s.warmup_prefix else s.t_initial - s.warmup_t
    s.decay_t = round(decay * s.t_initial if 0 < decay < 1 else decay * unit)
    if not 0 < s.decay_t <= s.t_initial:
        raise ScheduleError(
            f"decay_epochs: the decay of {s.decay_t} must fit in the {s.t_initial} after the warmup, and not be 0"
        )
    timescale = read("lr_stable_timescale")
    s.stable_fn = "rsqrt" if name == "rsqrt" else "constant"
    s.stable_timescale = s.warmup_t if timescale is None else timescale * unit
    s.decay_fn = read("lr_decay_fn") or ("linear" if name == "rsqrt" else "1-sqrt")
    s.stable_power, s.decay_power, s.decay_ratio = 0.5, 0.5, 0.1
    if s.decay_fn not in (falls := falls_to_zero(s)):
        raise ScheduleError(f"lr_decay_fn: unknown {short(s.decay_fn)}; {did_you_mean(s.decay_fn, falls)}")
    if s.stable_fn == "rsqrt" and s.stable_timescale <= 0:
        raise ScheduleError("lr_stable_timescale: needed, since there is no warmup to take it from")


def _groups(optimizer: Optimizer | None, settings: Any) -> list[tuple[float, float]]:
    """Each group's own rate, and the share of the schedule's value that it gets."""
    if optimizer is None:
        if settings.lr is None:
            raise ScheduleError("lr: needed to turn min_lr and warmup_lr into factors; add it, or give optimizer=")
        return [(number("config", "lr", settings.lr, above=0), 1.0)]
    groups = optimizer.param_groups
    return [(float(g.get("initial_lr", g["lr"])), float(g.get("lr_scale", 1.0))) for g in groups]


def _drive(kind: str, s: Any, base: float, scale: float, stair: int, steps: int | None) -> Drive:
    if kind == "plateau":
        return _plateau(s, base, scale)
    if kind == "none":
        return Constant(1.0)
    warmup = 0 if s.warmup_t == 0 else whole("timm", "warmup_t", s.warmup_t)
    low = share(s.lr_min, base, "min_lr") if hasattr(s, "lr_min") else 0.0
    count = None if steps is None else -(-whole("from_timm", "steps", steps, at_least=1) // stair)
    body = curve(kind, s, low, count)
    starts_over = kind == "wsd" or s.warmup_prefix
    if warmup:
        peak = body(warmup) if kind == "tanh" and not starts_over else 1.0
        rise = Linear(share(s.warmup_lr_init, base, "warmup_lr"), peak, warmup)
        body = rise.then(body if starts_over else after(body, warmup))
    elif body(0) != 1.0:  # timm starts at the group's own rate, and asks its formula from the second time on
        body = Constant(1.0, 1).then(after(body, 1))
    body = stairs(body, stair) if stair > 1 else body
    return body if scale == 1 else scale * body


def _plateau(s: Any, base: float, scale: float) -> Plateau:
    if s.warmup_t:
        raise ScheduleError(
            "plateau: a warmup before a schedule that listens cannot be read; multiply the group's rate by a warmup "
            "of your own, or choose a schedule"
        )
    if scale != 1:
        raise ScheduleError("plateau: lr_scale cannot be read; give the groups their own rates instead")
    inner = getattr(s, "lr_scheduler", None)
    if inner is None:
        inner = SimpleNamespace(factor=s.decay_rate, patience=s.patience, mode=s.mode, min_lrs=[s.lr_min])
    return Plateau(
        factor=float(inner.factor),
        patience=inner.patience,
        mode=inner.mode,
        threshold=getattr(inner, "threshold", 1e-4),
        cooldown=getattr(inner, "cooldown", 0),
        low=share(inner.min_lrs[0], base, "min_lr"),
        eps=share(getattr(inner, "eps", 1e-8), base, "eps"),
    )
