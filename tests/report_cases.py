"""Run directories as ``lrscope run`` writes them, made up with numpy: whole, partial and broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lrscope.records import Cost, CriticalLR, Plan, RunWriter, Table

STEPS = 1200
CENTER = 3.1e-4
WIDE = [float(f"{CENTER * 4.0**k:.6g}") for k in range(-1, 5)]
WARMUPS = [0.0, 0.05, 0.33]
BEST = WIDE[3]


def trial_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Three rungs: a wide grid of short runs, a close look around its best, and the best cells with two seeds."""
    rng = np.random.default_rng(seed)
    wide = [(lr, w, 0) for w in WARMUPS for lr in WIDE]
    close = [(BEST * factor, w, 0) for w in WARMUPS[1:] for factor in (0.5, 1.0, 2.0)]
    final = [(BEST * factor, w, s) for w, factor in ((0.05, 1.0), (0.33, 1.0), (0.05, 0.5)) for s in (0, 1)]
    rungs = ((60, wide), (140, close), (400, final))
    return [
        _trial(rng, rung, horizon, lr, warmup, s)
        for rung, (horizon, cells) in enumerate(rungs, start=1)
        for lr, warmup, s in cells
    ]


def _trial(rng: np.random.Generator, rung: int, horizon: int, lr: float, warmup: float, seed: int) -> dict[str, Any]:
    limit = {0.0: 0.004, 0.05: 0.04, 0.33: 0.09}[warmup]
    best = 0.012 / rung**0.8
    score = (2.0 / (1 + horizon / 30) + 0.12) * (1 + 0.16 * np.log(lr / best) ** 2) * (1 + 0.05 * (warmup == 0))
    score *= np.exp(0.015 * rng.normal())
    diverged = lr > limit
    return {
        "rung": rung,
        "horizon": horizon,
        "lr": lr,
        "warmup_frac": warmup,
        "warmup_steps": max(1, round(warmup * horizon)),
        "seed": seed,
        "score": None if diverged else round(min(float(score), 2.31), 5),
        "score_kind": "eval_loss",
        "status": "diverged" if diverged else "finished",
        "diverged_at": int(rng.integers(3, 30)) if diverged else None,
        "gradients": horizon,
        "seconds": 0.4,
    }


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "task": "digits",
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1},
        "steps": STEPS,
        "peak_lr": BEST,
        "peak_low": BEST / 2,
        "peak_high": BEST * 2**0.5,
        "start_lr": BEST / 60,
        "warmup_steps": 60,
        "decay": "linear",
        "schedule": {"kind": "then"},
        "schedule_text": f"{BEST:.6g} * (linear(59, from={1 / 60:.8g}, to=1) > linear(to=0))",
        "expected_loss": 0.231,
        "expected_low": 0.221,
        "expected_high": 0.246,
        "critical": tuple(
            CriticalLR(lr, lr * 0.95, lr * 1.05, "found", (lr,), "adamw", 3.1e-4) for lr in (3.1e-4, 3.6e-4, 2.8e-4)
        ),
        "trials": Table.of(trial_rows()),
        "cost": Cost(forwards=120, gradients=4_320, products=0, updates=4_320, seconds=96.0),
        "share": 3.6,
        "not_tried": (
            "runs longer than 400 of the 1200 steps: the rest is extrapolated",
            "peaks below 7.75e-05 and above 0.0794, and between the factors of two",
            "other batch sizes",
        ),
        "notes": ("with 5% warmup it trains up to a peak of 0.0198; without warmup it diverges above 0.00124",),
        "environment": environment(),
    }
    return Plan(**{**fields, **changes})


def environment() -> dict[str, Any]:
    return {
        "lrscope": "0.1.0",
        "torch": "2.13.0",
        "python": "3.12.4",
        "system": "Linux x86_64",
        "cores": 2,
        "command": "lrscope run digits --out runs/digits",
    }


def write_run(
    folder: Path,
    name: str,
    *,
    final: float = 0.23,
    diverge_at: int | None = None,
    stop_at: int | None = None,
    evaluated: bool = True,
    curvature: bool = False,
    catapults: bool = False,
    steps: int = STEPS,
    seed: int = 0,
) -> Path:
    """Write ``folder/name.jsonl``. ``stop_at`` leaves the file without an end, as a killed process does."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(steps)
    loss = (2.3 - final) * np.exp(-t / (steps / 9)) + final * 0.85 + 0.15 * (1 - t / steps)
    loss *= np.exp(0.08 * rng.normal(size=steps))
    lr = learning_rates(name, steps)
    events: list[tuple[int, dict[str, Any]]] = []
    if catapults:
        for onset, height in ((28, 1.1), (46, 0.6)):
            loss[onset : onset + 12] += height * np.hanning(12)
            events.append(
                (onset, {"onset": onset, "peak": onset + 5, "end": onset + 11, "ratio": round(1 + height, 2)})
            )
    if diverge_at is not None:
        loss[max(diverge_at - 8, 0) : diverge_at + 1] *= 3.0 ** np.arange(min(9, diverge_at + 1))
    path = folder / f"{name}.jsonl"
    config = {"task": "digits", "optimizer": make_plan().optimizer, "steps": steps, "seed": 0, "schedule": {}}
    writer = RunWriter(path, name, config)
    for step in range(steps):
        if stop_at is not None and step == stop_at:
            writer.close()
            return path
        if diverge_at is not None and step == diverge_at:
            writer.row(step, loss=float("nan"), lr=float(lr[step]))
            writer.event(step, "diverged")
            writer.end("diverged", Cost(gradients=step, updates=step, seconds=3))
            return path
        writer.row(step, **_row(step, loss, lr, rng, final, steps, evaluated, curvature))
        for at, detail in events:
            if step == detail["end"]:
                writer.event(at, "catapult", **detail)
    if evaluated:
        writer.row(steps, eval_loss=final, accuracy=float(1 - final / 4))
    writer.end("finished", Cost(gradients=steps, updates=steps, products=200 if curvature else 0, seconds=11.5))
    return path


def _row(step, loss, lr, rng, final, steps, evaluated, curvature) -> dict[str, float]:
    row = {"loss": float(loss[step]), "lr": float(lr[step])}
    if evaluated and step % 100 == 0:
        row["eval_loss"] = float((2.3 - final) * np.exp(-step / (steps / 8)) + final)
        row["accuracy"] = float(1 - row["eval_loss"] / 2.6)
    if curvature and step % max(steps // 100, 1) == 0:
        stable = (
            (1.2e-3 + 0.014 * (1 - np.exp(-((step / 120) ** 2))))
            * np.exp(0.1 * rng.normal())
            * (1 - 0.6 * step / steps)
        )
        row |= {
            "sharpness": 38 / stable,
            "sharpness_residual": 0.06 * 38 / stable,
            "stable_lr": stable,
            "headroom": float(lr[step]) / stable,
        }
    return row


def learning_rates(name: str, steps: int) -> np.ndarray:
    t = np.arange(steps)
    if name == "default":
        return np.full(steps, 1e-3)
    peak, warmup = (1e-3, 60) if name == "cosine" else (BEST, 60)
    s = np.clip((t - warmup + 1) / (steps - warmup + 1), 0, 1)
    fall = (1 + np.cos(np.pi * s)) / 2 if name == "cosine" else 1 - s
    return peak * np.where(t < warmup, (t + 1) / warmup, fall)


def write_trials(directory: Path, rows: list[dict[str, Any]], *, tail: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "trials.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + tail, encoding="utf-8")


def write_plan(directory: Path, plan: Plan) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plan.json").write_text(json.dumps(plan.to_dict()), encoding="utf-8")


def full(directory: Path, **plan_changes: Any) -> Path:
    """A finished ``lrscope run``: the plan wins, with two catapults during warmup."""
    write_plan(directory, make_plan(**plan_changes))
    write_trials(directory, trial_rows())
    write_run(directory / "runs", "planned", final=0.228, curvature=True, catapults=True)
    write_run(directory / "runs", "default", final=0.302, seed=1)
    write_run(directory / "runs", "cosine", final=0.251, seed=2)
    return directory
