"""What becomes of prints, errors and Ctrl-C while the user's code runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from lrscope.errors import LrscopeError, TaskError


class WorkError(Exception):
    """The work broke off with an error that nobody foresaw, its cause; the user's, if it has a line of theirs."""


@contextmanager
def trying() -> Iterator[None]:
    """A task is tried before anything is written: an error of its code is wrong usage, its prints go to stderr."""
    from lrscope.tasks.place import line_of

    try:
        with redirect_stdout(sys.stderr):
            yield
    except LrscopeError:
        raise
    except Exception as error:
        if not line_of(error):
            raise
        raise TaskError(f"task: it raised {in_one_line(error)}") from error


@contextmanager
def working(where: Path, *, goes_on: bool = True) -> Iterator[None]:
    """The work itself: results on stdout stay clean of the task's prints, and whatever stops it says what is kept.

    ``goes_on``: whether the same command continues what was stopped.
    """
    from lrscope.tasks.place import line_of

    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        kept = f"what was done is in {where}, and the same command goes on from there"
        print(f"lrscope: stopped; {kept if goes_on else 'the same command starts anew'}", file=sys.stderr)
        raise
    except LrscopeError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and not line_of(error):
            raise  # a full disk says so itself
        kept = f"; what was done is in {where}" if goes_on else ""
        raise WorkError(f"the work failed with {in_one_line(error)}{kept}") from error


def in_one_line(error: BaseException) -> str:
    """Type, message and place of an error; of one from a DataLoader's worker, what the worker said."""
    from lrscope.tasks.check import one_line
    from lrscope.tasks.place import line_of

    lines = str(error).rstrip().splitlines()
    said = lines[-1] if lines and "Original Traceback" in str(error) else one_line(error)
    return said + line_of(error)
