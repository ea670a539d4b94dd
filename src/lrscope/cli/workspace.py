"""The directory a command works in: found again by the same command, never shared by two different ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path("lrscope-runs")


def open_directory(out: Path | None, what: str, config: Mapping[str, Any], *, fresh: bool = False) -> Path:
    """The directory for ``config``, made if need be, with ``config.json`` in it.

    Without ``out`` its name holds a hash of the config, so the same command finds its own results again and
    continues. A directory of another config is refused. ``fresh`` moves what is there aside, deleting nothing.

    Raises:
        ValueError: ``out`` holds results of another command, or is not a directory.
    """
    text = json.dumps(config, sort_keys=True, default=str)
    if out is None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-").lower()
        out = ROOT / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; give a directory")
    if fresh and out.exists() and any(out.iterdir()):
        aside = next(p for n in range(1, 10_000) if not (p := out.with_name(f"{out.name}.before-{n}")).exists())
        out.rename(aside)
    stored = out / "config.json"
    if stored.exists():
        before = json.loads(stored.read_text(encoding="utf-8"))
        after = json.loads(text)
        different = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        if different:
            lines = "; ".join(f"{k}: there {before.get(k)!r}, asked {after.get(k)!r}" for k in different)
            raise ValueError(
                f"--out: {out} holds the results of another command ({lines}); give another directory, or --fresh to "
                "move them aside"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(stored, json.loads(text))
    return out


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def settings(pairs: list[str] | None) -> dict[str, str]:
    """``["model=cnn"]`` as a mapping.

    Raises:
        ValueError: A pair without ``=``.
    """
    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: expected name=value, got {pair!r}")
        found[key] = value
    return found
