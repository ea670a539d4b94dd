"""``lrscope check``: is the learning rate in a checkpoint the one that the schedule says?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lrscope.cli.app import BAD_ANSWER
from lrscope.cli.options import Json, check_steps
from lrscope.records import strict_json
from lrscope.schedules import Horizon, Schedule, parse


def check(
    checkpoint: Annotated[
        Path,
        Parameter(help="A file of torch.save or Lightning, or a checkpoint directory of the Hugging Face Trainer."),
    ],
    *,
    schedule: Annotated[
        str | None, Parameter(help="As for `lrscope show`; default: the one that ScheduledLR stored in it.")
    ] = None,
    steps: Annotated[
        int | None, Parameter(help="Optimizer updates in the whole run; needed with --schedule.")
    ] = None,
    steps_per_epoch: Annotated[int | None, Parameter(help="Updates per epoch, for lengths in epochs.")] = None,
    tokens_per_step: Annotated[float | None, Parameter(help="Tokens per update, for lengths in tokens.")] = None,
    base_lr: Annotated[float | None, Parameter(help="The peak, if the checkpoint does not hold it.")] = None,
    step: Annotated[int | None, Parameter(help="Updates done; default: as the checkpoint counts them.")] = None,
    trust: Annotated[
        bool, Parameter(help="Also read a file that may run code when it is read, if you trust it.", negative=())
    ] = False,
    json: Json = False,
) -> int:
    """Compare the learning rates stored in a checkpoint with those of the schedule, before resuming from it.

    Exit code 3 if a rate is not the schedule's, or if scheduler and optimizer count different updates.
    """
    from lrscope.optimizers.stored import compare, read_rates

    stored = read_rates(checkpoint, trust=trust)
    resolved = _schedule(schedule, steps, steps_per_epoch, tokens_per_step, stored)
    counted = {who: count for who, count in stored.steps.items() if who != "trainer"}
    if step is None:
        if not stored.steps:
            raise ValueError("--step: the checkpoint does not say how many updates were done; give their number")
        step = next(iter(stored.steps.values()))
    elif step < 0:
        raise ValueError(f"--step: expected 0 or more updates, got {step}")
    rows = compare(stored, resolved, step, base_lr)
    same = len(set(counted.values())) <= 1
    good = same and all(row.agrees for row in rows)
    if json:
        print(strict_json(_as_json(rows, stored, resolved, step, good)))
        return 0 if good else BAD_ANSWER
    print(f"after {step} updates the schedule's factor is {resolved(step):.6g}")
    for row in rows:
        name = f"group {row.group.index}" + (f" ({row.group.name})" if row.group.name else "")
        verdict = "as it should be" if row.agrees else f"NOT the schedule's: {row.hint}"
        print(f"  {name}: stored {row.group.lr:.8g}, expected {row.expected:.8g}: {verdict}")
    if not same:
        said = ", ".join(f"the {who} counts {count}" for who, count in counted.items())
        print(f"  updates are counted differently: {said}; was the scheduler stepped once per update?")
    print(
        "resuming continues the schedule" if good else "resuming from this checkpoint does NOT continue the schedule"
    )
    return 0 if good else BAD_ANSWER


def _schedule(
    text: str | None, steps: int | None, per_epoch: int | None, tokens: float | None, stored: Any
) -> Schedule:
    from lrscope.optimizers.stored import stored_schedule

    if text is None:
        found = stored_schedule(stored)
        if found is None:
            raise ValueError(
                "--schedule: the checkpoint holds none (no ScheduledLR was saved in it); give it as text"
            )
        return found
    if steps is None:
        raise ValueError("--steps: a schedule as text needs the length of the run")
    check_steps(steps)
    return parse(text, Horizon(steps, steps_per_epoch=per_epoch, tokens_per_step=tokens))


def _as_json(rows: list[Any], stored: Any, schedule: Schedule, step: int, good: bool) -> dict[str, object]:
    return {
        "good": good,
        "step": step,
        "counted": stored.steps,
        "factor": schedule(step),
        "spec": schedule.to_spec(),
        "groups": [
            {
                "index": row.group.index,
                "name": row.group.name,
                "stored": row.group.lr,
                "expected": row.expected,
                "agrees": row.agrees,
                "hint": row.hint,
            }
            for row in rows
        ],
    }
