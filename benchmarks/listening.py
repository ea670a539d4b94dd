"""Do schedules that listen, draw or collect beat a plain cosine that costs as much? Digits, three seeds.

    python benchmarks/listening.py                 # about ten minutes on one core
    python benchmarks/listening.py leap gen        # some of the parts
    python benchmarks/listening.py --tables        # the Markdown tables of docs/listening.md from the stored numbers

Raw numbers go to benchmarks/results/listening.json, part by part.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

import lrscope as lrs
from lrscope.errors import LrscopeWarning
from lrscope.optimizers import leap
from lrscope.planning import refine
from lrscope.records import Run, environment
from lrscope.reports import equivalence
from lrscope.schedules import AutoEnsemble, Cosine, Linear, Piecewise, Schedule, WarmRestarts, warmup
from lrscope.stability import GeN, show_equivalence
from lrscope.tasks import BatchStream
from lrscope.training import GradientNorm, Snapshots, ensemble, evaluate, members_of, train

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "listening.json"
SEEDS = (0, 1, 2)
STEPS, LONG = 500, 4000
PEAKS = {"sgd": 0.1, "adamw": 0.01}
TASK = lrs.tasks.digits()

Rows = dict[str, list[dict[str, Any]]]


def score(run: Run) -> dict[str, Any]:
    return {n: run.final(n) for n in ("eval_loss", "accuracy")} | {"gradients": round(run.cost.in_gradients(), 1)}


def trained(optimizer: Any, schedule: Any, seed: int, steps: int = STEPS, **options: Any) -> dict[str, Any]:
    return score(train(TASK, optimizer, schedule, steps, seed=seed, **options))


def leap_part() -> Rows:
    makes: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=PEAKS["sgd"], momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=PEAKS["adamw"]),
    }
    rows: Rows = {}
    for name, make in makes.items():
        for sigma in (0.0, 0.1, 0.5, 1.0):
            rows[f"{name}, cosine, sigma {sigma:g}"] = [
                trained(lambda p, s=seed, m=make, g=sigma: leap(m(p), g, seed=s), Cosine(1.0, 0.0, STEPS), seed)
                for seed in SEEDS
            ]
    return rows


def gen_part() -> Rows:
    rows: Rows = {}
    same = STEPS * 7 // 6  # what the forward passes of GeN would have bought
    for name, peak in PEAKS.items():
        for start in (peak, 0.3 * peak, 0.1 * peak):
            start = round(start, 4)
            rows[f"{name}, cosine from {start:g}, {same} steps"] = [
                trained(name, start * Cosine(1.0, 0.0, same), s, same) for s in SEEDS
            ]
            listens = GeN(start) * Cosine(1.0, 0.0, STEPS)
            rows[f"{name}, GeN({start:g}) * cosine"] = [trained(name, listens, s) for s in SEEDS]
            rows[f"{name}, GeN({start:g})"] = [trained(name, GeN(start), s) for s in SEEDS]
    return rows


def other_batch_part() -> Rows:
    """GeN that reads its losses on another batch than that of the gradient, in a loop of its own."""
    makes: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    rows: Rows = {}
    for name, start in {"sgd": 0.03, "adamw": 0.003}.items():
        for seed in SEEDS:
            model = TASK.model(seed)
            options = {"momentum": 0.9} if name == "sgd" else {}
            optimizer = makes[name](model.parameters(), lr=1.0, **options)
            schedule = GeN(start)
            scheduler = lrs.ScheduledLR(optimizer, schedule)
            stream, other = BatchStream(TASK.train, seed), BatchStream(TASK.train, seed + 1000)
            for _ in range(STEPS):
                batch = next(stream)
                optimizer.zero_grad()
                loss = TASK.loss_fn(model, batch)
                loss.backward()
                scheduler.observe(
                    loss=loss.item(),
                    measure_on=lambda m=model, o=other: lrs.Objective(m, TASK.loss_fn, [next(o)]),
                )
                optimizer.step()
                scheduler.step()
            state = scheduler.heard["lr"]
            found = evaluate(TASK, model) | {"last_lr": state["lr"], "failures": state["failures"]}
            rows.setdefault(f"{name}, GeN({start:g}) on another batch", []).append(found)
    return rows


def refine_part() -> Rows:
    rows: Rows = {}
    plain = warmup(25).then(Linear(1.0, 0.0, STEPS - 25))
    for name, peak in PEAKS.items():
        for seed in SEEDS:
            first = train(TASK, name, peak * plain, STEPS, seed=seed + 10, probes=[GradientNorm()])
            found = refine(first)
            shapes: dict[str, Schedule] = {"refined": found.schedule * (1 / peak), "warmup 5% > linear": plain}
            shapes["cosine"] = Cosine(1.0, 0.0, STEPS)
            for factor in (0.5, 1.0, 2.0):
                for shape, schedule in shapes.items():
                    more = {"peak_frac": found.peak_frac} if shape == "refined" else {}
                    key = f"{name}, {shape}, peak {factor * peak:g}"
                    rows.setdefault(key, []).append(trained(name, factor * peak * schedule, seed) | more)
    return rows


def ensemble_part() -> Rows:
    rows: Rows = {}
    peak = PEAKS["sgd"]
    short = peak * Cosine(1.0, 0.0, STEPS)

    def collect(key: str, schedule: Any, seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(TASK, "sgd", schedule, LONG, seed=seed, probes=[Snapshots(folder)])
            judge(key, members_of(folder), [m["step"] for m in map(torch.load, members_of(folder))])

    def judge(key: str, states: Any, steps: list[int]) -> None:
        found = ensemble(TASK, states)
        rows.setdefault(key, []).append(
            dict(found.ensemble)
            | {"member_loss": found.mean(), "member_accuracy": found.mean("accuracy")}
            | {"disagreement": found.disagreement, "rejected": list(found.rejected), "steps": steps}
        )

    for seed in SEEDS:
        rows.setdefault(f"one cosine, {LONG} steps", []).append(
            trained("sgd", peak * Cosine(1.0, 0.0, LONG), seed, LONG)
        )
        collect("8 restarts of 500", peak * WarmRestarts(1.0, 0.0, STEPS), seed)
        collect("AutoEnsemble(0.005, 0.12)", AutoEnsemble(0.005, 0.12), seed)
        collect("AutoEnsemble(0.005, 0.5)", AutoEnsemble(0.005, 0.5), seed)
        with tempfile.TemporaryDirectory() as folder:
            files = []
            for i in range(8):
                one = Path(folder) / str(i)
                train(TASK, "sgd", short, STEPS, seed=100 + 10 * seed + i, probes=[Snapshots(one)])
                files += members_of(one)
            judge("8 runs of 500 from other starts", files, [STEPS] * 8)
    return rows


def equivalence_part() -> Rows:
    cnn = lrs.tasks.digits(model="cnn")

    def without_eps(seed: int) -> torch.nn.Module:
        net = cnn.build(seed)
        for module in net.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.eps = 0.0
        return net

    rows: Rows = {}
    schedule = Piecewise((0.05, 0.005), (300,))
    for key, task in {"eps 0": dataclasses.replace(cnn, build=without_eps), "eps 1e-5": cnn}.items():
        for seed in SEEDS:
            shown = show_equivalence(task, "sgd(momentum=0.9, weight_decay=0.02)", schedule, 400, seed=seed)
            ends = {f"{n} {k}": r.final(n) for n in ("eval_loss",) for k, r in _both(shown).items()}
            found = {"weights": shown.weights, "losses": shown.losses, "parted_at": shown.parted_at}
            rows.setdefault(key, []).append(found | ends)
            if key == "eps 0" and seed == 0:
                figure = equivalence(shown.original, shown.exponential)
                figure.savefig(ROOT / "docs" / "images" / "equivalence.svg")
    return rows


def _both(shown: Any) -> dict[str, Run]:
    return {"with": shown.original, "without": shown.exponential}


PARTS: dict[str, Callable[[], Rows]] = {
    "leap": leap_part,
    "gen": gen_part,
    "other_batch": other_batch_part,
    "refine": refine_part,
    "ensemble": ensemble_part,
    "equivalence": equivalence_part,
}


def mean(values: list[float], digits: int = 3) -> str:
    """Mean and its standard error over seeds."""
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def tables(stored: dict[str, Any]) -> None:
    for part, rows in stored["parts"].items():
        print(f"\n{part}\n")
        for key, runs in rows.items():
            names = [n for n in runs[0] if isinstance(runs[0][n], float) and all(r[n] is not None for r in runs)]
            print(f"| {key} | " + " | ".join(f"{n} {mean([r[n] for r in runs])}" for n in names) + " |")


def main(argv: list[str]) -> None:
    stored: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"parts": {}}
    if argv != ["--tables"]:
        torch.set_num_threads(1)
        for part in argv or PARTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LrscopeWarning)
                stored["parts"][part] = PARTS[part]()
            stored |= {"date": date.today().isoformat(), "environment": environment()}
            OUT.write_text(json.dumps(stored, indent=1) + "\n")
    tables(stored)


if __name__ == "__main__":
    main(sys.argv[1:])
