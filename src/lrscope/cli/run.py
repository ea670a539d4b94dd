"""``lrscope run``: the main job. Plan, train under watch, compare, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from lrscope.cli.options import Data, Device, Engine, Fresh, Json, Optimizer, Out, Seed, Settings, Steps, TaskName
from lrscope.cli.options import load_task as _load_task
from lrscope.cli.plan import Budget, Warmups
from lrscope.cli.train import WatchEvery

if TYPE_CHECKING:
    from lrscope.records import Plan, Run


def run(
    task: TaskName,
    /,
    *,
    optimizer: Optimizer = "adamw",
    steps: Steps = None,
    budget: Budget = None,
    warmups: Warmups = "0,5%,33%",
    decay: Annotated[Literal["linear", "cosine"], Parameter(help="Shape after the peak, to zero.")] = "linear",
    seeds: Annotated[int, Parameter(help="Seeds on the last rung of trials.")] = 2,
    watch_every: WatchEvery = None,
    compare: Annotated[
        bool, Parameter(help="Also train with the optimizer's default learning rate and with 5 % warmup then cosine.")
    ] = True,
    seed: Seed = 0,
    out: Out = None,
    set_: Settings = None,
    data: Data = None,
    device: Device = "cpu",
    engine: Engine = "auto",
    fresh: Fresh = False,
    json: Json = False,
) -> int:
    """Plan a schedule for TASK, train with it under watch, and explain what happened.

    Writes plan.json, run.json, run.parquet and report.html. Interrupted, the same command goes on where it stopped.
    Exit code 3 if the planned training diverged.
    """
    from lrscope.cli.app import BAD_ANSWER
    from lrscope.cli.failures import working
    from lrscope.cli.plan import make_plan, parse_warmups
    from lrscope.cli.progress import Progress
    from lrscope.cli.train import run_training, summary
    from lrscope.cli.workspace import open_directory
    from lrscope.optimizers import OptimizerSpec
    from lrscope.planning import horizons_for
    from lrscope.records import strict_json
    from lrscope.reports import write_report
    from lrscope.schedules import from_spec

    spec = OptimizerSpec.parse(optimizer)
    fractions = parse_warmups(warmups)
    loaded, length, asked = _load_task(task, set_, data, device, steps, seed)
    options = {"budget": budget, "warmups": fractions, "decay": decay, "num_seeds": seeds}
    config = {
        "command": "run",
        **asked,
        "optimizer": spec.to_spec(),
        **options,
        "watch_every": watch_every,
        "compare": compare,
    }
    # Refuses a budget that is too small before anything is written.
    horizons_for(length, budget, seeds, len(fractions))
    where = open_directory(out, f"{task}-{spec.name}", config, fresh=fresh)
    with working(where), Progress() as progress:
        made = make_plan(loaded, spec, length, where, progress, seed=seed, engine=engine, **options)
        schedules = {"planned": from_spec(made.schedule)}
        schedules |= baselines(spec.default_lr, length) if compare else {}
        runs = {
            name: run_training(
                loaded,
                spec,
                schedule,
                length,
                where,
                name,
                progress,
                seed=seed,
                watch_every=watch_every if name == "planned" else 0,
            )
            for name, schedule in schedules.items()
        }
        progress.stage("writing the report")
        page = write_report(where)
    if json:
        outcome = {name: summary(r) for name, r in runs.items()}
        print(strict_json({"plan": made.to_dict(), "runs": outcome, "report": str(page)}))
    else:
        explain(made, runs)
        print(f"\nreport: {page}")
    return BAD_ANSWER if runs["planned"].status == "diverged" else 0


def baselines(default_lr: float, steps: int) -> dict:
    """What one would run without a plan: the default learning rate held, and 5 % warmup then cosine to zero."""
    from lrscope.planning import recipe, warmup_steps
    from lrscope.schedules import Constant

    return {
        "default": Constant(default_lr, steps),
        "cosine": recipe(default_lr, warmup_steps(0.05, steps), steps, "cosine"),
    }


def explain(made: Plan, runs: dict[str, Run]) -> None:
    """Plan and outcome on stdout, in users' words."""
    from lrscope.cli.plan import print_plan
    from lrscope.reports.sentences import outcome_sentences

    print_plan(made)
    print()
    for sentence in outcome_sentences(runs, made.trials):
        print(sentence)
