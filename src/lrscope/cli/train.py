"""``lrscope train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lrscope.cli.options import Data, Device, Fresh, Json, Optimizer, Out, Seed, Settings, Steps, TaskName
from lrscope.cli.options import load_task as _load_task

if TYPE_CHECKING:
    from pathlib import Path

    from lrscope.cli.progress import Progress
    from lrscope.records import Run
    from lrscope.schedules import Schedule
    from lrscope.tasks import Task

WatchEvery = Annotated[
    int | None, Parameter(help="Steps between sharpness readings, about two gradients each; 0 for none.")
]


def train(
    task: TaskName,
    schedule: Annotated[str, Parameter(help="Absolute learning rates, as in '3e-4 * (warmup(6%) > cosine(to=0))'.")],
    /,
    *,
    optimizer: Optimizer = "adamw",
    steps: Steps = None,
    watch_every: WatchEvery = None,
    seed: Seed = 0,
    out: Out = None,
    set_: Settings = None,
    data: Data = None,
    device: Device = "cpu",
    fresh: Fresh = False,
    json: Json = False,
) -> int:
    """Train TASK with a schedule you give, watching stability. Interrupted, the same command goes on.

    Exit code 3 if the training diverged.
    """
    import json as json_

    from lrscope.cli.app import BAD_ANSWER
    from lrscope.cli.progress import Progress
    from lrscope.cli.workspace import open_directory
    from lrscope.optimizers import OptimizerSpec
    from lrscope.reports import write_report
    from lrscope.schedules import Horizon, parse

    spec = OptimizerSpec.parse(optimizer)
    loaded, length = _load_task(task, set_, data, device, steps)
    per_epoch = len(loaded.train) if hasattr(loaded.train, "__len__") else None  # type: ignore[arg-type]
    shape = parse(schedule, horizon=Horizon(steps=length, steps_per_epoch=per_epoch))
    config = {"command": "train", "task": task, "set": sorted(set_ or []), "data": str(data or ""), "steps": length}
    config |= {"optimizer": spec.to_spec(), "schedule": shape.to_spec(), "seed": seed, "watch_every": watch_every}
    where = open_directory(out, f"train-{task}-{spec.name}", config, fresh=fresh)
    with Progress() as progress:
        run = run_training(
            loaded, spec, shape, length, where, "planned", progress, seed=seed, watch_every=watch_every
        )
    page = write_report(where)
    if json:
        print(json_.dumps({"run": summary(run), "report": str(page)}))
    else:
        print(said_of(run))
        print(f"report: {page}")
    return BAD_ANSWER if run.status == "diverged" else 0


def run_training(
    task: Task,
    spec: Any,
    schedule: Schedule,
    steps: int,
    where: Path,
    name: str,
    progress: Progress,
    *,
    seed: int,
    watch_every: int | None,
) -> Run:
    """Train in ``where/runs``, continuing what is there; a finished run is read, not repeated."""
    from lrscope.cli.progress import Stop
    from lrscope.records import Run, add_events
    from lrscope.stability import SharpnessProbe, find_catapults
    from lrscope.training import train

    runs = where / "runs"
    lines = runs / f"{name}.jsonl"
    if lines.exists() and (before := Run.read(lines)).status in ("finished", "diverged"):
        return before
    every = max(steps // 100, 1) if watch_every is None else watch_every
    probes = [SharpnessProbe(task, every=every, seed=seed)] if every else []
    progress.stage(f"training ({name})")
    with Stop() as stop:

        def on_step(state: Any) -> None:
            progress.update((state.step + 1) / steps, f"loss {state.loss:.4g}  lr {state.lr:.3g}")
            stop.check()

        run = train(
            task,
            spec,
            schedule,
            steps,
            probes=probes,
            seed=seed,
            name=name,
            out=runs,
            evaluate_every=max(steps // 20, 1),
            resume=True,
            on_step=on_step,
        )
    found = find_catapults(run) if every else []
    add_events(
        lines,
        [(c.onset, "catapult", {"onset": c.onset, "peak": c.peak, "end": c.end, "ratio": c.ratio}) for c in found],
    )
    return Run.read(lines)


def summary(run: Run) -> dict[str, Any]:
    """The ends of a run, for ``--json``."""
    import math

    ends = {c: run.final(c) for c in run.columns}
    return {
        "name": run.name,
        "status": run.status,
        "steps_done": run.steps_done,
        "final": {c: v for c, v in ends.items() if math.isfinite(v)},
        "events": [{"step": e.step, "kind": e.kind, **e.detail} for e in run.events],
        "cost": run.cost.to_dict(),
    }


def said_of(run: Run) -> str:
    """One plain sentence about how a run ended."""
    if run.status == "diverged":
        return f"{run.name}: diverged at step {run.steps_done}"
    parts = [f"{c} {run.final(c):.4g}" for c in run.columns if c not in ("lr", "sharpness_residual")]
    return f"{run.name}: {run.status} after {run.steps_done} steps; " + ", ".join(parts)
