"""What a directory is a sweep of: written beside the cells, held against what is asked for later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lrscope.records import environment, strict_json
from lrscope.sweeps.cells import SweepCell
from lrscope.sweeps.grid import Grid
from lrscope.tasks.fingerprint import same

VERSION = 1
_CHANGED = {
    "file": "its file was edited",
    "parameters": "its parameters have other names, shapes or types",
    "first_loss": "its first batch has another loss",
}


def manifest_of(grid: Grid, first: SweepCell, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything but the cells, JSON-able.

    Args:
        grid: What is asked for.
        first: Its first cell; the task of its settings tells an edited task, unless
        before: the manifest of the directory, if there is one, names another.
    """
    settings = dict(first.settings)
    if before is not None and before["identity"]["settings"].keys() == settings.keys():
        settings = {name: before["identity"]["settings"][name] for name in settings}
    plain = {
        name: v if isinstance(v, (int, float, str, bool, type(None))) else str(v) for name, v in settings.items()
    }
    config = grid.config
    axes = {name: list(axis.shown) for name, axis in grid.axes.items()}
    if before is not None and before["config"] == config and before["axes"].keys() == axes.keys():
        axes = {name: list(dict.fromkeys([*before["axes"][name], *values])) for name, values in axes.items()}
    return {
        "version": VERSION,
        "hash": hashlib.sha256(strict_json(config, sort_keys=True).encode()).hexdigest()[:16],
        "config": config,
        "axes": axes,
        "identity": {"settings": plain, **grid.source.identity(settings)},
        "environment": environment(),
        "skipped": [] if before is None else list(before["skipped"]),
    }


def refuse_others(directory: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse to mix cells of two sweeps; other values of the same axes are the same sweep, grown.

    Raises:
        ValueError: One line with what differs.
    """
    remedy = "give another directory, or --fresh (resume=False) to move them aside"
    if before.get("version") != VERSION:
        raise ValueError(f"out: {directory} is of another version of lrscope; {remedy}")
    old, new = before["config"], after["config"]
    different = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    if different:
        lines = "; ".join(f"{k}: there {old.get(k)!r}, asked {new.get(k)!r}" for k in different)
        raise ValueError(f"out: {directory} holds another sweep ({lines}); {remedy}")
    changed = [said for k, said in _CHANGED.items() if not same(before["identity"][k], after["identity"][k])]
    if changed:
        raise ValueError(
            f"out: {directory} holds older cells; the task has changed since ({'; '.join(changed)}); {remedy}"
        )


def other_versions(directory: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Lines that say with which other versions the cells so far were computed: their numbers may differ a little."""
    old, new = before["environment"], after["environment"]
    names = [name for name in ("lrscope", "torch") if old.get(name) != new.get(name)]
    return [f"{directory}: cells so far are of {n} {old.get(n)}, new ones of {new.get(n)}" for n in names]


def sort_rows(rows: Iterable[Mapping[str, Any]], axes: Mapping[str, list[Any]]) -> list[Mapping[str, Any]]:
    """Rows in the order of the grid: numbers by size, text as it was listed."""
    places = {name: {v: i for i, v in enumerate(values)} for name, values in axes.items()}

    def key(row: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        for name in axes:
            value = row.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            found.append((0, value, "") if number else (1, places[name].get(value, len(places[name])), str(value)))
        return found

    return sorted(rows, key=key)
