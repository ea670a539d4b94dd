"""Runs of claims that were recorded, and where a later one differs from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrscope.papers.claim import Outcome, plain

Ledger = Mapping[str, list[dict[str, Any]]]
"""Of each claim its recorded outcomes, as :meth:`Outcome.to_dict` gives them, the newest last."""
PLACE = Path("docs", "papers", "ledger.json")


def find_ledger() -> Path | None:
    """The ledger of the checkout that is the working directory, or from which this package runs; else ``None``."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (root / PLACE).is_file():
            return root / PLACE
    return None


def read_ledger(path: Path) -> Ledger:
    """Read a ledger.

    Raises:
        ValueError: It cannot be read, or is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(rows, list) and all("holds" in row for row in rows) for rows in found.values()):
            return found
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"ledger: {path} cannot be read ({error}); give a docs/papers/ledger.json") from None
    raise ValueError(f"ledger: {path} holds no outcomes of claims; give a docs/papers/ledger.json")


def differences(outcome: Outcome, ledger: Ledger) -> list[str]:
    """Where a verdict or a part of the criterion differs from the newest recorded run, as sentences.

    Empty if nothing differs, if the claim was never recorded, and if it ran with other settings than recorded:
    then a difference would say nothing.
    """
    rows = ledger.get(outcome.id)
    if not rows or rows[-1]["settings"] != json.loads(json.dumps(plain(outcome.settings))):
        return []
    recorded = rows[-1]
    commit = recorded.get("environment", {}).get("commit", "an unknown commit")
    said = []
    if recorded["verdict"] != outcome.verdict:
        said.append(f"{outcome.id}: {outcome.verdict}; recorded at {commit}: {recorded['verdict']}")
    words = {True: "holds", False: "does not hold", None: "is open"}
    for part, good in outcome.holds.items():
        if part not in recorded["holds"]:
            said.append(f"{outcome.id}: {part!r} is no part of the criterion recorded at {commit}")
        elif recorded["holds"][part] != good:
            said.append(
                f"{outcome.id}: {part!r} {words[good]}; recorded at {commit}: {words[recorded['holds'][part]]}"
            )
    return said


__all__ = ["Ledger", "differences", "find_ledger", "read_ledger"]
