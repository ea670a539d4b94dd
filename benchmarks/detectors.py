"""How often are the detectors of catapults, of the edge of stability and of sharpening right?

    python benchmarks/detectors.py            # about two minutes on one core

Runs of ``tests/labelled_runs.py``, of another seed than the detectors were built on. Prints Markdown tables for
docs/mechanisms.md; raw counts go to benchmarks/results/detectors.json.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from statistics import NormalDist

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from labelled_runs import STEPS, Labelled, all_runs, bad_batches, drawn_catapult, record  # noqa: E402
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
BEYOND = 60
"""Runs of each family that lies beyond what the detectors were built on."""


def live(run: Run) -> list[Catapult]:
    detector, found = CatapultDetector(), []
    for row in run.rows:
        over = detector.update(
            int(row["step"]), row["loss"], sharpness=row.get("sharpness"), headroom=row.get("headroom")
        )
        found += [over] if over else []
    return found


def matches(found: Iterable[Catapult], events: Iterable[tuple[int, int]]) -> Counter[str]:
    """Detections, those that are of an event, events, those that were detected, and jumps left without an answer.

    What has no answer is no detection: a catapult among them counts as missed.
    """
    found = list(found)
    told = [(c.onset, c.end) for c in found if c.kind == "catapult" and c.end is not None]
    events = list(events)

    def same(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[1] + NEAR and b[0] <= a[1] + NEAR

    right = sum(any(same(t, e) for e in events) for t in told)
    seen = sum(any(same(t, e) for t in told) for e in events)
    unsure = sum(c.kind == "jump" for c in found)
    return Counter(told=len(told), right=right, events=len(events), seen=seen, unsure=unsure)


def beyond(seed: int) -> Iterator[Labelled]:
    """Shorter catapults and more bad batches in a row than the collection has, without readings of the sharpness."""
    rng = np.random.default_rng(seed)
    for sigma in (0.05, 0.2):
        for in_a_row in (3, 4):
            for _ in range(BEYOND // 2):
                yield bad_batches(rng, sigma, in_a_row, readings=False)
        for _ in range(BEYOND // 2):
            yield unequal(rng, sigma)
        for length in (4, 6, 8):
            for _ in range(BEYOND // 2):
                run = drawn_catapult(rng, sigma, float(rng.uniform(3, 30)), length)
                yield Labelled(f"drawn over {length} steps, no sharpness", run.run, run.catapults)


def unequal(rng: np.random.Generator, sigma: float) -> Labelled:
    """Two bad batches in a row, each as bad as it likes."""
    loss = bad_batches(rng, sigma, 0, readings=False).run["loss"].value.copy()
    for at in rng.integers(20, STEPS - 20, 8):
        loss[at : at + 2] *= rng.uniform(3, 30, 2)
    return Labelled("bad batches, 2 in a row of unequal size, no sharpness", record(loss))


def known_shapes() -> dict[float, float]:
    """Share of the drawn catapults that a filter sees which knows each one's shape and the mean loss, by noise.

    It calls one in a hundred runs without a catapult one, tried at every step: the most that the losses can tell.
    """
    alarm = NormalDist().inv_cdf(1 - 0.01 / STEPS)
    seen: dict[float, float] = {}
    for sigma in (0.1, 0.3):
        shares = []
        for ratio, length in ((1.5, 60), (3.0, 10), (3.0, 30), (10.0, 30), (100.0, 80)):
            rise = np.exp(np.linspace(-np.log(20 * ratio), 0, max(2, int(0.6 * length))))
            fall = np.exp(np.linspace(0, -np.log(20 * ratio), length - len(rise)))
            shape = np.log1p((ratio - 1) * np.concatenate([rise, fall]))  # as labelled_runs.drawn_catapult has it
            shares.append(NormalDist().cdf(float(np.linalg.norm(shape)) / sigma - alarm))
        seen[sigma] = float(np.mean(shares))
    return seen


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
            cells += [f"{c['unsure']:,}"] if "unsure" in c else []
    return "| " + " | ".join(cells) + " |"


def scores(collection: Iterable[Labelled]) -> tuple[dict[str, list[Counter[str]]], Counter[str]]:
    """By family: counts of the detector of records and of the live one; and the number of runs."""
    jumps: dict[str, list[Counter[str]]] = defaultdict(lambda: [Counter(), Counter()])
    runs = Counter[str]()
    for labelled in collection:
        runs[labelled.family] += 1
        for counts, detect in zip(jumps[labelled.family], (find_catapults, live), strict=True):
            counts.update(matches(detect(labelled.run), labelled.catapults))
    return jumps, runs


def main() -> None:
    collection = list(all_runs(COPIES, SEED))
    jumps, runs = scores(collection)
    edges: dict[str, Counter[str]] = defaultdict(Counter)
    watched, trends = Counter[str](), Counter[tuple[str, str]]()
    for labelled in collection:
        name = labelled.family
        if "headroom" in labelled.run.columns and name.startswith(("simulated", "passing")):
            watched[name] += 1
            edges[name].update(edge_readings(labelled))
        if labelled.trend is not None:
            trends[labelled.trend, natural_sharpening(labelled.run).kind] += 1
    head = "catapults | told | precision | recall | no answer"
    print(f"| runs | number | {head} | {head.replace('told', 'told live')} |\n|{'---|' * 12}")
    total = [Counter(), Counter()]
    for name in sorted(jumps):
        print(row(name, runs[name], *jumps[name]))
        for sums, counts in zip(total, jumps[name], strict=True):
            sums.update(counts)
    print(row("**all**", sum(runs.values()), *total))
    further, number = scores(beyond(SEED))
    print(f"\n| beyond | number | {head} | {head.replace('told', 'told live')} |\n|{'---|' * 12}")
    for name in sorted(further):
        print(row(name, number[name], *further[name]))
    most = known_shapes()
    print("\nknowing each shape, a filter sees", ", ".join(f"{v:.2f} at batch noise {k:g}" for k, v in most.items()))
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
        "beyond": {name: {"recorded": a, "live": b} for name, (a, b) in further.items()},
        "known shapes": most,
        "edge": edges,
        "trend": {f"{truth} -> {told}": n for (truth, told), n in trends.items()},
    }
    where = ROOT / "benchmarks" / "results" / "detectors.json"
    where.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
