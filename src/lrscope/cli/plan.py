"""``lrscope plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lrscope.cli.options import Data, Device, Engine, Fresh, Json, Optimizer, Out, Seed, Settings, Steps, TaskName
from lrscope.cli.options import load_task as _load_task

if TYPE_CHECKING:
    from lrscope.cli.progress import Progress
    from lrscope.records import Plan
    from lrscope.tasks import Task

Budget = Annotated[
    float | None,
    Parameter(help="Gradient evaluations to spend, as a share of one full run; default: half a run, at least 6,600."),
]
Norm = Literal["l2", "l1"]
Warmups = Annotated[str, Parameter(help="Warmup fractions to compare, as in 0,5%,33%.")]


Refine = Annotated[
    Path | None,
    Parameter(help="A run directory or .jsonl of train --gradient-norms; instead of TASK, refine its schedule."),
]


def plan(
    task: TaskName | None = None,
    /,
    *,
    refine: Refine = None,
    norm: Annotated[
        Norm | None, Parameter(help="For --refine: l2 for SGD, l1 for Adam; default: as trained.")
    ] = None,
    optimizer: Optimizer = "adamw",
    steps: Steps = None,
    budget: Budget = None,
    warmups: Warmups = "0,5%,33%",
    decay: Annotated[Literal["linear", "cosine"], Parameter(help="Shape after the peak, to zero.")] = "linear",
    seeds: Annotated[int, Parameter(help="Seeds on the last rung of trials.")] = 2,
    seed: Seed = 0,
    out: Out = None,
    set_: Settings = None,
    data: Data = None,
    device: Device = "cpu",
    engine: Engine = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> int:
    """Choose peak learning rate and warmup for TASK by short measured runs; or refine the schedule of a run.

    Prints the plan and what it rests on; writes plan.json and trials.jsonl. Interrupted, the same command goes on.
    """
    from lrscope.cli.failures import working
    from lrscope.cli.progress import Progress
    from lrscope.cli.workspace import open_directory
    from lrscope.optimizers import OptimizerSpec
    from lrscope.planning import horizons_for
    from lrscope.records import strict_json
    from lrscope.reports import write_report

    if refine is not None:
        return refine_run(refine, task=task, norm=norm, steps=steps, out=out, json=json)
    if task is None:
        raise ValueError("plan: give a TASK to plan for, or --refine RUN")
    if norm is not None:
        raise ValueError("--norm: is for --refine RUN")
    spec = OptimizerSpec.parse(optimizer)
    fractions = parse_warmups(warmups)
    loaded, length, asked = _load_task(task, set_, data, device, steps, seed)
    options = {"budget": budget, "warmups": fractions, "decay": decay, "num_seeds": seeds}
    config = {"command": "plan", **asked, "optimizer": spec.to_spec(), **options}
    # Refuses a budget that is too small before anything is written.
    horizons_for(length, budget, seeds, len(fractions))
    where = open_directory(out, f"plan-{task}-{spec.name}", config, fresh=fresh)
    with working(where), Progress() as progress:
        made = make_plan(loaded, spec, length, where, progress, seed=seed, engine=engine, **options)
        page = write_report(where)
    if json:
        print(strict_json({"plan": made.to_dict(), "report": str(page)}))
    else:
        print_plan(made)
        print(f"\nreport: {page}")
    return 0


def refine_run(
    where: Path,
    *,
    task: str | None,
    norm: Norm | None,
    steps: int | None,
    out: Path | None,
    json: bool,
) -> int:
    """``lrscope plan --refine``: the schedule for the next run of the same job, printed and written."""
    from lrscope.cli.options import check_steps
    from lrscope.cli.workspace import write_json
    from lrscope.planning import refine
    from lrscope.records import Run, strict_json
    from lrscope.schedules import chart

    if task is not None:
        raise ValueError(f"--refine: reads a run and trains nothing, so it takes no TASK; leave {task!r} out")
    if steps is not None:
        check_steps(steps)
    lines = find_run(where)
    found = refine(Run.read(lines), norm=norm, steps=steps)
    folder = out or (where if where.is_dir() else where.parent)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "refined.json"
    write_json(written, found.to_dict() | {"refined_from": str(lines)})
    if json:
        print(strict_json(found.to_dict() | {"refined_from": str(lines), "written": str(written)}))
        return 0
    if found.note:
        print(found.note)
    print(
        f"refined from {found.num_norms} gradient norms ({found.norm}): peak at {found.peak_frac:.0%} of "
        f"{found.steps} steps, then to zero"
    )
    print(chart(found.schedule.values(found.steps)))
    print(f"peak {found.peak_lr:.3g}, as before; try a half and twice of it, since only the shape is refined")
    print(f"\nwritten:  {written}\ntrain:    lrscope train TASK {written} --steps {found.steps}")
    return 0


def find_run(where: Path) -> Path:
    """The run file of a run directory: the planned one, or the only one."""
    if where.is_file():
        return where
    if not where.is_dir():
        raise ValueError(f"--refine: {where} does not exist; give a run directory or its .jsonl file")
    found = sorted([*where.glob("runs/*.jsonl"), *where.glob("*.jsonl")])
    found = [path for path in found if path.name != "trials.jsonl"]
    chosen = [path for path in found if path.name == "planned.jsonl"] or found
    if len(chosen) != 1:
        there = ", ".join(str(p.relative_to(where)) for p in chosen) or "none"
        raise ValueError(f"--refine: {where} must hold one run, found {there}; give the .jsonl file of a run")
    return chosen[0]


def make_plan(task: Task, spec: Any, steps: int, where: Path, progress: Progress, **options: Any) -> Plan:
    """The plan stored in ``where``, or a new one, written there with its trials as they come."""
    import json
    import math

    from lrscope.cli.progress import Stop
    from lrscope.cli.workspace import write_json
    from lrscope.planning import plan
    from lrscope.records import Plan

    stored = where / "plan.json"
    if stored.exists():
        progress.say(f"plan found in {where}, not made again (--fresh makes a new one)")
        return Plan.from_dict(json.loads(stored.read_text(encoding="utf-8")))
    progress.stage("planning")
    best: dict[str, Any] = {}

    def on_trial(row: Any) -> None:
        if row["score"] is not None and row["score"] < best.get("score", math.inf):
            best.update(row)

    def on_progress(text: str, share: float) -> None:
        shown = f"; best so far: peak {best['lr']:.3g}, warmup {best['warmup_frac']:.0%}" if best else ""
        progress.update(share, text + shown)

    with Stop() as stop:
        made = plan(
            task,
            spec,
            steps,
            log=where / "trials.jsonl",
            on_progress=on_progress,
            on_trial=on_trial,
            should_stop=lambda: stop.asked,
            **options,
        )
    write_json(stored, made.to_dict())
    return made


def print_plan(made: Plan) -> None:
    """The plan on stdout, in users' words."""
    from lrscope.reports.sentences import plan_sentences

    for sentence in plan_sentences(made):
        print(sentence)
    print(f"\nschedule: {made.schedule_text}")
    print(f'preview:  lrscope show "{made.schedule_text}" --steps {made.steps}')


def parse_warmups(text: str) -> list[float]:
    """``"0,5%,33%"`` as fractions.

    Raises:
        ValueError: A part is no number or fraction in [0, 1).
    """
    fractions = []
    for part in text.split(","):
        part = part.strip()
        try:
            value = float(part[:-1]) / 100 if part.endswith("%") else float(part)
        except ValueError:
            raise ValueError(f"--warmups: expected fractions such as 0,5%,33%, got {part!r}") from None
        if not 0 <= value < 1:
            raise ValueError(f"--warmups: expected fractions below 1 (100 %), got {part!r}")
        fractions.append(value)
    return sorted(set(fractions))
