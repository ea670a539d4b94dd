"""What tells a task from another one under the same name, and from itself after an edit."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from lrscope.tasks.task import Task


def fingerprint(task: Task, seed: int = 0) -> dict[str, Any]:
    """``parameters``, a digest of names, shapes and types, and ``first_loss``, the first batch's at ``seed``.

    Unequal ones mean another task; equal ones that the training starts alike. ``first_loss`` is ``None`` where two
    readings differ, as with a loader that draws from no seeded generator. Leaves no trace. Cost: one build, two
    forward passes.
    """
    model = task.model(seed)
    parameters = [f"{key} {tuple(p.shape)} {p.dtype}" for key, p in model.named_parameters()]
    first, again = (task.objective(seed, model=model).loss() for _ in range(2))
    return {
        "parameters": hashlib.sha256("\n".join(parameters).encode()).hexdigest()[:16],
        "first_loss": float(f"{first:.6g}") if same(first, again) else None,
    }


def same(a: Any, b: Any) -> bool:
    """Equality that forgives another order of summation, as of another number of threads."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5)
    return a == b
