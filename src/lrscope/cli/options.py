"""Options that several commands share, described once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from lrscope.tasks import Task

TaskName = Annotated[
    str,
    Parameter(help="Built-in name (digits, topics, cifar10, cifar100, text), file.py:function or module:function."),
]
Optimizer = Annotated[
    str, Parameter(help="sgd (momentum 0.9), adam, adamw; options as in 'adamw(weight_decay=0.1)'.")
]
Steps = Annotated[int | None, Parameter(help="Optimizer updates of the full run; default: the task's own.")]
Seed = Annotated[int, Parameter(help="Decides initialisation, data order and the model's own draws.")]
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
Engine = Annotated[str, Parameter(help="How short runs are run: auto, serial, replicas.")]


def load_task(
    name: str, set_: list[str] | None, data: Path | None, device: str, steps: int | None
) -> tuple[Task, int]:
    """The task of the command line on its device, and the steps of its full run.

    Raises:
        TaskError, ValueError: With what came, what is allowed and what to do.
    """
    import dataclasses

    import torch

    from lrscope.cli.workspace import settings
    from lrscope.tasks import load

    values = settings(set_)
    if data is not None:
        values["path"] = str(data)
    task = load(name, values)
    if device != "cpu":
        try:
            torch.zeros(1, device=device)
        except Exception as error:
            raise ValueError(
                f"--device: {device!r} cannot be used here ({_first_line(error)}); cpu always can"
            ) from error
        task = dataclasses.replace(task, device=device)
    length = steps if steps is not None else task.steps
    if length is None:
        raise ValueError(
            f"--steps: the task {task.name!r} names no length of its own; give the updates of the full run"
        )
    if length < 1:
        raise ValueError(f"--steps: expected a positive number of updates, got {length}")
    return task, length


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def describe(task: Task, config: dict[str, Any]) -> str:
    """One line that says what a command is about to do with which settings."""
    return f"{task.name}, " + ", ".join(f"{k} {v}" for k, v in config.items() if v is not None)
