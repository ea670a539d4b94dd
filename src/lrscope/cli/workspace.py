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
    continues. A directory of another config is refused, and so is one of the same task before an edit. ``fresh``
    moves what is there aside, deleting nothing.

    Raises:
        ValueError: ``out`` holds results of another command, or is not a directory.
    """
    from lrscope.records import strict_json

    text = strict_json(config, sort_keys=True, default=str)
    if out is None:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-").lower()
        out = ROOT / f"{slug}-{hashlib.sha256(_naming(config).encode()).hexdigest()[:6]}"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; give a directory")
    if fresh and out.exists() and any(out.iterdir()):
        aside = next(p for n in range(1, 10_000) if not (p := out.with_name(f"{out.name}.before-{n}")).exists())
        out.rename(aside)
    stored = out / "config.json"
    if stored.exists():
        _refuse_others(out, json.loads(stored.read_text(encoding="utf-8")), json.loads(text))
    out.mkdir(parents=True, exist_ok=True)
    write_json(stored, json.loads(text))
    return out


def _naming(config: Mapping[str, Any]) -> str:
    """The part of the config that names a directory: without numbers that depend on the order of summation."""
    from lrscope.records import strict_json

    state = {k: v for k, v in config.get("fingerprint", {}).items() if k != "first_loss"}
    return strict_json({**config, "fingerprint": state}, sort_keys=True, default=str)


def _refuse_others(out: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    from lrscope.cli.fingerprint import WORDS
    from lrscope.tasks.fingerprint import same

    remedy = "give another directory, or --fresh to move them aside"
    asked = sorted({*before, *after} - {"fingerprint"})
    different = [k for k in asked if before.get(k) != after.get(k)]
    if different:
        lines = "; ".join(f"{k}: there {before.get(k)!r}, asked {after.get(k)!r}" for k in different)
        raise ValueError(f"--out: {out} holds the results of another command ({lines}); {remedy}")
    old, new = before.get("fingerprint", {}), after.get("fingerprint", {})
    changed = [text for k, text in WORDS.items() if not same(old.get(k), new.get(k))]
    if changed:
        raise ValueError(
            f"--out: {out} holds older results; the task has changed since ({'; '.join(changed)}); {remedy}"
        )


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all."""
    from lrscope.records import strict_json

    partial = path.with_name(path.name + ".partial")
    partial.write_text(strict_json(value, indent=1) + "\n", encoding="utf-8")
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
