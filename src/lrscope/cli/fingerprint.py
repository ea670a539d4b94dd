"""What tells a task from the same task after an edit."""

from __future__ import annotations

import hashlib
import math
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
    """Of its file, of the parameters it builds, and the loss of its first batch at ``seed``.

    ``first_loss`` is ``None`` where two readings differ, as with a loader that draws from no seeded generator.
    Cost: two forward passes.
    """
    model = task.model(seed)
    parameters = [f"{key} {tuple(p.shape)} {p.dtype}" for key, p in model.named_parameters()]
    first, again = (task.objective(seed, model=model).loss() for _ in range(2))
    return {
        "file": _digest(_file(name)),
        "parameters": hashlib.sha256("\n".join(parameters).encode()).hexdigest()[:16],
        "first_loss": float(f"{first:.6g}") if same(first, again) else None,
    }


def same(a: Any, b: Any) -> bool:
    """Equality that forgives another order of summation, as of another number of threads."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5)
    return a == b


def _file(name: str) -> Path | None:
    where = name.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where).expanduser()
    file = getattr(sys.modules.get(where), "__file__", None) if where else None
    return Path(file) if file else None


def _digest(file: Path | None) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file is not None else None
