"""Where a sweep's tasks come from: a task, a function returning one, or a name; found again in another process."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lrscope.errors import TaskError
from lrscope.records import strict_json
from lrscope.tasks import Task
from lrscope.tasks.fingerprint import fingerprint
from lrscope.tasks.load import Maker, find

KEPT = 2
"""Tasks of other settings that stay in memory: groups follow each other, and their data may be large."""


class Source:
    """Makes the task of any settings, and keeps the last ones.

    Args:
        given: A :class:`~lrscope.Task`, a function returning one, or a name for :func:`lrscope.tasks.load`.
        device: Where the tasks compute; ``None`` leaves that to the task.

    Raises:
        TaskError: ``given`` is none of these, or the name is not found.
    """

    def __init__(self, given: Task | Callable[..., Task] | str, device: str | None = None) -> None:
        if not isinstance(given, (Task, str)) and not callable(given):
            raise TaskError(f"task: expected a Task, a function returning one, or a name, got {type(given).__name__}")
        self.given, self.device = given, device
        self._made: dict[str, Task] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The other process makes its own tasks, and finds a function of the script by the script's path."""
        given, main = self.given, sys.modules.get("__main__")
        if getattr(given, "__module__", None) == "__main__" and getattr(main, "__file__", None):
            given = f"{Path(str(main.__file__)).resolve()}:{self.name}"  # type: ignore[union-attr]
        return {"given": given, "device": self.device, "_made": {}}

    @cached_property
    def maker(self) -> Maker:
        if isinstance(self.given, str):
            return find(self.given)
        return Maker(self.name, self.given)

    @property
    def name(self) -> str:
        """What was given, in one word."""
        if isinstance(self.given, str):
            return self.given
        if isinstance(self.given, Task):
            return self.given.name
        return getattr(self.given, "__qualname__", type(self.given).__name__)

    def task(self, settings: Mapping[str, Any]) -> Task:
        """The task of these settings.

        Raises:
            TaskError: The function raised, or takes no such setting.
        """
        key = strict_json(dict(settings), sort_keys=True, default=str)
        if key not in self._made:
            made = self.maker(settings)
            if self.device is not None:
                made = dataclasses.replace(made, device=self.device)
            while len(self._made) >= KEPT:
                del self._made[next(iter(self._made))]
            self._made[key] = made
        return self._made[key]

    def identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What tells this task from another, and from itself after an edit. Cost: one build, two forward passes."""
        return {"file": self._digest(), **fingerprint(self.task(settings))}

    def _digest(self) -> str | None:
        """Of the user's file; what is built in is named by the version of lrscope."""
        if isinstance(self.maker.found, Task) or (isinstance(self.given, str) and ":" not in self.given):
            return None
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.maker.found))
        except TypeError:  # a partial, or another callable object
            file = None
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file and Path(file).is_file() else None
