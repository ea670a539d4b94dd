"""Runs, pictures and tables of docs/phase_diagrams.md.

    python docs/phase_diagrams_figures.py                # pictures and tables from what is recorded
    python docs/phase_diagrams_figures.py run DIR        # all sweeps first, in DIR, by the commands of the page
    python docs/phase_diagrams_figures.py run DIR fcn    # one of them; a stopped one goes on

Tables of all runs are kept in benchmarks/results/phase_diagrams.json.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from lrscope.records import Table, environment
from lrscope.reports.phase.cells import in_order
from lrscope.reports.phase.diagram import draw_phase
from lrscope.reports.phase.words import axis_value
from lrscope.sweeps.adaptive import Adaptive
from lrscope.sweeps.phases import boundary, ridge, summary

HERE = Path(__file__).parent
PAGE = HERE / "phase_diagrams.md"
RESULTS = HERE.parent / "benchmarks" / "results" / "phase_diagrams.json"
GRID = RESULTS.parent / "grid_topics_sgd.jsonl"
COMMANDS = {
    "digits": "lrscope sweep digits --lr 2^-9:2^3 --warmup 0,2%,5%,10%,20%,33%,60% --seeds 3 --steps 300",
    "topics": "lrscope sweep topics --lr 2^-2:2^1 --warmup 0,5%,33% --decay linear --seeds 6 --steps 400",
    "topics-tiny": "lrscope sweep topics --set size=tiny --set batch_size=8 --set context=32 "
    "--lr 2^-4:2^2 --warmup 0,5%,33% --decay linear --seeds 3 --steps 300",
    "fcn": "lrscope sweep lrscope.papers.kalra2024.networks:full_batch --axis start=sp,mup "
    "--optimizer 'sgd(momentum=0)' --lr 2^-3:2^9 --warmup 1,16,64,256 --seeds 3 --steps 400",
    "width": "lrscope sweep digits --axis parameterization=standard,mup --axis width=32,128,512 "
    "--optimizer 'sgd(momentum=0)' --lr 2^-6:2^7 --seeds 3 --steps 200",
}
KEPT = ("seed", "status", "diverged_at", "first_loss", "final_loss", "eval_loss", "trains", "catapult")
DEAD = 0.0225
"""Half the loss of guessing of full_batch (0.045): networks that have died end there, below their first loss."""
LOOK = {"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "lrscope", "axes.spines.top": True}


def run(folder: Path, names: Iterable[str]) -> None:
    from lrscope.sweeps import read

    for name in names:
        command = shlex.split(COMMANDS[name])
        subprocess.run([sys.executable, "-m", *command, "--out", str(folder / name)], check=False)
        table = read(folder / name).table
        given = {part.split("=")[0] for part in command if "," in part or ":" in part}
        asked = [n for n in table.columns if n in ("lr", "warmup", "warmup_steps") or n in given]
        columns = {n: [_short(v) for v in table[n]] for n in [*asked, *KEPT] if n in table.columns}
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        known[name] = {"command": COMMANDS[name], "seconds": round(sum(v or 0.0 for v in table["seconds"]))}
        known[name] |= {"environment": environment() | {"command": "python"}, "table": columns}
        RESULTS.write_text(json.dumps(known, separators=(",", ":")))


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def pictures(tables: dict[str, Table]) -> None:
    if "digits" in tables:
        save(draw_phase(tables["digits"], value="eval_loss"), "phase_digits")
    save(draw_phase(dense_grid(), value="eval_loss"), "phase_topics")
    if "fcn" in tables:
        words = {"sp": "standard", "mup": "muP"}
        renamed = Table.of({**r, "start": words[r["start"]]} for r in tables["fcn"].rows())
        limit = {words[start]: 2 / median(known) for start, known in start_sharpness().items()}
        save(
            draw_phase(renamed, over="start", bar=DEAD, theory={"2 / sharpness at the start": limit}, contours=False),
            "phase_fcn",
        )
    if "width" in tables:
        save(draw_phase(tables["width"], y="width", over="parameterization"), "phase_width")


def dense_grid() -> Table:
    """The grid of benchmarks/plan_vs_grid.py: the same GPT, optimizer, shape and length over more rates."""
    rows = map(json.loads, GRID.read_text(encoding="utf-8").splitlines())
    kept = [row for row in rows if row.get("horizon") == 400]
    return Table.of(
        {
            **{name: row[name] for name in ("lr", "warmup_steps", "seed", "status", "diverged_at")},
            "warmup": f"{100 * row['warmup_frac']:g}%",
            "first_loss": row["question"]["first_loss"],
            "eval_loss": row["score"],
            "final_loss": row["score"],
        }
        for row in kept
    )


def start_sharpness(seeds: Iterable[int] = (0, 1, 2)) -> dict[str, list[float]]:
    """Largest Hessian eigenvalue of the networks of the fcn sweep before training."""
    from lrscope.papers.descent import sharpness_of
    from lrscope.papers.kalra2024.networks import full_batch

    return {start: [sharpness_of(full_batch(start), seed) for seed in seeds] for start in ("sp", "mup")}


def save(drawn: Any, name: str) -> None:
    figure = (drawn.flat[0] if hasattr(drawn, "flat") else drawn).figure
    figure.savefig(HERE / "images" / f"{name}.svg", metadata={"Date": None})
    mpl.pyplot.close(figure)


def tables_of(tables: dict[str, Table]) -> dict[str, str]:
    found = {
        "topics-grid": said(summary(dense_grid(), value="eval_loss")) + "\n\n" + limits(dense_grid(), ["warmup"])
    }
    if "digits" in tables:
        found["digits"] = said(summary(tables["digits"], value="eval_loss"))
        found["adaptive"] = replay(tables["digits"])
    if "topics" in tables:
        found["topics"] = said(summary(tables["topics"])[:2]) + "\n\n" + limits(tables["topics"], ["warmup"])
    if "topics-tiny" in tables:
        tiny = tables["topics-tiny"]
        found["topics-tiny"] = said(summary(tiny)[:2]) + "\n\n" + limits(tiny, ["warmup"])
    if "fcn" in tables:
        found["fcn"] = limits(tables["fcn"], ["start", "warmup"], bar=DEAD) + "\n\n" + criteria(tables["fcn"])
    if "width" in tables:
        found["width"] = limits(tables["width"], ["parameterization", "width"])
    return found


def said(sentences: list[str]) -> str:
    return "\n".join(f"- {text}" for text in sentences)


def limits(table: Table, by: list[str], bar: float | None = None) -> str:
    names = ["trains in every seed up to", "in none from", "does not diverge up to", "best rate", "loss there"]
    lines = [f"| {' | '.join([*by, *names])} |"]
    lines += ["|" + "---|" * (len(by) + 5)]
    best = {tuple(r[n] for n in by): r for r in ridge(table, by=by, bar=bar).rows()}
    rows = zip(boundary(table, by=by, bar=bar).rows(), boundary(table, by=by, of="finished").rows(), strict=True)
    for row, finished in rows:
        top = best.get(tuple(row[n] for n in by))
        values = [axis_value(n, row[n]) for n in by]
        values += [number(row["low"], "none"), number(row["high"], "above all")]
        values += [("≥ " if finished["high"] is None else "") + number(finished["low"], "none")]
        span = "" if top is None else f"{top['best']:.3g} ({top['low']:.3g} to {top['high']:.3g})"
        edge = {"low": "≤ ", "high": "≥ ", None: ""}[None if top is None else top["edge"]]
        values += [edge + span if top else "-", f"{top['value']:.3g}" if top else "-"]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.3g}"


def criteria(table: Table) -> str:
    """The paper's statements as they are put for check kalra2024/7, and about quality, for each."""
    gains: dict[str, list[float]] = {}
    for start in ("sp", "mup"):
        for seed in sorted(set(table["seed"])):
            part = table.where(start=start, seed=seed)
            low = {r["warmup"]: r["low"] or math.nan for r in boundary(part, bar=DEAD).rows()}
            gains.setdefault(start, []).append(low[in_order(part, "warmup")[-1]] / low[in_order(part, "warmup")[0]])
    best = {(r["start"], r["warmup"]): r["value"] for r in ridge(table, by=["start", "warmup"], bar=DEAD).rows()}
    warmups = in_order(table, "warmup")
    ratio = {s: best[s, warmups[0]] / min(best[s, w] for w in warmups) for s in ("sp", "mup")}
    lines = ["| statement | found | holds |", "|---|---|---|"]
    shown = {s: ", ".join(f"{g:.3g}" for g in gains[s]) for s in gains}
    holds = {
        "standard start: a warmup of 256 raises the largest rate that trains at least 4 times, in every seed": (
            shown["sp"],
            min(gains["sp"]) >= 4,
        ),
        "muP: at most 4 times, in every seed": (shown["mup"], max(gains["mup"]) <= 4),
        "muP: less than the standard start, in every seed": (
            f"{shown['mup']} against {shown['sp']}",
            all(m < s for m, s in zip(gains["mup"], gains["sp"], strict=True)),
        ),
        "standard start: the best loss needs a warmup (without it 1.1 times as high or more)": (
            f"{ratio['sp']:.3g} times",
            ratio["sp"] >= 1.1,
        ),
        "muP: it does not (within 1.1 times)": (f"{ratio['mup']:.3g} times", ratio["mup"] < 1.1),
    }
    lines += [f"| {text} | {seen} | {'yes' if good else '**no**'} |" for text, (seen, good) in holds.items()]
    return "\n".join(lines)


def replay(table: Table) -> str:
    """The planner over runs that are all known: which of them it would have asked for."""
    known = {(r["lr"], r["warmup"], r["seed"]): r for r in table.rows()}
    axes = {name: list(dict.fromkeys(table[name])) for name in ("lr", "warmup", "seed")}
    planner, rows, rounds = Adaptive(axes), [], 0
    while points := planner.next(Table.of(rows)):
        rows += [known[p["lr"], p["warmup"], p["seed"]] for p in points]
        rounds += 1
    whole, part = (list(boundary(t).rows()) for t in (table, Table.of(rows)))
    same = sum(a["low"] == b["low"] and a["high"] == b["high"] for a, b in zip(whole, part, strict=True))
    tops = [list(ridge(t).rows()) for t in (table, Table.of(rows))]
    off = median(max(a["best"] / b["best"], b["best"] / a["best"]) for a, b in zip(*tops, strict=True))
    text = f"{len(rows)} of {len(table)} runs in {rounds} rounds; the same boundary and interval in {same} of "
    text += f"{len(whole)} rows, best rates apart by a factor of {off:.3g} in the median. What `skipped` says:\n\n"
    return text + said(planner.skipped())


def fill(found: dict[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, body in found.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        if not rest:
            raise SystemExit(f"{PAGE}: there is no {start.strip()}")
        text = before + start + body + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(Path(sys.argv[2]), sys.argv[3:] or COMMANDS)
    recorded = {name: Table(kept["table"]) for name, kept in json.loads(RESULTS.read_text()).items()}
    with mpl.rc_context(LOOK):
        pictures(recorded)
    fill(tables_of(recorded))
