"""Options that several commands share, described once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

from cyclopts import Parameter
from cyclopts.validators import Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from lrscope.schedules import FeedbackSchedule, Horizon, Schedule
    from lrscope.tasks import Task

TaskName = Annotated[
    str,
    Parameter(help="Built-in name (digits, topics, cifar10, cifar100, text), file.py:function or module:function."),
]
Optimizer = Annotated[
    str, Parameter(help="sgd (momentum 0.9), adam(w), giadam(w), radam; options as in 'adamw(weight_decay=0.1)'.")
]
Steps = Annotated[int | None, Parameter(help="Optimizer updates of the full run; default: the task's own.")]
Seed = Annotated[
    int,
    Parameter(
        help="Decides initialisation, data order and the model's own draws.", validator=Number(gte=0, lt=2**32)
    ),
]
Out = Annotated[
    Path | None, Parameter(help="Directory of the results; default: one that this same command finds again.")
]
Settings = Annotated[
    list[str] | None,
    Parameter(name="--set", help="name=value for the task's function, such as model=cnn; repeatable.", negative=()),
]
Data = Annotated[Path | None, Parameter(help="Where the data of cifar10, cifar100 or text lies.")]
Device = Annotated[str, Parameter(help="cpu, cuda, cuda:1, mps …")]
Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON instead of text.", negative=())]
Fresh = Annotated[
    bool, Parameter(help="Start anew; results of an earlier run in the directory are moved aside.", negative=())
]
Engine = Annotated[Literal["auto", "serial", "replicas"], Parameter(help="How short runs are run.")]

MOST_STEPS = 100_000_000
"""A schedule's values take eight bytes per update."""


def load_task(
    name: str, set_: list[str] | None, data: Path | None, device: str, steps: int | None, seed: int
) -> tuple[Task, int, dict[str, Any]]:
    """The task of the command line on its device, tried; the steps of its full run; and what names its results.

    Raises:
        TaskError, ValueError: With what came, what is allowed and what to do.
    """
    from lrscope.cli.failures import trying
    from lrscope.cli.fingerprint import fingerprint
    from lrscope.cli.workspace import settings
    from lrscope.tasks import load

    values = settings(set_)
    if data is not None:
        values["path"] = str(data)
    if steps is not None:
        check_steps(steps)
    with trying():
        task = _on_device(load(name, values), device)
        length = steps if steps is not None else task.steps
        if length is None:
            raise ValueError(
                f"--steps: the task {task.name!r} names no length of its own; give the updates of the full run"
            )
        check_steps(length)
        task.check()
        asked = {"task": name, "set": sorted(set_ or []), "data": str(data or ""), "device": device}
        asked |= {"steps": length, "seed": seed, "fingerprint": fingerprint(name, task, seed)}
    return task, length, asked


def check_steps(steps: int) -> None:
    """Refuse lengths that no run has, before a schedule is laid out in memory."""
    if steps < 1:
        raise ValueError(f"--steps: expected a positive number of updates, got {steps}")
    if steps > MOST_STEPS:
        raise ValueError(
            f"--steps: expected at most {MOST_STEPS:,} updates, got {steps:,}; is it examples or tokens?"
        )


def horizon(steps: int, steps_per_epoch: int | None, tokens_per_step: float | None) -> Horizon:
    """The run that lengths are of."""
    from lrscope.schedules import Horizon

    check_steps(steps)
    with _flags():
        return Horizon(steps, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step)


@overload
def in_steps(text: str, horizon: Horizon, *, listening: Literal[False] = False) -> Schedule: ...


@overload
def in_steps(text: str, horizon: Horizon, *, listening: bool) -> Schedule | FeedbackSchedule: ...


def in_steps(text: str, horizon: Horizon, *, listening: bool = False) -> Schedule | FeedbackSchedule:
    """The schedule that is written, for this run; or that a .json file holds, such as a plan or a refined one.

    ``listening`` says whether it may be one that listens to the run.
    """
    from lrscope.schedules import parse

    if text.strip().endswith(".json"):
        return _stored(Path(text.strip()), horizon.steps, listening=listening)
    if listening:
        _know_all(text)
    with _flags():
        return parse(text, horizon, listening=listening)


def _know_all(text: str) -> None:
    """Schedules that measure are known once their room is open, which takes torch and a second."""
    import importlib

    from lrscope.schedules.feedback import MEASURING

    if any(name in text for name in MEASURING):
        importlib.import_module("lrscope.stability")


def _stored(path: Path, steps: int, *, listening: bool) -> Schedule | FeedbackSchedule:
    """The schedule in a file: its spec, or an object with one under ``schedule``."""
    import json

    from lrscope.errors import ScheduleError
    from lrscope.schedules import Schedule, from_spec

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = f"cannot be read ({_first_line(error)})"
        raise ScheduleError(f"schedule: {path} {why}; give a file that lrscope plan wrote, or text") from None
    if listening:
        _know_all(json.dumps(found))
    spec = found["schedule"] if isinstance(found, dict) and "schedule" in found else found
    schedule = from_spec(spec, listening=listening)
    if not isinstance(schedule, Schedule):
        return schedule
    if schedule.num_steps is not None and schedule.num_steps > steps:
        raise ScheduleError(
            f"schedule: {path} is for {schedule.num_steps} steps, the run has {steps}; give --steps, or plan for them"
        )
    return schedule


def check_out(out: Path | None) -> None:
    """Refuse a file for values or a figure that could not be written, before any work."""
    from lrscope.errors import ScheduleError

    if out is None:
        return
    if out.suffix.lower() not in (".csv", ".png", ".svg", ".pdf"):
        raise ScheduleError(f"out: the name must end in .csv, .png, .svg or .pdf, got {out.name!r}")
    if not out.parent.is_dir():
        raise ScheduleError(f"out: the folder {str(out.parent)!r} does not exist; create it first")


def write_out(out: Path, columns: Callable[[], Mapping[str, ArrayLike]], draw: Callable[[Axes], None]) -> None:
    """Write a table of values, or a figure, as the name of the file says."""
    if out.suffix.lower() == ".csv":
        import csv

        from lrscope.schedules import csv_rows

        with out.open("w", newline="") as file:
            csv.writer(file).writerows(csv_rows(columns()))
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    draw(figure.add_subplot())
    figure.savefig(out)


@contextmanager
def _flags() -> Iterator[None]:
    """An error that names an argument of Horizon names the flag instead."""
    from lrscope.errors import ScheduleError

    try:
        yield
    except ScheduleError as error:
        said = re.sub(r"Horizon\((steps_per_epoch|tokens_per_step)=\.\.\.\)", lambda m: _flag(m[1]), str(error))
        said = re.sub(r"^Horizon: (steps_per_epoch|tokens_per_step)", lambda m: _flag(m[1]) + ":", said)
        raise type(error)(said) from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        ValueError: With torch's reason.
    """
    import torch

    if device == "cpu":
        return
    try:
        torch.zeros(1, device=device)
    except Exception as error:
        raise ValueError(
            f"--device: {device!r} cannot be used here ({_first_line(error)}); cpu always can"
        ) from error


def _on_device(task: Task, device: str) -> Task:
    import dataclasses

    check_device(device)
    return task if device == "cpu" else dataclasses.replace(task, device=device)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
