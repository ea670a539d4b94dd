"""``lrscope convert``: a schedule with weight decay as the one without it that trains the same functions."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

from lrscope.cli.options import Json, check_out, horizon, in_steps, write_out
from lrscope.records import strict_json
from lrscope.schedules import ExponentialEquivalent, Horizon, Schedule, chart, segments
from lrscope.schedules.exponential import DEFAULT_MAX_SCALE, Rule, exponential_equivalent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

_MAX_VALUES = 200
_FEWEST_STEPS = 10  # of a level, on average
_LARGEST = 300.0  # log10 of what a figure's axis can still hold


def convert(
    schedule: Annotated[str, Parameter(help="For example 'warmup(6%) > cosine(to=0)'.")],
    *,
    steps: Annotated[int, Parameter(help="Optimizer updates in the run.")],
    base_lr: Annotated[float, Parameter(help="The optimizer's learning rate, which the schedule multiplies.")],
    weight_decay: Annotated[
        str, Parameter(help="The optimizer's weight decay: a number, or a schedule such as '0.01 * linear(to=0)'.")
    ],
    momentum: Annotated[float, Parameter(help="The optimizer's momentum; 0 for none.")],
    rule: Annotated[
        Rule, Parameter(help="The update: torch.optim.SGD, velocity form, or decoupled decay.")
    ] = "torch",
    nesterov: Annotated[bool, Parameter(help="Refused: it has no exact equivalent.", negative=())] = False,
    rebase: Annotated[
        bool, Parameter(help="Scale the weights back when they have grown by 2**20; else one curve up to 1e30.")
    ] = True,
    steps_per_epoch: Annotated[int | None, Parameter(help="Updates per epoch, for lengths in epochs.")] = None,
    tokens_per_step: Annotated[float | None, Parameter(help="Tokens per update, for lengths in tokens.")] = None,
    out: Annotated[Path | None, Parameter(help="Also write the values: .csv, or a figure: .png, .svg, .pdf.")] = None,
    json: Json = False,
) -> None:
    """Translate a schedule with weight decay into an exactly equivalent one without, for scale-invariant weights.

    Prints both learning rates by phase, the growth, and where the run is rebased. With ``--json`` one object, with
    the values at up to 200 steps.
    """
    check_out(out)
    run = horizon(steps, steps_per_epoch, tokens_per_step)
    original = in_steps(schedule, run)
    found = exponential_equivalent(
        original,
        base_lr=base_lr,
        weight_decay=_number_or_schedule(weight_decay, run),
        momentum=momentum,
        steps=run.steps,
        rule=rule,
        max_scale=DEFAULT_MAX_SCALE if rebase else None,
        nesterov=nesterov,
    )
    if out is not None:
        _write(out, found)
    if json:
        print(strict_json(_as_json(schedule, found)))
        return
    print(schedule)
    for line in _lines(found, weight_decay):
        print(line)
    if out is not None:
        print(f"written: {out}")


def _number_or_schedule(text: str, run: Horizon) -> float | Schedule:
    try:
        return float(text)
    except ValueError:
        return in_steps(text, run)


@dataclass(frozen=True)
class _Phase:
    """One segment of the schedule: its steps, and both rates at its first and last one.

    ``log10`` is of the rate without weight decay as if never rebased, ``None`` where it is 0. The growth is known
    where the rate with weight decay is constant.
    """

    text: str
    first: int
    last: int
    lr: tuple[float, float]
    log10: tuple[float | None, float | None]
    growth_per_step: float | None


def _phases(found: ExponentialEquivalent) -> list[_Phase]:
    eta, log10, rows = _original(found), _log10_lr(found), []
    parts = segments(found.schedule)
    ends = [*(part.first for part in parts[1:]), found.steps]
    for part, after in zip(parts, ends, strict=True):
        after = min(after, found.steps)
        jumps = part.first + 1 + np.flatnonzero(np.diff(eta[part.first : after]))
        # The levels of a step decay are phases, too; a rate that changes all the time has none.
        levels = jumps.tolist() if jumps.size * _FEWEST_STEPS <= after - part.first else []
        for first, end in itertools.pairwise([part.first, *levels, after]):
            if first >= end:
                continue
            a, b = (float(x) if np.isfinite(x) else None for x in log10[[first, end - 1]])
            growth = None
            constant = bool((eta[first:end] == eta[first]).all())  # another rate grows differently at each step
            if constant and a is not None and b is not None and end - first > 1:
                growth = 10 ** ((b - a) / (end - 1 - first))
            rows.append(_Phase(part.text, first, end - 1, (float(eta[first]), float(eta[end - 1])), (a, b), growth))
    return rows


def _original(found: ExponentialEquivalent) -> np.ndarray:
    return found.base_lr * found.schedule.values(found.steps)


def _log10_lr(found: ExponentialEquivalent) -> np.ndarray:
    """log10 of the rate without weight decay, as if never rebased; -inf where it is 0."""
    r = found.recurrence
    with np.errstate(divide="ignore"):
        return (np.log10(r.lr) + 2 * (r.log_scale - np.log(r.scale)) / math.log(10))[: found.steps]


def _lines(found: ExponentialEquivalent, weight_decay: str) -> list[str]:
    table = [("steps", "with weight decay", "without", "growth per step", "segment")]
    for row in _phases(found):
        rates = " -> ".join(f"{lr:.4g}" for lr in row.lr)
        growth = "-" if row.growth_per_step is None else f"{row.growth_per_step:.6f}"
        table.append((f"{row.first} ... {row.last}", rates, " -> ".join(map(_power, row.log10)), growth, row.text))
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    log10 = _log10_lr(found)
    finite = log10[np.isfinite(log10)]
    momentum = found.recurrence.momentum[: found.steps]
    last = None if not np.isfinite(log10[-1]) else float(log10[-1])
    return [
        f"  weight decay    {weight_decay} -> 0",
        f"  momentum        {found.momentum:g} -> {_span(momentum)}",
        f"  last rate       {_original(found)[-1]:.6g} -> {_power(last)}",
        f"  last weights    {_power(found.recurrence.log_scale[-1] / math.log(10))} times those with weight decay",
        f"  rebased         {_rebased(found)}",
        "",
        *("  " + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in table),
        "",
        "log10 of the learning rate without weight decay, as if never rebased",
        chart(np.maximum(log10, finite.min())) if finite.size else "the rate is 0 throughout",
        "",
        "Exact for scale-invariant weights; all others keep the schedule and the weight decay that they have.",
    ]


def _power(log10: float | None) -> str:
    """A number given by its log10, which may be beyond what a float holds."""
    if log10 is None:
        return "0"
    if abs(log10) < 5:
        return f"{10**log10:.4g}"
    whole = math.floor(log10)
    return f"{10 ** (log10 - whole):.2f}e{whole:+d}"


def _span(values: np.ndarray) -> str:
    low, high = f"{values.min():.6g}", f"{values.max():.6g}"
    return low if low == high else f"{low} ... {high} (a schedule of its own, in --json and .csv)"


def _rebased(found: ExponentialEquivalent) -> str:
    at = list(found.rebases)
    if not at:
        return "never"
    shown = ", ".join(map(str, at[:6])) + (f" ... ({len(at)} times)" if len(at) > 6 else "")
    buffer = "divided, too" if found.rule == "velocity" else "multiplied by it"
    return f"before update {shown}: weights divided by {max(found.rebases.values()):.0f}, momentum buffers {buffer}"


def _as_json(text: str, found: ExponentialEquivalent) -> dict[str, object]:
    at = np.unique(np.linspace(0, found.steps - 1, min(_MAX_VALUES, found.steps)).astype(int))
    log10 = [float(x) if np.isfinite(x) else None for x in _log10_lr(found)[at]]
    return {
        "text": text,
        "spec": found.to_spec(),
        "phases": [asdict(phase) for phase in _phases(found)],
        "rebases": {str(step): factor for step, factor in found.rebases.items()},
        "log10_weights": float(found.recurrence.log_scale[-1] / math.log(10)),
        "steps": at.tolist(),
        "original_values": _original(found)[at].tolist(),
        "values": found.recurrence.lr[at].tolist(),
        "log10_values": log10,
        "momentum_values": found.recurrence.momentum[at].tolist(),
    }


def _write(out: Path, found: ExponentialEquivalent) -> None:
    original, lr = _original(found), found.recurrence.lr[: found.steps]

    def columns() -> dict[str, ArrayLike]:
        divide = [found.rebases.get(t, 1.0) for t in range(found.steps)]
        momentum = found.recurrence.momentum[: found.steps]
        return {"original_lr": original, "lr": lr, "momentum": momentum, "divide_weights_by": divide}

    def draw(axes: Axes) -> None:
        from lrscope.reports.preview import plot_schedule

        log10 = _log10_lr(found)
        whole = log10.max() < _LARGEST
        name = "without weight decay" if whole else "without weight decay, rebased"
        plot_schedule({"with weight decay": original, name: 10**log10 if whole else lr}, axes, yscale="log")

    write_out(out, columns, draw)
