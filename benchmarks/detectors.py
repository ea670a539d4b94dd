"""How often are the detectors of catapults, of the edge of stability and of sharpening right?

    python benchmarks/detectors.py            # about two minutes on one core

Runs of ``tests/labelled_runs.py``, of another seed than the detectors were built on. Prints Markdown tables for
docs/mechanisms.md; raw counts go to benchmarks/results/detectors.json.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from labelled_runs import Labelled, all_runs  # noqa: E402
from lrscope.records import Run, environment  # noqa: E402
from lrscope.stability import (  # noqa: E402
    Catapult,
    CatapultDetector,
    edge_of_stability,
    find_catapults,
    natural_sharpening,
)

COPIES, SEED = 20, 2027
NEAR = 15
"""Steps by which a detection may miss an event."""
HARD = ("drawn, batch noise 0.3", "bad batches, 2 in a row, no sharpness")
"""Families in which the losses alone do not tell: shown, and counted in a total of their own."""


def live(run: Run) -> list[Catapult]:
    detector, found = CatapultDetector(), []
    for row in run.rows:
        over = detector.update(
            int(row["step"]), row["loss"], sharpness=row.get("sharpness"), headroom=row.get("headroom")
        )
        found += [over] if over else []
    return found


def matches(found: Iterable[Catapult], events: Iterable[tuple[int, int]]) -> Counter[str]:
    """Detections, those that are of an event, events, and those that were detected."""
    told = [(c.onset, c.end) for c in found if c.kind == "catapult" and c.end is not None]
    events = list(events)

    def same(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[1] + NEAR and b[0] <= a[1] + NEAR

    right = sum(any(same(t, e) for e in events) for t in told)
    seen = sum(any(same(t, e) for t in told) for e in events)
    return Counter(told=len(told), right=right, events=len(events), seen=seen)


def edge_readings(labelled: Labelled) -> Counter[str]:
    """The same, for readings that are said to be at the edge of stability."""
    found, counts = edge_of_stability(labelled.run), Counter(told=0, right=0, events=0, seen=0)
    steps = labelled.run["headroom"].step
    last = int(steps[-1])
    for step in steps.tolist():
        said = any(a <= step <= (last if b is None else b) for a, b in found.episodes)
        true = labelled.edge is not None and labelled.edge[0] <= step <= labelled.edge[1]
        counts.update(told=said, right=said and true, events=true, seen=said and true)
    return counts


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


def row(name: str, runs: int, counts: Counter[str], other: Counter[str] | None = None) -> str:
    cells = [name, f"{runs:,}"]
    for c in (counts, other):
        if c is not None:
            cells += [
                f"{c['events']:,}",
                f"{c['told']:,}",
                share(c["right"], c["told"]),
                share(c["seen"], c["events"]),
            ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    jumps: dict[str, list[Counter[str]]] = defaultdict(lambda: [Counter(), Counter()])
    edges: dict[str, Counter[str]] = defaultdict(Counter)
    runs, watched, trends = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for labelled in all_runs(COPIES, SEED):
        name = labelled.family
        runs[name] += 1
        for counts, detect in zip(jumps[name], (find_catapults, live), strict=True):
            counts.update(matches(detect(labelled.run), labelled.catapults))
        if "headroom" in labelled.run.columns and name.startswith(("simulated", "passing")):
            watched[name] += 1
            edges[name].update(edge_readings(labelled))
        if labelled.trend is not None:
            trends[labelled.trend, natural_sharpening(labelled.run).kind] += 1
    print("| runs | number | catapults | told | precision | recall | catapults | told live | precision | recall |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    total, hard = [Counter(), Counter()], [Counter(), Counter()]
    for name in sorted(jumps):
        print(row(name + (" *" if name in HARD else ""), runs[name], *jumps[name]))
        for sums, counts in zip(hard if name in HARD else total, jumps[name], strict=True):
            sums.update(counts)
    print(row("**all but ***", sum(n for name, n in runs.items() if name not in HARD), *total))
    both = [a + b for a, b in zip(total, hard, strict=True)]
    print(row("all", sum(runs.values()), *both))
    print("\n| runs | number | readings at the edge | told | precision | recall |\n|---|---|---|---|---|---|")
    for name in sorted(edges):
        print(row(name, watched[name], edges[name]))
    print(row("**all**", sum(watched.values()), sum(edges.values(), Counter())))
    print("\n| made to show | told | runs |\n|---|---|---|")
    for (truth, told), n in sorted(trends.items()):
        print(f"| {truth} | {told} | {n} |")
    raw = {
        "date": str(date.today()),
        "copies": COPIES,
        "seed": SEED,
        "environment": environment(),
        "catapults": {name: {"recorded": a, "live": b} for name, (a, b) in jumps.items()},
        "edge": edges,
        "trend": {f"{truth} -> {told}": n for (truth, told), n in trends.items()},
    }
    where = ROOT / "benchmarks" / "results" / "detectors.json"
    where.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
