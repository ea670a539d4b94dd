"""``lrscope train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from lrscope.cli.options import Data, Device, Fresh, Json, Optimizer, Out, Seed, Settings, Steps, TaskName, in_steps
from lrscope.cli.options import load_task as _load_task

if TYPE_CHECKING:
    from pathlib import Path

    from lrscope.cli.progress import Progress
    from lrscope.records import Run
    from lrscope.schedules import FeedbackSchedule, Schedule
    from lrscope.tasks import Task

MEMBERS = "members"
"""Folder of the models that a schedule which collects them leaves."""

WatchEvery = Annotated[
    int | None,
    Parameter(
        help="Steps between sharpness readings, about two gradients each; 0 for none.", validator=Number(gte=0)
    ),
]

GradientNorms = Annotated[
    bool, Parameter(help="Log the gradient's norm at every update, for lrscope plan --refine.", negative=())
]


def train(
    task: TaskName,
    schedule: Annotated[
        str,
        Parameter(
            help="Absolute learning rates, as in '3e-4 * (warmup(6%) > cosine(to=0))', or of one that listens, "
            "'0.1 * plateau(metric=eval_loss)'; or a .json file of a plan."
        ),
    ],
    /,
    *,
    optimizer: Optimizer = "adamw",
    steps: Steps = None,
    watch_every: WatchEvery = None,
    gradient_norms: GradientNorms = False,
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
    from lrscope.cli.app import BAD_ANSWER
    from lrscope.cli.failures import working
    from lrscope.cli.progress import Progress
    from lrscope.cli.workspace import open_directory
    from lrscope.optimizers import OptimizerSpec
    from lrscope.records import strict_json
    from lrscope.reports import write_report
    from lrscope.schedules import Horizon
    from lrscope.training.loop import check_schedule

    spec = OptimizerSpec.parse(optimizer)
    loaded, length, asked = _load_task(task, set_, data, device, steps, seed)
    shape = in_steps(schedule, Horizon(steps=length, steps_per_epoch=epoch_length(loaded)), listening=True)
    check_schedule(shape, length)
    check_heard(shape, loaded, watch_every, gradient_norms)
    warn_of_a_bare_shape(shape, length, spec.default_lr)
    config = {"command": "train", **asked, "optimizer": spec.to_spec()}
    config |= {"schedule": shape.to_spec(), "watch_every": watch_every}
    config |= {"gradient_norms": True} if gradient_norms else {}
    where = open_directory(out, f"train-{task}-{spec.name}", config, fresh=fresh)
    with working(where), Progress() as progress:
        run = run_training(
            loaded,
            spec,
            shape,
            length,
            where,
            "planned",
            progress,
            seed=seed,
            watch_every=watch_every,
            gradient_norms=gradient_norms,
            stage="training",
        )
        heard = of_listening(loaded, shape, where)
        page = write_report(where)
    if json:
        more = {"listening": heard} if heard else {}
        print(strict_json({"run": summary(run) | {"name": "run"}, "report": str(page), **more}))
    else:
        for line in [*ending(run), *heard]:
            print(line)
        print(f"report: {page}")
    return BAD_ANSWER if run.status == "diverged" else 0


def run_training(
    task: Task,
    spec: Any,
    schedule: Schedule | FeedbackSchedule,
    steps: int,
    where: Path,
    name: str,
    progress: Progress,
    *,
    seed: int,
    watch_every: int | None,
    gradient_norms: bool = False,
    stage: str | None = None,
) -> Run:
    """Train in ``where/runs``, continuing what is there; a finished run is read, not repeated."""
    from lrscope.cli.progress import Stop
    from lrscope.records import Run
    from lrscope.schedules import FeedbackSchedule
    from lrscope.stability import SharpnessProbe
    from lrscope.training import GradientNorm, Probe, Snapshots, train

    stage = stage or f"training ({name})"
    runs = where / "runs"
    lines = runs / f"{name}.jsonl"
    every = max(steps // 100, 1) if watch_every is None else watch_every
    if lines.exists() and (before := Run.read(lines)).status in ("finished", "diverged"):
        progress.say(f"{stage}: already finished, read from {lines}")
        return with_catapults(before, lines) if every else before
    probes: list[Probe] = [SharpnessProbe(task, every=every, seed=seed)] if every else []
    probes += [GradientNorm()] if gradient_norms else []
    if isinstance(schedule, FeedbackSchedule) and "distance" in schedule.listens_to:
        # Members that no checkpoint knows are of a start that was killed early.
        probes.append(Snapshots(where / MEMBERS, replace=not (runs / f"{name}.pt").exists()))
    progress.stage(stage)
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
    return with_catapults(run, lines) if every else run


def of_listening(task: Task, schedule: Schedule | FeedbackSchedule, where: Path) -> list[str]:
    """What a schedule that listens did, and how good what it collected is, in sentences."""
    from lrscope.schedules import FeedbackSchedule
    from lrscope.training import checkpoint, ensemble, members_of

    said: list[str] = []
    saved = where / "runs" / "planned.pt"
    if isinstance(schedule, FeedbackSchedule) and saved.exists():
        state = checkpoint.load(saved)["scheduler"].get("heard", {}).get("lr")
        said += [text for text in [schedule.told(state) if state else ""] if text]
    if (where / MEMBERS).is_dir() and task.evaluate is not None and len(members := members_of(where / MEMBERS)) > 1:
        said += str(ensemble(task, members)).splitlines()
    return said


def with_catapults(run: Run, lines: Path) -> Run:
    """The run with its jumps of the loss, noted in its file where they are not: a kill may have come in between."""
    from lrscope.records import Run, add_events
    from lrscope.stability import find_catapults

    known = {event.step for event in run.events if event.kind in ("catapult", "spike", "climb", "jump")}
    found = [c for c in find_catapults(run) if c.onset not in known]
    if not found:
        return run
    add_events(lines, [(c.onset, c.kind, vars(c)) for c in found])
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


def ending(run: Run) -> list[str]:
    """How a run ended, and whether it was stable on the way, in plain sentences."""
    from lrscope.reports.sentences import catapult_sentence, headroom_sentence
    from lrscope.stability import explain

    if run.status == "diverged":
        said = [f"run: diverged at step {run.steps_done}", headroom_sentence(run)]
    else:
        of_the_watch = {"lr", "lr_used", "sharpness", "sharpness_residual", "stable_lr", "headroom"}
        ends = ", ".join(f"{c} {run.final(c):.4g}" for c in run.columns if c not in of_the_watch)
        first = f"run: {run.status} after {run.steps_done} steps; {ends}"
        seen = [f"{text[0].upper()}{text[1:]}." for text in explain(run)]
        said = [first, headroom_sentence(run), *(seen or [catapult_sentence(run)])]
    return [text for text in said if text]


def epoch_length(task: Task) -> int | None:
    """Updates per epoch; ``None`` where the loader does not know, as one over an ``IterableDataset``."""
    try:
        return len(task.train) or None  # type: ignore[arg-type]
    except TypeError:
        return None


def check_heard(
    schedule: Schedule | FeedbackSchedule, task: Task, watch_every: int | None, gradient_norms: bool
) -> None:
    """Refuse a schedule that waits for what this training never reports, before any work.

    Raises:
        ValueError: Which name, and what is reported.
    """
    from lrscope.schedules import FeedbackSchedule
    from lrscope.schedules.checks import did_you_mean

    if not isinstance(schedule, FeedbackSchedule):
        return
    reported = {"loss", "distance"} | ({"eval_loss", *task.metrics} if task.evaluate is not None else set())
    reported |= {"sharpness", "stable_lr", "headroom"} if watch_every != 0 else set()
    reported |= {"gradient_norm", "gradient_norm_l1"} if gradient_norms else set()
    for name in sorted(schedule.listens_to - reported):
        raise ValueError(
            f"schedule: it listens to {name!r}, which this training never reports; {did_you_mean(name, reported)}"
        )


def warn_of_a_bare_shape(schedule: Schedule | FeedbackSchedule, steps: int, default_lr: float) -> None:
    """A shape such as ``warmup(6%) > cosine(to=0)`` peaks at 1, which is rarely meant as a learning rate."""
    import math
    import sys

    from lrscope.schedules import FeedbackSchedule

    most = 1.0
    if isinstance(schedule, FeedbackSchedule):
        core, schedule = schedule.parted()
        most = core.bounds()[1]
        most = most if math.isfinite(most) else core.value(core.init(), 0)
    peak = most * schedule.values(steps).max()
    if peak >= 1000 * default_lr:
        print(f"lrscope: peak learning rate {peak:.3g}: did you mean 3e-4 * (...)?", file=sys.stderr)
