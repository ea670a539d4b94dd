"""The program: its commands, and how an error becomes an exit code.

Exit codes: 0 good; 1 the work failed; 2 wrong usage; 3 measured, and the answer is bad; 130 on Ctrl-C.
"""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App

from lrscope._version import __version__
from lrscope.cli.failures import WorkError
from lrscope.errors import LrscopeError, MeasurementError, TaskError

FAILED, USAGE, BAD_ANSWER, STOPPED = 1, 2, 3, 130
TRACEBACK = "LRSCOPE_TRACEBACK"
"""Environment variable; with 1, an error shows the whole traceback before its line."""
_FLAGS = {
    "base_lr": "--base-lr",
    "budget": "--budget",
    "decay": "--decay",
    "engine": "--engine",
    "every": "--watch-every",
    "lr": "--lr",
    "measure": "--measure",
    "num_seeds": "--seeds",
    "optimizer": "--optimizer",
    "out": "--out",
    "seed": "--seed",
    "seeds": "--seeds",
    "settings": "--set",
    "steps": "--steps",
    "warmup": "--warmup",
    "warmups": "--warmups",
}
"""What the library calls an argument, and what the command line calls it."""
_VALUE = re.compile(rf"\b({'|'.join(_FLAGS)})=(?=\d)")

app = App(
    name="lrscope",
    help="Which learning rate, how long a warmup, why did it diverge: measured on your own training.\n\n"
    "TASK is a built-in name (digits, topics, cifar10, cifar100, text), file.py:function or module:function.",
    version=__version__,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
# Import paths, not functions: a command's module is imported when it is the one asked for.
app.command("lrscope.cli.run:run", help="Plan a schedule for TASK, train with it, explain what happened.")
app.command("lrscope.cli.plan:plan", help="Choose peak learning rate and warmup for TASK by short measured runs.")
app.command("lrscope.cli.train:train", help="Train TASK with a schedule you give, watching stability.")
app.command("lrscope.cli.sweep:sweep", help="Train TASK at every point of a grid; phase diagrams, resumable.")
app.command("lrscope.cli.show:show", help="Preview a schedule in the terminal or as PNG, SVG or CSV.")
app.command("lrscope.cli.check:check", help="Compare the learning rates in a checkpoint with the schedule's.")
app.command("lrscope.cli.convert:convert", help="Translate weight decay into an equivalent exponential schedule.")
app.command("lrscope.cli.reproduce:reproduce", help="Measure what papers state, and say whether it holds.")
app.command("lrscope.cli.compare:compare", help="Loss between two trained networks, and how alike their layers are.")
app.command("lrscope.cli.report:report", help="Write the report of a run directory, finished or not.")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our characters is no reason to lose a result
    sys.exit(call(sys.argv[1:] if argv is None else list(argv)))


def call(argv: Sequence[str]) -> int:
    """Run one command; errors become one line on stderr and an exit code."""
    try:
        code = app(list(argv), exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        code = _code_of(error)
        if code is None:
            raise
        if os.environ.get(TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        if not _is_usage(error):  # cyclopts has printed its own
            print(f"lrscope: {_said(error)}", file=sys.stderr)
        return code
    return code if isinstance(code, int) else 0


def _is_usage(error: Exception) -> bool:
    from cyclopts import CycloptsError

    return isinstance(error, CycloptsError)


def _code_of(error: Exception) -> int | None:
    """Exit code of an expected error; ``None`` for a bug, whose traceback is worth more than a line."""
    if isinstance(error, WorkError):
        return FAILED if _place(error.__cause__) else None
    if isinstance(error, MeasurementError):
        return FAILED
    if _is_usage(error) or isinstance(error, (LrscopeError, ValueError, TypeError)):
        return USAGE
    if isinstance(error, OSError):
        return FAILED
    return None


def _said(error: Exception) -> str:
    """The line for stderr: with flags for arguments, and where in the user's code it comes from."""
    text = str(error)
    argument = text.partition(":")[0]
    if argument in _FLAGS:
        text = _FLAGS[argument] + text[len(argument) :]
        text = _VALUE.sub(lambda found: f"{_FLAGS[found[1]]} ", text)
    if isinstance(error, TaskError) and (place := _place(error.__cause__)) not in text:
        text += place
    if isinstance(error, (TaskError, WorkError)) and error.__cause__ is not None:
        text += f"; {TRACEBACK}=1 shows the whole traceback"
    return text


def _place(error: BaseException | None) -> str:
    from lrscope.tasks.place import line_of

    return line_of(error) if error is not None else ""
