"""Where and with what a result was computed."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path


def environment() -> dict[str, str | int]:
    """Versions and machine class, JSON-able; reads package metadata, so torch need not be imported."""
    return {
        "lrscope": _version("lrscope"),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "command": shlex.join(["lrscope", *sys.argv[1:]]) if _is_ours(Path(sys.argv[0])) else "python",
    }


def _is_ours(program: Path) -> bool:
    """Whether the command line runs, as ``lrscope`` or ``python -m lrscope``, and not a script of the user's."""
    package = Path(__file__).parents[1]
    return program.name in ("lrscope", "lrscope.exe") or program.resolve() == package / "__main__.py"


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
