"""What tells a task from the same task after an edit."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrscope.tasks import Task

WORDS = {
    "file": "its file was edited",
    "parameters": "its parameters have other names, shapes or types",
    "first_loss": "its first batch has another loss",
}


def fingerprint(name: str, task: Task, seed: int) -> dict[str, Any]:
    """That of the task itself and, first, a digest of the file it comes from. Cost: two forward passes."""
    from lrscope.tasks.fingerprint import fingerprint as of_task

    return {"file": _digest(_file(name)), **of_task(task, seed)}


def _file(name: str) -> Path | None:
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where).expanduser()
    file = getattr(sys.modules.get(where), "__file__", None) if where else None
    return Path(file) if file else None


def _digest(file: Path | None) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file is not None else None
