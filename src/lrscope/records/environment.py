"""Where and with what a result was computed."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata


def environment() -> dict[str, str | int]:
    """Versions and machine class, JSON-able; reads package metadata, so torch need not be imported."""
    return {
        "lrscope": _version("lrscope"),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "command": " ".join(["lrscope", *sys.argv[1:]]) if "lrscope" in sys.argv[0] else "python",
    }


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
