"""Run directories as ``lrscope run`` writes them, made up with numpy: whole, partial and broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lrscope.records import Cost, CriticalLR, Plan, RunWriter, Table

STEPS = 1200
LRS = [float(f"{3e-4 * 10 ** (k / 3):.3g}") for k in range(9)]
WARMUPS = [0.0, 0.05, 0.33]


def trial_rows(seed: int = 0) -> list[dict[str, Any]]:
    """A successive-halving search: a full grid of short runs, then fewer and longer ones with more seeds."""
    rng = np.random.default_rng(seed)
    rows = []
    grid = [(lr, w, 0) for w in WARMUPS for lr in LRS]
    later = [(lr, w, s) for w in WARMUPS for lr in LRS[3:7] for s in (0, 1)]
    last = [(lr, w, s) for w in WARMUPS[1:] for lr in LRS[4:6] for s in (0, 1, 2)]
    for rung, (horizon, cells) in enumerate(((75, grid), (300, later), (600, last))):
        for lr, warmup, s in cells:
            rows.append(_trial(rng, rung, horizon, lr, warmup, s))
    return rows


def _trial(rng: np.random.Generator, rung: int, horizon: int, lr: float, warmup: float, seed: int) -> dict[str, Any]:
    limit = {0.0: 0.012, 0.05: 0.05, 0.33: 0.12}[warmup]
    best = 0.02 / (1 + rung)
    score = (2.0 / (1 + horizon / 60) + 0.12) * (1 + 0.25 * np.log(lr / best) ** 2) * (1 + 0.05 * (warmup == 0))
    score *= np.exp(0.015 * rng.normal())
    diverged = lr > limit
    return {
        "rung": rung,
        "horizon": horizon,
        "lr": lr,
        "warmup_frac": warmup,
        "warmup_steps": max(1, round(warmup * horizon)),
        "seed": seed,
        "score": None if diverged else round(min(float(score), 2.4), 5),
        "score_kind": "eval_loss",
        "status": "diverged" if diverged else "finished",
        "diverged_at": int(rng.integers(3, 30)) if diverged else None,
        "gradients": horizon,
        "seconds": 0.4,
    }


def make_plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "task": "digits",
        "optimizer": {"name": "adamw", "betas": [0.9, 0.999], "weight_decay": 0.01},
        "steps": STEPS,
        "peak_lr": LRS[4],
        "peak_low": LRS[3],
        "peak_high": LRS[5],
        "start_lr": LRS[4] / 60,
        "warmup_steps": 60,
        "decay": "linear",
        "schedule": {"kind": "then"},
        "schedule_text": f"linear(from={LRS[4] / 60:.3g}, to={LRS[4]:.3g}, 59 steps) > linear(to=0, 1141 steps)",
        "expected_loss": 0.231,
        "expected_low": 0.221,
        "expected_high": 0.246,
        "critical": tuple(
            CriticalLR(lr, lr * 0.95, lr * 1.05, "found", (lr,), "adamw", 3.1e-4) for lr in (3.1e-4, 3.6e-4, 2.8e-4)
        ),
        "trials": Table.of(trial_rows()),
        "cost": Cost(forwards=120, gradients=13_725, products=0, updates=13_725, seconds=96.0),
        "share": 0.48,
        "not_tried": ("Peaks above 0.14 and below 3e-4.", "Batch sizes other than the one given."),
        "notes": ("At 600 steps the two best peaks differ by less than the seeds do.",),
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
    loss *= np.exp(0.12 * rng.normal(size=steps))
    lr = learning_rates(name, steps)
    events: list[tuple[int, dict[str, Any]]] = []
    if catapults:
        for onset, height in ((34, 1.1), (52, 0.6)):
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
    if curvature and step % 20 == 0:
        stable = 4e-4 + 0.02 * (1 - np.exp(-step / 45)) * np.exp(0.15 * rng.normal()) * (1 - 0.72 * step / steps)
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
    peak, warmup = (1e-3, 60) if name == "cosine" else (LRS[4], 60)
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
